"""Control of motion: arithmetic on codes, and head pose in them."""

import types

import jax
import numpy as np
import pytest
import tiny_model

from facecycle_jax import FaceCycle
from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.data.sources import synthetic_renderer
from facecycle_jax.inference import motion_control
from facecycle_jax.inference.motion_control import (
    combine,
    fit_pose_directions,
    motion_key,
    pose_between,
    turn,
)


def codes(count, seed=0, dimension=16):
    values = np.random.default_rng(seed).normal(0, 0.5, (count, dimension))
    return np.tanh(values).astype(np.float32)


@pytest.fixture(scope="module")
def planted():
    """Codes [N, 16] that hold pose along known directions, and something else."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(16), 12)
    poses = rng.normal(0, [15, 8, 6, 5, 5, 8], (len(people), 6))
    directions = rng.normal(0, 0.02, (6, 16))
    identity = rng.normal(0, 0.3, (16, 16))[people]
    noise = rng.normal(0, 0.01, (len(people), 16))
    values = np.tanh(poses @ directions + identity + noise)
    return values.astype(np.float32), poses, people, directions


@pytest.fixture(scope="module")
def directions(planted):
    values, poses, people, _ = planted
    return fit_pose_directions(values, poses, people)


@pytest.fixture(scope="module")
def model():
    return FaceCycle(tiny_model.trees(), model=tiny_model.MODEL)


@pytest.fixture(scope="module")
def faces():
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3))
    return noise.astype(np.uint8)


def test_strength_goes_from_the_source_past_the_driver():
    source = codes(3, 0)
    driver = codes(3, 1)
    np.testing.assert_allclose(combine(source, driver, strength=0), source, atol=1e-6)
    np.testing.assert_allclose(combine(source, driver), driver, atol=1e-6)

    half = combine(source, driver, strength=0.5)
    middle = (np.arctanh(source) + np.arctanh(driver)) / 2
    np.testing.assert_allclose(np.arctanh(half), middle, atol=1e-5)

    # However far, codes stay codes.
    extreme = np.sign(source)
    beyond = combine(source, extreme, strength=1.5)
    assert np.abs(beyond).max() < 1
    assert np.isfinite(beyond).all()
    assert (np.abs(combine(source, driver, strength=1.5) - driver) > 1e-4).any()


def test_relative_motion_is_added_to_the_sources_own():
    source = codes(1, 0)
    frames = codes(4, 1)
    moved = combine(source, frames, reference=frames[:1])
    np.testing.assert_allclose(moved[0], source[0], atol=1e-6)

    change = np.arctanh(moved[2]) - np.arctanh(source[0])
    wanted = np.arctanh(frames[2]) - np.arctanh(frames[0])
    np.testing.assert_allclose(change, wanted, atol=1e-5)


def test_planted_directions_are_found_despite_identity(planted, directions):
    *_, truth = planted
    found = directions.directions
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
    assert ((found * truth).sum(1) / lengths).min() > 0.98
    np.testing.assert_allclose(
        directions.directions @ directions.readout, np.eye(6), atol=1e-4
    )
    assert directions.scores.min() > 0.8


def test_codes_without_pose_have_low_scores(planted):
    _, poses, people, _ = planted
    found = fit_pose_directions(codes(len(people), 5), poses, people)
    assert found.scores.max() < 0.3


def test_a_turn_is_read_back_as_its_angles(directions):
    start = codes(2, 3)
    turned = turn(start, directions, yaw=10, pitch=-5, roll=3)
    read = pose_between(start, turned, directions)
    np.testing.assert_allclose(read, [[10, -5, 3, 0, 0, 0]] * 2, atol=0.02)


def test_pose_alone_and_expression_alone_divide_the_motion(directions):
    source = codes(2, 3)
    driver = codes(2, 4)
    whole = pose_between(source, driver, directions)

    pose = combine(source, driver, only="pose", directions=directions)
    np.testing.assert_allclose(pose_between(source, pose, directions), whole, atol=0.02)
    expression = combine(source, driver, only="expression", directions=directions)
    np.testing.assert_allclose(
        pose_between(source, expression, directions), 0 * whole, atol=0.02
    )

    # Both changes together are the driver's.
    both = np.arctanh(pose) + np.arctanh(expression) - np.arctanh(source)
    np.testing.assert_allclose(np.tanh(both), driver, atol=1e-4)


def test_interpolation_keeps_both_ends():
    first, second = codes(2, 6)
    between = motion_control.interpolate(first, second, 5)
    assert between.shape == (5, 16)
    np.testing.assert_allclose(between[[0, -1]], [first, second], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": -0.1}, "strength must be 0 to 1.5, got -0.1"),
        ({"strength": 1.6}, "strength must be 0 to 1.5, got 1.6"),
        ({"strength": float("nan")}, "strength must be 0 to 1.5, got nan"),
        ({"strength": "a"}, "strength must be one number, got 'a'"),
        ({"strength": [1, [2]]}, "strength must be one number, got a list"),
        ({"strength": None}, "strength must be one number, got None"),
        ({"only": "smile"}, "only must be 'pose' or 'expression', got 'smile'"),
        ({"only": "pose"}, "needs the model's pose_directions"),
        ({"reference": codes(1, 0, 8)}, r"have one length, got \[8, 16\]"),
    ],
)
def test_invalid_options_are_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        combine(codes(1), codes(1), **options)


def test_eyes_are_where_the_renderer_turns_them():
    identity = {
        "eye_spacing": np.array([0.2]),
        "eye_height": np.array([-0.1]),
        "face_width": np.array([0.6]),
        "face_height": np.array([0.8]),
    }
    motion = {"yaw": np.array([20.0]), "pitch": np.array([15.0]), "roll": -10.0}
    eyes = motion_control._eyes_between(identity, motion)[0]

    depth = 0.7 * np.sqrt(1 - (0.2 / 0.6) ** 2 - (0.1 / 0.8) ** 2)
    rotation = np.asarray(
        synthetic_renderer.head_rotation(20.0, 15.0, -10.0), np.float64
    )
    np.testing.assert_allclose(eyes, (rotation @ [0, -0.1, depth])[:2], atol=1e-6)

    # To the right and down, as the angles say.
    assert eyes[0] > 0.1
    assert eyes[1] > -0.1


def test_directions_are_computed_once_and_kept_in_a_file(
    planted, tmp_path, monkeypatch, log
):
    values, poses, people, _ = planted
    calls = []

    def encode(images):
        calls.append(len(images))
        return values

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FACECYCLE_COMPILATION_CACHE", "elsewhere")
    monkeypatch.setattr(motion_control, "_KNOWN", {})
    monkeypatch.setattr(
        motion_control,
        "_faces_of_known_pose",
        lambda framing: (list(values), poses, people),
    )
    stand_in = types.SimpleNamespace(
        motion_key="0123abcd" * 8,
        framing=FRAMING,
        size=64,
        model={"dtype": "float32"},
        motion_code=encode,
    )

    first = motion_control.pose_directions(stand_in)
    assert motion_control.pose_directions(stand_in) is first
    assert len(calls) == 1

    # Another process reads the file.
    motion_control._KNOWN.clear()
    again = motion_control.pose_directions(stand_in)
    assert len(calls) == 1
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)

    # A damaged file is replaced.
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], b"no archive"):
        file.write_bytes(damaged)
        motion_control._KNOWN.clear()
        np.testing.assert_array_equal(
            motion_control.pose_directions(stand_in).readout, first.readout
        )
        assert file.read_bytes() == whole
    assert len(calls) == 4

    # So is one of other arrays.
    with np.load(file) as content:
        arrays = dict(content)
    others = (
        {name: arrays[name] for name in ("directions", "readout")},
        arrays | {"readout": arrays["readout"].T},
        arrays | {"directions": np.float32(0)},
        arrays | {"scores": np.full(6, np.nan, np.float32)},
        arrays | {"scores": np.array(["x"] * 6)},
    )
    for wrong in others:
        np.savez(file, **wrong)
        motion_control._KNOWN.clear()
        motion_control.pose_directions(stand_in)
        assert file.read_bytes() == whole
    assert len(calls) == 9
    assert "damaged" not in log.text.splitlines()[-1]

    # One that cannot be read is not called damaged.
    def denied(path):
        raise PermissionError("denied")

    log.clear()
    motion_control._KNOWN.clear()
    monkeypatch.setattr(motion_control, "read_arrays", denied)
    motion_control.pose_directions(stand_in)
    assert "cannot be read: denied" in log.text
    assert "damaged" not in log.text


def test_models_of_one_encoder_share_directions_of_one_framing_alone(monkeypatch):
    computed = []

    def compute(model, key):
        computed.append(model)
        return model

    monkeypatch.setattr(motion_control, "_KNOWN", {})
    monkeypatch.setattr(motion_control, "_read", lambda key: None)
    monkeypatch.setattr(motion_control, "_compute", compute)

    def found(**changed):
        fields = {"framing": FRAMING, "size": 64, "dtype": "float32"} | changed
        model = types.SimpleNamespace(
            motion_key="0123abcd" * 8,
            framing=fields["framing"],
            size=fields["size"],
            model={"dtype": fields["dtype"]},
        )
        return motion_control.pose_directions(model)

    first = found()
    assert found() is first

    closer = Framing(left_eye=(0.3, 0.4), right_eye=(0.7, 0.4))
    for changed in ({"framing": closer}, {"size": 128}, {"dtype": "bfloat16"}):
        other = found(**changed)
        assert other is not first
        assert found(**changed) is other
    assert len(computed) == 4


def test_the_key_names_the_motion_encoder_alone(model):
    trees = jax.device_get(model.trees)
    stage_1 = {name: trees[name] for name in trees if name != "normaliser"}
    assert motion_key(stage_1) == model.motion_key

    changed = jax.tree.map(np.array, trees)
    leaf = jax.tree.leaves(changed["motion_encoder"])[0]
    leaf.flat[0] += 1e-3
    assert motion_key(changed) != model.motion_key


def test_faces_drawn_from_codes_are_those_drawn_from_images(model, faces):
    prepared = model.prepare(faces[:1])
    driver = model.motion_code(faces[1:])
    drawn = model.express(prepared, driver)
    wanted = model.reexpress(faces[:1], faces[1:])
    assert np.abs(drawn.astype(int) - wanted).max() <= 1

    # Without any of the driver's motion, the face is its own reconstruction.
    own = model.reexpress(faces[:1], faces[1:], strength=0)
    assert np.abs(own.astype(int) - model.reconstruct(faces[:1])).max() <= 1


def test_prepared_faces_keep_the_image_that_a_skip_adds(faces):
    config = {**tiny_model.MODEL, "image_skip": True}
    model = FaceCycle(tiny_model.trees(config), model=config)
    drawn = model.express(model.prepare(faces[:1]), model.motion_code(faces[1:]))
    wanted = model.reexpress(faces[:1], faces[1:])
    assert np.abs(drawn.astype(int) - wanted).max() <= 1


def test_options_of_reexpress_change_what_is_drawn(
    model, faces, directions, monkeypatch
):
    monkeypatch.setattr(motion_control, "pose_directions", lambda model: directions)
    own = model.reexpress(faces[:1], faces[1:], strength=0)
    relative = model.reexpress(faces[:1], faces[1:], relative=True)
    np.testing.assert_array_equal(relative, own)

    prepared = model.prepare(faces[:1])
    codes_of_pose = combine(
        prepared.motion_code,
        model.motion_code(faces[1:]),
        only="pose",
        directions=directions,
    )
    pose = model.reexpress(faces[:1], faces[1:], only="pose")
    np.testing.assert_array_equal(pose, model.express(prepared, codes_of_pose))

    turned = turn(prepared.motion_code, directions, yaw=30)
    np.testing.assert_array_equal(
        model.turn(faces[:1], yaw=30), model.express(prepared, turned)
    )


def test_codes_of_another_length_are_refused(model, faces):
    with pytest.raises(ValueError, match=r"are \[N, 16\], got \[1, 8\]"):
        model.express(faces[:1], np.zeros((1, 8)))
    with pytest.raises(ValueError, match="2 faces and 3 motion codes do not pair"):
        model.express(faces, np.zeros((3, 16)))


def test_faces_are_interpolated(model, faces):
    first, second = faces
    between = model.interpolate(first, second, frames=2, of="motion")
    own = model.express(first, model.motion_code(faces))
    assert np.abs(between.astype(int) - own).max() <= 1

    # Between identities: each end is the person on their own mean face.
    both = model.interpolate(first, second, frames=2)
    assert both.shape == (2, 64, 64, 3)
    assert np.abs(both[0].astype(int) - both[1]).mean() > 0.5
    identity = model.interpolate(first, second, frames=2, of="identity")
    np.testing.assert_array_equal(identity[0], both[0])

    with pytest.raises(ValueError, match="frames must be at least 2, got 1"):
        model.interpolate(first, second, frames=1)
    with pytest.raises(ValueError, match="one image on each side, got 2 and 1"):
        model.interpolate(faces, second)
    with pytest.raises(ValueError, match="of must be"):
        model.interpolate(first, second, of="hair")


def test_a_model_of_stage_1_has_no_identities_to_interpolate(model, faces):
    trees = {n: tree for n, tree in model.trees.items() if n != "normaliser"}
    half = FaceCycle(trees, model=tiny_model.MODEL)
    with pytest.raises(ValueError, match="stage 1 alone; of='both' needs"):
        half.interpolate(faces[0], faces[1], of="both")

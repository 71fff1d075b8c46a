import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data.images import face_crop
from facecycle_jax.data.images.face_crop import NoFaceError, crop_face, find_faces
from facecycle_jax.inference.loading import load

ROOT = pathlib.Path(__file__).parents[3]
SHARED = ROOT / os.environ.get("FACECYCLE_SHARED", "../shared")
IMAGE = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
BOXES = [((150, 40, 190, 80), 0.5), ((10, 10, 40, 40), 2.0), ((90, 30, 120, 60), 0.1)]


def several(image):
    return BOXES


@pytest.mark.parametrize(
    ("which", "index"), [("largest", 0), ("centre", 2), (0, 1), (1, 2), (2, 0)]
)
def test_which_face_is_taken(which, index):
    crop, box, score = crop_face(IMAGE, which=which, margin=0.0, detector=several)
    assert score == BOXES[index][1]
    left, top, right, bottom = box
    wanted = BOXES[index][0]
    np.testing.assert_allclose(box, wanted, atol=1)
    np.testing.assert_array_equal(crop, IMAGE[top:bottom, left:right])


def test_all_faces_are_cut_out_from_left_to_right(monkeypatch):
    monkeypatch.setattr(face_crop, "find_faces", several)
    monkeypatch.setattr(face_crop, "has_landmarks", lambda: False)
    crops = face_crop.crop_faces(IMAGE)
    assert [crop.box for crop in crops] == [
        crop_face(IMAGE, which=place).box for place in range(len(several(IMAGE)))
    ]
    lefts = [crop.box[0] for crop in crops]
    assert lefts == sorted(lefts)

    monkeypatch.setattr(face_crop, "find_faces", lambda image: [])
    with pytest.raises(face_crop.NoFaceError, match="No face was found"):
        face_crop.crop_faces(IMAGE)


def test_crops_are_square_and_reflected_outside_the_image():
    crop, (left, top, right, bottom), _ = crop_face(
        IMAGE, which=0, margin=2.0, detector=several
    )
    assert crop.shape == (90, 90, 3)
    assert right - left == bottom - top == 90
    assert left < 0
    assert top < 0
    np.testing.assert_array_equal(crop[-top:, -left:], IMAGE[:bottom, :right])
    np.testing.assert_array_equal(crop[:-top], crop[-2 * top : -top : -1])
    huge = crop_face(IMAGE, margin=9.0, detector=several).crop
    assert huge.shape == (400, 400, 3)
    away = crop_face(IMAGE, detector=lambda image: [((500, 500, 540, 540), 1.0)]).crop
    assert away.shape[0] == away.shape[1]


def test_a_missing_face_is_reported_in_one_sentence():
    with pytest.raises(
        NoFaceError, match=r"No face was found in the image of 200x100 pixels\."
    ):
        crop_face(IMAGE, detector=lambda image: [])
    with pytest.raises(NoFaceError, match="there is no face 3: faces found are 3"):
        crop_face(IMAGE, which=3, detector=several)
    assert issubclass(NoFaceError, ValueError)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (IMAGE.astype(np.float32), {}, "float32"),
        (IMAGE[..., 0], {}, r"\[100, 200\]"),
        (IMAGE, {"which": "smallest"}, "smallest"),
        (IMAGE, {"which": -1}, "-1"),
        (IMAGE, {"margin": -1.0}, "margin"),
    ],
)
def test_wrong_arguments_are_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        crop_face(image, detector=several, **options)


def test_a_missing_detector_is_named(monkeypatch):
    face_crop._dlib_detector.cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r"facecycle_jax\[face\]"):
        crop_face(IMAGE)


def test_nothing_is_found_where_no_face_is():
    pytest.importorskip("dlib", reason="needs the extra `face`")
    grey = np.full((90, 120, 3), 128, np.uint8)
    assert find_faces(grey) == []
    assert find_faces(grey[:1, :1]) == []
    with pytest.raises(NoFaceError):
        crop_face(grey)


def test_a_known_face_is_found_at_any_size():
    """scikit-image ships an astronaut's portrait."""
    pytest.importorskip("dlib", reason="needs the extra `face`")
    data = pytest.importorskip("skimage.data", reason="needs the extra `eval`")
    portrait = Image.fromarray(data.astronaut())
    middles, sides = [], []
    for factor in (0.3, 1.0, 2.5):
        size = round(512 * factor)
        crop, box, score = crop_face(np.asarray(portrait.resize((size, size))))
        assert crop.shape[0] == crop.shape[1]
        assert score > 0
        middles.append([(box[0] + box[2]) / 2 / factor, (box[1] + box[3]) / 2 / factor])
        sides.append((box[2] - box[0]) / factor)

    np.testing.assert_allclose(middles, np.broadcast_to([224, 110], (3, 2)), atol=25)
    assert max(sides) < 1.35 * min(sides)


@pytest.mark.skipif(
    not (SHARED / "data/tracks").is_dir(), reason="needs the shared images"
)
def test_crops_agree_with_the_training_data():
    pytest.importorskip("dlib", reason="needs the extra `face`")
    overlaps = []
    for path in sorted((SHARED / "data/tracks/youtube").glob("*/*/*.jpg"))[::250]:
        with Image.open(path) as image:
            face = np.asarray(image.convert("RGB").resize((224, 224)))

        frame = np.pad(face, ((150, 150), (150, 150), (0, 0)), mode="edge")
        left, top, right, bottom = crop_face(
            frame, framing=load("facecycle-small").framing
        ).box
        wide = max(0, min(right, 374) - max(left, 150))
        high = max(0, min(bottom, 374) - max(top, 150))
        overlaps.append(
            wide * high / ((right - left) * (bottom - top) + 224**2 - wide * high)
        )

    assert np.median(overlaps) > 0.75
    assert np.mean(np.array(overlaps) > 0.5) > 0.9

"""Disentanglement figures of models and codes with known answers."""

import numpy as np
import pytest

from facecycle_jax.data.labelled.synthetic_sets import (
    synthetic_exchange,
    synthetic_labelled,
    synthetic_one_scene,
)
from facecycle_jax.data.sources.synthetic import MOTION
from facecycle_jax.data.sources.synthetic_truth import UNSEEN
from facecycle_jax.evaluation.probes.code_probes import (
    POSE,
    ProbeSet,
    evaluate_code,
    last_frames,
    last_people,
    predict_motion,
    predict_people,
)
from facecycle_jax.evaluation.probes.disentangle import evaluate_images
from facecycle_jax.evaluation.quantity import Quantity

SIZE = 32


class Still:
    """A model that changes nothing."""

    has_identity = True

    def neutral(self, images):
        return images

    def mean_face(self, images):
        return images

    def translate(self, source, driver):
        pair = np.stack([source, driver], axis=1)
        return dict.fromkeys(
            ("input", "reexpressed", "reidentified", "reidentified_reexpressed"), pair
        )


class Knowing(Still):
    """A model that returns the true answers to the questions of the evaluation."""

    def mean_face(self, images):
        truth = synthetic_one_scene(UNSEEN + 1, scenes=2, people=8, size=SIZE)
        return np.repeat(truth["mean"], 8, axis=0) if len(images) == 16 else images

    def translate(self, source, driver):
        truth = synthetic_exchange(UNSEEN + 2, pairs=len(source), size=SIZE)
        return {
            name: np.stack(np.split(value, 2), axis=1) for name, value in truth.items()
        }


def test_a_model_that_changes_nothing_has_the_figures_of_the_references():
    figures, images = evaluate_images(Still(), seed=0, size=SIZE, people=4)
    neutral = figures["neutral face to the true one"]
    assert neutral.value == neutral.reference > 0
    moved = figures["face with another's motion to the true one"]
    assert moved.value == moved.reference > 0
    assert figures["spread of mean faces over people in one scene"].value > 0.02
    assert set(images) >= {
        "input",
        "neutral",
        "true neutral",
        "other's motion",
        "true, other's motion",
    }


def test_a_model_that_knows_the_truth_has_no_error():
    figures, _ = evaluate_images(Knowing(), seed=0, size=SIZE, people=4)
    for name in (
        "face with another's motion to the true one",
        "identity on another's mean face to the true one",
        "identity on another's mean face, with the other's motion, to the true one",
        "spread of mean faces over people in one scene",
    ):
        assert figures[name].value == pytest.approx(0.0, abs=1e-6)
        assert figures[name].reference > 0


def labels(people=16, frames=9, seed=0):
    rng = np.random.default_rng(seed)
    count = people * frames
    motion = {
        name: rng.normal(mean, deviation, count)
        for name, (mean, deviation) in MOTION.items()
    }
    return ProbeSet(
        np.zeros((count, 1, 1, 3), np.uint8),
        np.repeat(np.arange(people), frames),
        motion,
    )


def test_probes_find_what_codes_contain_and_no_more():
    data = labels()
    who = np.eye(16, dtype=np.float32)[data.identity]
    how = np.stack(list(data.motion.values()), axis=1).astype(np.float32)
    of_who = evaluate_code("who", lambda _: who, data)
    of_how = evaluate_code("how", lambda _: how, data)
    assert of_who["identity from who"].value == 100.0
    assert of_who["identity from who"].reference == 100 / 16
    assert of_how["identity from how"].value < 30.0
    assert of_how["yaw from how"].value < 1.0
    assert of_how["expression from how"].value > 0.99
    # Codes of new people contain nothing about their motion.
    assert of_who["yaw from who"].value > 0.9 * of_who["yaw from who"].reference
    assert of_who["expression from who"].value < 0.1


def test_test_labels_change_no_prediction():
    data = labels()
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(len(data.identity), 12)).astype(np.float32)
    codes[:, :9] += 0.05 * np.stack(list(data.motion.values()), axis=1)
    test = last_frames(data.identity)
    poisoned = np.where(test, (data.identity + 1) % 16, data.identity)
    np.testing.assert_array_equal(
        predict_people(codes, data.identity, test),
        predict_people(codes, poisoned, test),
    )
    test = last_people(data.identity)
    angles = np.stack([data.motion[name] for name in POSE], axis=1)
    before = predict_motion(codes, angles, data.identity, test)
    after = predict_motion(
        codes, np.where(test[:, None], -angles, angles), data.identity, test
    )
    np.testing.assert_array_equal(before, after)
    turned = predict_motion(
        codes, np.where(test[:, None], angles, -angles), data.identity, test
    )
    assert (turned != before).any()


def test_the_last_frames_and_people_are_the_test_set():
    data = labels(people=8, frames=6)
    assert (
        last_frames(data.identity).reshape(8, 6).tolist()
        == [[False] * 4 + [True] * 2] * 8
    )
    assert (
        last_people(data.identity).reshape(8, 6).all(axis=1).tolist()
        == [False] * 6 + [True] * 2
    )


def test_synthetic_sets_combine_people_scenes_and_motion_as_documented():
    exchange = synthetic_exchange(0, pairs=2, size=SIZE)
    assert {value.shape for value in exchange.values()} == {(4, SIZE, SIZE, 3)}
    np.testing.assert_array_equal(
        exchange["partner_neutral"][:2], exchange["neutral"][2:]
    )
    assert (exchange["reexpressed"] != exchange["frames"]).any()
    labelled = synthetic_labelled(0, people=2, frames=3, size=SIZE)
    assert labelled["identity"].tolist() == [0, 0, 0, 1, 1, 1]
    # Each frame has its own background, so corners differ within a person.
    assert len({frame[0, 0].tobytes() for frame in labelled["frames"]}) == 6
    scene = synthetic_one_scene(0, scenes=2, people=3, size=SIZE)
    assert len({frame[0, 0].tobytes() for frame in scene["neutral"][0]}) == 1


def test_a_quantity_needs_a_figure():
    with pytest.raises(ValueError, match="needs a figure"):
        Quantity(None, None).cells()

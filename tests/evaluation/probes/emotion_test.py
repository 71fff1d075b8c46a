"""Emotion protocols, whose parameters and predictions see no test label."""

import dataclasses

import numpy as np
import pytest

from facecycle_jax.data.labelled.images import LabelledImages
from facecycle_jax.evaluation.features import FeatureSet, plain
from facecycle_jax.evaluation.probes.emotion import evaluate_emotion
from facecycle_jax.evaluation.probes.linear import LinearOptions

# Without augmentation, which would mirror left and right.
SHORT = LinearOptions(
    epochs=8, batch=32, learning_rate=1.0, decay_every=4, augment=False
)


def bright(count, seed):
    """Images whose left or right half is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    images = rng.integers(0, 120, (count, 8, 8, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 60
    return LabelledImages(
        images.astype(np.uint8), labels, ("left", "right"), "the test"
    )


def halves(images):
    return images.reshape(len(images), 8, 2, 4, 3).mean((1, 3, 4))


KIND = {
    "halves": plain(lambda p: np.asarray(halves(p / 255)), size=8, encode=halves),
}


@pytest.mark.parametrize("probe", ["linear", "logistic"])
def test_test_labels_change_nothing_fitted(probe):
    train, test = bright(96, 0), bright(64, 1)
    options = {"task": "fer2013", "probe": probe, "options": SHORT}
    before = evaluate_emotion(KIND, train, test, **options)
    after = evaluate_emotion(
        KIND, train, dataclasses.replace(test, labels=1 - test.labels), **options
    )
    assert after.details == before.details
    # The predictions are the same: the rows of the matrix have changed places.
    np.testing.assert_array_equal(
        after.rows["halves"].confusion, before.rows["halves"].confusion[::-1]
    )
    assert before.rows["halves"].accuracy > 0.9
    # The test would notice a leak, because training labels do change the fit.
    leaked = evaluate_emotion(
        KIND, dataclasses.replace(train, labels=1 - train.labels), test, **options
    )
    assert leaked.rows["halves"].accuracy < 0.1


def test_fitted_features_see_training_images_only():
    train, test = bright(40, 0), bright(20, 1)
    seen = []

    def fit(images):
        seen.append(images)
        return lambda others: others.reshape(len(others), -1) / 255.0

    evaluate_emotion(
        {"spy": FeatureSet(fit, 8, needs_fit=True)}, train, test, task="fer2013"
    )
    np.testing.assert_array_equal(seen[0], train.images)


def test_two_test_splits_share_one_probe():
    train, test, other = bright(96, 0), bright(64, 1), bright(32, 2)
    result = evaluate_emotion(
        KIND,
        train,
        test,
        task="fer2013",
        names=("Training", "PublicTest"),
        also={"PrivateTest": other},
    )
    assert list(result.rows) == ["halves", "halves (PrivateTest)"]
    assert result.counts == {"Training": 96, "PublicTest": 64, "PrivateTest": 32}
    assert result.details["halves"] == result.details["halves (PrivateTest)"]
    alone = evaluate_emotion(KIND, train, other, task="fer2013")
    assert result.rows["halves (PrivateTest)"].accuracy == alone.rows["halves"].accuracy

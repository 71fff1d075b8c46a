"""Centred and whitened codes, whose statistics see no image of a test pair."""

import sys

import numpy as np
import pytest
from lfw_files import lfw

from facecycle_jax.data.labelled.lfw_pairs import Pairs, read_lfw_pairs
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.evaluation.baselines import BASELINES
from facecycle_jax.evaluation.features import FeatureSet, plain
from facecycle_jax.evaluation.probes.codes import (
    centred,
    reduced,
    whitened,
    with_adapted,
)
from facecycle_jax.evaluation.probes.pairs import evaluate_pairs


def codes(count=400, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 6)) * [5, 3, 2, 1, 1, 1] + 10).astype(np.float32)


def test_centred_codes_have_mean_zero():
    np.testing.assert_allclose(centred(codes())(codes()).mean(0), 0, atol=1e-4)


def test_whitened_codes_have_unit_variance_in_all_directions():
    pytest.importorskip("sklearn")
    covariance = np.cov(whitened(codes())(codes()).T)
    np.testing.assert_allclose(covariance, np.eye(6), atol=0.2)
    # Two codes determine no covariance, but the result stays bounded.
    assert np.abs(whitened(codes(2))(codes())).max() < 1e4


def test_without_scikit_learn_no_code_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    kind = plain(flat, size=16)
    message = r"Whitened codes need scikit-learn: pip install 'facecycle_jax\[eval\]'"
    with pytest.raises(MissingExtraError, match=message):
        with_adapted("code", kind)
    with pytest.raises(MissingExtraError, match="PCA needs scikit-learn"):
        BASELINES["pca"]({})


def flat(images):
    return images.reshape(len(images), -1).astype(np.float32)


def test_centring_removes_an_offset_of_all_codes(tmp_path):
    pairs = read_lfw_pairs(lfw(tmp_path))

    def offset(images):
        # All cosines are near 1.
        return flat(images) / 255 + 1e5

    rows = evaluate_pairs(
        with_adapted("code", plain(offset, size=16)), None, pairs, task="lfw"
    ).rows
    assert set(rows) == {"code", "code centred", "code whitened"}
    assert rows["code centred"].auc > 0.95
    assert min(rows["code"].thresholds) > 0.999
    assert max(rows["code centred"].thresholds) < 0.9


def spying(seen):
    """Features whose adaptation records its arguments."""

    def adapt(values):
        seen.append({row.tobytes() for row in values})
        return lambda others: others - values.mean(0)

    return {"spy": plain(flat, size=4)._replace(adapt=adapt)}


def test_statistics_see_no_image_of_their_own_fold(tmp_path):
    pairs = read_lfw_pairs(lfw(tmp_path))
    # An image of the first fold is in the second fold, too: neither may use it.
    rows = [*range(len(pairs)), 0]
    shared = pairs.select(np.array(rows))
    shared = Pairs(
        **{**vars(shared), "fold": np.append(pairs.fold, 1).astype(np.int32)}
    )
    seen = []
    evaluate_pairs(spying(seen), None, shared, task="lfw")
    from facecycle_jax.data.labelled.images import load_images

    values = flat(load_images(shared.files, size=4))
    # Statistics are computed once for each fold.
    assert len(seen) == len(np.unique(shared.fold))
    for k, given in enumerate(seen):
        own = shared.fold == k
        used = np.unique(np.concatenate([shared.left[own], shared.right[own]]))
        assert not given & {values[i].tobytes() for i in used}
        assert given


def test_statistics_are_those_of_development_images_alone(tmp_path):
    train = read_lfw_pairs(lfw(tmp_path / "a", seed=1))
    test = read_lfw_pairs(lfw(tmp_path / "b", seed=2))
    seen = []
    result = evaluate_pairs(spying(seen), train, test, task="lfw")
    assert len(seen[0]) == len(train.files)
    flipped = Pairs(**{**vars(test), "same": ~test.same})
    again = evaluate_pairs(spying([]), train, flipped, task="lfw")
    assert again.rows["spy"].thresholds == result.rows["spy"].thresholds
    assert again.rows["spy"].accuracy == pytest.approx(1 - result.rows["spy"].accuracy)


def test_shared_codes_are_computed_once(tmp_path):
    pairs = read_lfw_pairs(lfw(tmp_path))
    calls = []

    def counted(images):
        calls.append(len(images))
        return flat(images)

    kind = FeatureSet(lambda _: counted, 4)
    evaluate_pairs(with_adapted("code", kind), None, pairs, task="lfw")
    assert sum(calls) == len(pairs.files)


def test_reduced_codes_keep_the_directions_of_most_variance():
    pytest.importorskip("sklearn")
    train = codes()
    function = reduced(train, components=2)
    values = function(train)
    assert values.shape == (400, 2)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-3)
    # The first directions are those of the standard deviations 5 and 3.
    np.testing.assert_allclose(values.std(0), [5, 3], rtol=0.1)
    # No more directions than codes span.
    assert reduced(train[:4])(train).shape == (400, 3)
    with pytest.raises(UserError, match="at least two training images, got 1"):
        reduced(train[:1])
    # No directions of rounding alone.
    doubled = np.concatenate([train, train], axis=1)
    assert reduced(doubled)(doubled).shape == (400, train.shape[1])

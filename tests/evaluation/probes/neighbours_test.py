"""Neighbours and maps of codes with known answers."""

import numpy as np
import pytest

from facecycle_jax.evaluation.probes.neighbours import (
    nearest,
    predict_classes,
    predict_values,
    project,
)


def test_neighbours_are_by_cosine_and_never_the_code_itself():
    codes = np.array([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    order, cosines = nearest(codes, np.arange(4), count=2)
    assert order.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert cosines[0, 0] == pytest.approx(1.0, abs=1e-3)
    assert nearest(codes, np.arange(4), count=9)[0].shape == (4, 3)
    with pytest.raises(ValueError, match="at least two finite codes"):
        nearest(codes[:1], np.arange(1), count=1)

    some, of_some = nearest(codes, np.array([2, 0]), count=2)
    np.testing.assert_array_equal(some, order[[2, 0]])
    np.testing.assert_allclose(of_some, cosines[[2, 0]])


def test_maps_keep_the_main_direction_and_the_neighbours():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(12, 5)) * [9, 4, 0.1, 0.1, 0.1]
    places = project(codes)
    assert places.shape == (12, 2)
    assert abs(np.corrcoef(places[:, 0], codes[:, 0])[0, 1]) > 0.9
    groups = np.concatenate([codes * 0.01, codes * 0.01 + 50])
    places = project(groups, method="tsne")
    np.testing.assert_array_equal(places, project(groups, method="tsne"))
    assert nearest_in_plane(places, 12)
    with pytest.raises(ValueError, match="one of pca, tsne, got 'umap'"):
        project(codes, method="umap")
    with pytest.raises(ValueError, match="at least three codes"):
        project(codes[:2])
    same = np.ones((9, 5))
    np.testing.assert_array_equal(project(same), 0)
    with pytest.raises(ValueError, match="all 9 codes are the same"):
        project(same, method="tsne")


def nearest_in_plane(places, half):
    """Returns whether the nearest neighbour of every point is of its own half."""
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(
        len(places)
    )
    return all((i < half) == (j < half) for i, j in enumerate(distance.argmin(1)))


def clusters(seed):
    """Codes around three directions far from the origin, and their numbers."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    directions = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    return 100 + directions[labels] + rng.normal(0, 0.05, (60, 3)), labels


def test_neighbours_vote_by_centred_cosines():
    train, labels = clusters(0)
    codes, true = clusters(1)
    # Around their own origin all these codes have cosines of nearly 1.
    assert predict_classes(train, labels, codes, classes=3).tolist() == true.tolist()

    values = np.stack([labels, 10.0 - labels], axis=1)
    predicted = predict_values(train, values, codes)
    np.testing.assert_allclose(predicted[:, 0], true, atol=0.05)
    np.testing.assert_allclose(predicted.sum(axis=1), 10)


def test_few_training_codes_are_all_neighbours_and_broken_ones_are_refused():
    codes = np.eye(3)
    values = np.arange(3.0)[:, None]
    near = predict_values(codes, values, codes)
    np.testing.assert_allclose(near[:, 0], [0, 1, 2], atol=1e-3)

    with pytest.raises(ValueError, match="finite training codes"):
        predict_values(codes * np.nan, values, codes)
    with pytest.raises(ValueError, match="finite training codes"):
        predict_values(codes[:0], values[:0], codes)

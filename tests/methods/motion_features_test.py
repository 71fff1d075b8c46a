"""Terms that enrich the motion encoder's last map."""

import types

import jax
import jax.numpy as jnp
import numpy as np
from drawn import drawn_state
from flows_alone import images, made

from facecycle_jax.methods import motion_features
from facecycle_jax.ops import gradient_histograms


def left(maps):
    """What maps [N, 4, 4, C], a function of the images, cannot tell."""
    networks = types.SimpleNamespace(feature_map=lambda trees, images: maps(images))
    x = images().reshape(-1, 64, 64, 3)
    key = jax.random.key(0)
    return float(motion_features.histogram_term(networks, None, x, key))


def test_maps_that_hold_the_histograms_leave_nothing():
    mix = jax.random.normal(jax.random.key(0), (64, 80))
    assert left(lambda x: gradient_histograms(x, side=4) @ mix + 3) < 0.02
    # A part of what is mixed leaves a part.
    assert 0.1 < left(lambda x: gradient_histograms(x, side=4) @ mix[:, :8]) < 0.9


def test_maps_that_do_not_differ_leave_everything():
    found = left(lambda x: jnp.ones((len(x), 4, 4, 8)))
    np.testing.assert_allclose(found, 1, atol=1e-5)


def test_parts_are_enlarged_from_inside_the_image():
    # The brightness of a slope tells the place.
    slope = jnp.broadcast_to(jnp.linspace(0, 1, 64)[:, None], (16, 64, 64, 3))
    parts = motion_features._enlarged(jax.random.key(0), slope)
    extent = parts[:, 0, -1, 0] - parts[:, 0, 0, 0]
    assert float(extent.min()) > 0.6
    assert float(extent.max()) < 1
    assert float(jnp.std(parts[:, 0, 0, 0])) > 0.02


def test_flows_are_kept_where_they_start():
    others = dict.fromkeys(("pixel_weight", "ssim_weight", "symmetry_weight"), 0.0)
    method = made(histogram_weight=2.0, keep_weight=5.0, **others)
    params, frozen = drawn_state(method)
    frozen = {f"start_{name}": tree for name, tree in params.items()}
    run = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (total, aux), gradients = run(params, frozen, images(), None)

    # All other terms have weight 0.
    terms = aux.terms
    assert float(terms["kept/flow"]) < 1e-6
    np.testing.assert_allclose(total, 2 * terms["histogram/features"], rtol=1e-4)
    assert 0 < float(terms["histogram/features"]) <= 1
    encoder = gradients["motion_encoder"]
    assert float(jnp.abs(encoder["features"]["conv6_2"]["kernel"]).max()) > 0

    # Other weights give another flow.
    moved = jax.tree.map(lambda leaf: 1.2 * leaf, params)
    (_, aux), _ = run(moved, frozen, images(), None)
    assert float(aux.terms["kept/flow"]) > 1e-3

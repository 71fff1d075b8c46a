"""Terms that teach the flows of turned heads."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawn import drawn_state
from flows_alone import images, made

from facecycle_jax.methods import turned_heads
from facecycle_jax.ops import grid_sample, turned_grid, warp


def test_both_terms_join_and_leave_the_kept_features_without_a_gradient():
    others = dict.fromkeys(("pixel_weight", "ssim_weight", "symmetry_weight"), 0.0)
    method = made(turn_weight=10.0, frontal_weight=5.0, keep_features=True, **others)
    params, frozen = drawn_state(method)
    run = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (total, aux), gradients = run(params, frozen, images(), jax.random.key(1))
    # All other terms have weight 0.
    terms = aux.terms
    assert terms["turned/flow"] > 0
    added = 10 * terms["turned/flow"] + 5 * terms["frontal/flow"]
    np.testing.assert_allclose(total, added, rtol=1e-5)

    encoder = gradients["motion_encoder"]
    assert optax.tree.norm(encoder["features"]) == 0
    assert optax.tree.norm(encoder["hidden"]) > 0
    assert optax.tree.norm(gradients["flow_decoder"]) > 0


def test_a_symmetric_face_is_frontal_already():
    x = images().reshape(-1, 64, 64, 3)
    symmetric = (x + jnp.flip(x, axis=2)) / 2
    # A network that sees the turn in the columns of an image.
    networks = types.SimpleNamespace(
        motion_code=lambda trees, i: jnp.mean(i[:, 16:48], axis=(1, 3)),
        flow=lambda trees, code: (
            0.1 * jnp.tile(code[:, None, ::4, None], (1, 16, 1, 2))
        ),
    )
    code = networks.motion_code(None, symmetric)
    flow = networks.flow(None, code)
    term = turned_heads.frontal_term(networks, None, symmetric, flow)
    assert float(term) < 1e-6


def test_the_best_flow_of_a_turned_face_shows_what_the_frontal_one_shows():
    x = images()[:, 0]
    still = jnp.zeros((len(x), 16, 16, 2))
    # A network whose parameters are its flows.
    networks = types.SimpleNamespace(
        motion_code=lambda trees, images: None, flow=lambda trees, code: trees
    )
    key = jax.random.key(3)
    optimiser = optax.adam(5e-2)

    @jax.jit
    def update(flow, state):
        def loss(flow):
            return turned_heads.turned_term(networks, flow, x, still, still, key)

        value, gradient = jax.value_and_grad(loss)(flow)
        change, state = optimiser.update(gradient, state)
        return optax.apply_updates(flow, change), state, value

    flow, state = still, optimiser.init(still)
    values = []
    for _ in range(50):
        flow, state, value = update(flow, state)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]

    # The same turns, by hand.
    turns = turned_heads._draw_turns(key, len(x))
    grids = jax.vmap(lambda *turn: turned_grid(*turn, size=64))(*turns)
    turned = grid_sample(x, grids, align_corners=True, padding="border")
    face = np.s_[:, 20:50, 24:40]
    before = np.abs(turned - x)[face].mean()
    after = np.abs(warp(turned, flow, clamp=True) - x)[face].mean()
    assert after < 0.6 * before


def test_turns_are_drawn_to_both_sides_within_their_ranges():
    yaw, pitch, magnification = turned_heads._draw_turns(jax.random.key(0), 400)
    assert 5 <= np.abs(yaw).min() < 7
    assert 43 < np.abs(yaw).max() <= 45
    assert 0.4 < (yaw > 0).mean() < 0.6
    assert np.abs(pitch).max() <= 18
    assert (magnification >= 1).all()
    assert (magnification <= np.minimum(1 / np.cos(np.deg2rad(yaw)), 1.18) + 1e-6).all()

"""PCL against the numbers of the published program, at its size of 64 pixels.

Tolerances: 1e-4 relative for maps, logits, losses and statistics; 1e-2 of the norm of a
gradient, 5e-2 for an inner product with noise. The six Adam steps get what the
program's own float64 run differs by: Adam's first steps are signs of gradients, and
small ones flip.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers_reference as reference
import pytest
from drawn import drawn_state

from facecycle_jax import methods
from facecycle_jax.configs import pcl as pcl_config
from facecycle_jax.devices import batch_sharding, make_mesh, replicated
from facecycle_jax.losses import (
    contrastive_logits,
    contrastive_logits_of_sets,
    info_nce,
    orthogonality,
)
from facecycle_jax.methods.pcl import (
    Mixing,
    PclOptions,
    PclViews,
    count_losses,
    dynamic_weights,
    fresh_weights,
    pcl,
    pcl_face_logits,
    pcl_pose_logits,
    pcl_reconstruction,
)
from facecycle_jax.networks import build_pcl
from facecycle_jax.training.optimiser import adam_by_network

NETWORKS = build_pcl()
USED = {
    objective.name: objective.networks
    for objective in pcl(NETWORKS, PclOptions()).objectives
}
TEMPERATURE = 0.07


def unit(key):
    stored = reference.numbers("pcl")[key]
    return jnp.asarray(stored, jnp.float32) / np.float32(255)


def in_items(x):
    """Turns [views, items, ...] into [items, views, ...]."""
    return x.swapaxes(0, 1)


def reconstruct(params, stats):
    noise = jnp.float32(0.4) * reference.numbers("pcl")["inputs/recon_noise"].astype(
        np.float32
    )
    found, stats = pcl_reconstruction(
        NETWORKS,
        params,
        stats,
        unit("inputs/recon_u8"),
        (noise[0], noise[1]),
        train=True,
    )
    return sum(found.terms.values()), (found, stats)


def mixing(name):
    stored = reference.numbers("pcl")
    return Mixing(
        jnp.asarray(stored[f"inputs/{name}_beta"]),
        jnp.asarray(stored[f"inputs/{name}_perm"]),
    )


def contrast_faces(params, stats):
    views = in_items(unit("inputs/exp_views_u8"))
    logits, stats = pcl_face_logits(
        NETWORKS,
        params,
        stats,
        views,
        mixing("exp"),
        temperature=TEMPERATURE,
        train=True,
    )
    return jnp.mean(info_nce(logits)), (logits, stats)


def contrast_poses(params, stats, grouping="published"):
    logits, stats = pcl_pose_logits(
        NETWORKS,
        params,
        stats,
        in_items(unit("inputs/pose_views_u8")),
        in_items(unit("inputs/pose_neg_u8")),
        mixing("pose"),
        temperature=TEMPERATURE,
        grouping=grouping,
        train=True,
    )
    return jnp.mean(info_nce(logits)), (logits, stats)


# In the order of the published program.
TERMS = (
    "l1/face_of_mirrored",
    "l1/pose_of_mirrored",
    "l1/own",
    "l1/own_of_mirrored",
    "orthogonality/own",
    "orthogonality/of_mirrored",
)
STEPS = {
    "recon": reconstruct,
    "exp": contrast_faces,
    "pose_original": contrast_poses,
    "pose_intended": functools.partial(contrast_poses, grouping="own"),
}
# The network names of each step.
OBJECTIVES = {
    "recon": "reconstruction",
    "exp": "face",
    "pose_original": "pose",
    "pose_intended": "pose",
}


@functools.cache
def compiled(step):
    return jax.jit(jax.value_and_grad(STEPS[step], has_aux=True))


@functools.cache
def ran(step):
    """Loss, what else it reports, and gradients of one step at the recipe's weights."""
    (total, aux), grads = compiled(step)(*reference.trees("pcl"))
    return float(total), aux, grads


def close(ours, theirs):
    np.testing.assert_allclose(
        ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max()
    )


def test_reconstruction_agrees_with_reference():
    stored = reference.numbers("pcl")
    total, (found, _), _ = ran("recon")
    np.testing.assert_allclose(total, stored["recon/loss"], rtol=1e-4)
    ours = [float(found.terms[name]) for name in TERMS]
    np.testing.assert_allclose(ours, stored["recon/terms"], rtol=1e-4)
    close(found.trunk[0], stored["recon/trunk_x"])
    close(found.face[0], stored["recon/exp_x"])
    close(found.pose[0], stored["recon/pose_x"])
    for name, key in {
        "face_x_pose_f": "D_ex_pf",
        "face_f_pose_x": "D_ef_px",
        "face_x_pose_x": "D_ex_px",
        "face_f_pose_f": "D_ef_pf",
    }.items():
        reference.check_map(found.decoded[name], f"recon/{key}", stored, atol=2e-4)


@pytest.mark.parametrize("step", ["exp", "pose_original", "pose_intended"])
def test_contrasts_agree_with_reference(step):
    stored = reference.numbers("pcl")
    total, (logits, _), _ = ran(step)
    np.testing.assert_allclose(total, stored[f"{step}/loss"], rtol=1e-4)
    close(logits, stored[f"{step}/logits"])
    first = 100 * np.mean(np.argmax(logits, axis=1) == 0)
    np.testing.assert_allclose(first, stored[f"{step}/acc1_acc5"][0], rtol=1e-5)


@pytest.mark.parametrize("step", ["recon", "exp", "pose_original"])
def test_running_statistics_agree_with_reference(step):
    _, (_, stats), _ = ran(step)
    stored = reference.numbers("pcl")
    reference.check_statistics(
        "pcl", stats, stored, f"{step}/bn_after_forward", rtol=1e-4
    )


@pytest.mark.parametrize("step", list(STEPS))
def test_gradients_agree_with_reference(step):
    _, _, grads = ran(step)
    reference.check_tensors(
        "pcl",
        reference.named("pcl", grads),
        reference.numbers("pcl"),
        f"{step}/grad",
        l2=1e-2,
        probe=5e-2,
    )


@pytest.mark.parametrize("step", list(STEPS))
def test_a_step_has_gradients_for_the_networks_it_names(step):
    _, _, grads = ran(step)
    moved = {
        name
        for name, tree in grads.items()
        if any(np.any(x) for x in jax.tree.leaves(tree))
    }
    assert moved == set(USED[OBJECTIVES[step]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adam_zeroed", "adam_none"])
def test_six_adam_steps_agree_with_reference(kind):
    stored = reference.numbers("pcl")
    start, stats = reference.trees("pcl")
    params = start
    optimiser = adam_by_network(
        lambda count: 1e-4,
        b1=0.9,
        b2=0.999,
        weight_decay=1e-3,
        skip_unused=kind == "adam_none",
    )
    opt_state = optimiser.init(params)

    @functools.partial(jax.jit, static_argnums=3)
    def update(grads, opt_state, params, networks):
        updates, opt_state = optimiser.update(
            grads, opt_state, params, networks=networks
        )
        return optax.apply_updates(params, updates), opt_state

    losses, rounds = [], []
    for _ in range(2):
        for step in ("recon", "exp", "pose_original"):
            (total, (_, stats)), grads = compiled(step)(params, stats)
            params, opt_state = update(grads, opt_state, params, USED[OBJECTIVES[step]])
            losses.append(float(total))
        rounds.append(params)
    # Adam turns the rounding of tiny gradients into whole steps, so the second round
    # differs by up to 1.6 % between processors.
    errors = np.abs(losses / stored[f"{kind}/losses"] - 1)
    assert (errors <= [1e-5, 2e-4, 5e-3, 2e-2, 2e-2, 5e-2]).all(), errors

    # Norms of what moved; single entries with tiny gradients flip.
    for number, values in enumerate(rounds, start=1):
        changes = jax.tree.map(
            lambda a, b: np.float64(a) - np.float64(b), values, start
        )
        ours = reference.named("pcl", changes)
        names = stored[f"{kind}/round{number}/delta_names"]
        for name, norm in zip(
            names, stored[f"{kind}/round{number}/delta_l2"], strict=True
        ):
            if ours[name].ndim > 1:
                # They flip more often in the second round.
                np.testing.assert_allclose(
                    np.linalg.norm(ours[name]), norm, rtol=5e-2 * number, err_msg=name
                )


def test_adam_counts_the_steps_of_every_network():
    stored = reference.numbers("pcl")
    with jax.enable_x64(True):
        optimiser = adam_by_network(
            lambda count: 1e-4, b1=0.9, b2=0.999, weight_decay=1e-3, skip_unused=False
        )
        params = {
            "a": jnp.asarray(stored["adam_unit/a0"]),
            "b": jnp.asarray(stored["adam_unit/b0"]),
        }
        state = optimiser.init(params)
        for step in range(5):
            grads = {name: stored[f"adam_unit/grad_{name}"][step] for name in params}
            # What has no gradient yet stands as nan in the reference.
            used = tuple(name for name in params if np.isfinite(grads[name]).all())
            grads = {
                name: jnp.nan_to_num(jnp.asarray(grad)) for name, grad in grads.items()
            }
            updates, state = optimiser.update(grads, state, params, networks=used)
            params = optax.apply_updates(params, updates)
            for name, value in params.items():
                np.testing.assert_allclose(
                    value, stored[f"adam_unit/{name}_after"][step], rtol=1e-12
                )


def test_features_of_evaluation_agree_with_reference():
    stored = reference.numbers("pcl")
    params, _ = reference.trees("pcl")
    trunk = jax.jit(NETWORKS.trunk.apply)
    maps = trunk({"params": params["trunk"]}, unit("inputs/eval100_u8"))
    close(maps, stored["eval100/feature"])


@pytest.mark.parametrize("grouping", ["published", "own"])
def test_groups_of_pose_negatives_are_those_of_the_published_program(
    monkeypatch, grouping
):
    """At the published size: which image each anchor's negatives are of."""
    items, views = 10, 100
    module = importlib.import_module("facecycle_jax.methods.pcl")
    found = []

    def noted(positive, sets, **options):
        found.append(sets)
        return contrastive_logits_of_sets(positive, sets, **options)

    # Each image is the number of its person and that of its view, and is not encoded.
    monkeypatch.setattr(module, "contrastive_logits_of_sets", noted)
    monkeypatch.setattr(module, "_head", lambda networks, name, trees, images: images)
    monkeypatch.setattr(
        module,
        "apply_with_stats",
        lambda network, name, trees, stats, x, *, train: (x, stats),
    )
    numbers = np.stack(np.mgrid[:items, :views], axis=-1).astype(np.float32)
    negatives = numbers[:, :, None, None]
    pcl_pose_logits(
        NETWORKS,
        {},
        {},
        negatives[:, :2],
        negatives,
        None,
        temperature=TEMPERATURE,
        grouping=grouping,
        train=True,
    )

    (sets,) = found
    if grouping == "own":
        np.testing.assert_array_equal(sets, numbers)
        return
    stored = reference.numbers("pcl")
    for place, name in enumerate(("image", "view")):
        expected = stored[f"groups_10x100/original_{name}"]
        np.testing.assert_array_equal(sets[..., place], expected)


def test_dynamic_weights_are_those_of_the_published_program():
    stored = reference.numbers("pcl")
    state = fresh_weights()
    for epoch, expected in enumerate(stored["dwa/weights"][1:], start=1):
        np.testing.assert_allclose(dynamic_weights(state), expected, rtol=1e-5)
        if epoch < len(stored["dwa/epoch_losses"]):
            losses = jnp.asarray(stored["dwa/epoch_losses"][epoch])
            # An epoch of two steps, each in two parts, as an update has them.
            for share in (0.5, 1.5):
                for place in (0, 1):
                    part = jnp.zeros(2).at[place].set(share * losses[place])
                    state = count_losses(
                        state, part, ends_step=place == 1, epoch_steps=2
                    )


def test_mixed_logits_are_those_of_negatives_mixed_one_by_one():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 5)).astype(np.float32)
    share, permutation = rng.random((6, 4)).astype(np.float32), rng.permutation(4)
    expected = np.zeros((6, 5))
    for row in range(6):
        partner = (row + 3) % 6
        others = np.stack([x[i] for i in range(6) if i not in (row, partner)])
        mixed = (
            share[row][:, None] * others
            + (1 - share[row][:, None]) * others[permutation]
        )
        for place, other in enumerate([x[partner], *mixed]):
            cosine = x[row] @ other / np.linalg.norm(x[row]) / np.linalg.norm(other)
            expected[row, place] = cosine / 0.5
    found = contrastive_logits(x, temperature=0.5, mix=share, permutation=permutation)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    plain = contrastive_logits(
        x, temperature=0.5, mix=jnp.ones((6, 4)), permutation=permutation
    )
    np.testing.assert_allclose(contrastive_logits(x, temperature=0.5), plain, rtol=1e-5)


def test_sets_of_negatives_belong_to_both_views_of_an_item():
    rng = np.random.default_rng(0)
    x, negatives = rng.standard_normal((4, 5)), rng.standard_normal((2, 3, 5))
    found = contrastive_logits_of_sets(
        jnp.asarray(x), jnp.asarray(negatives), temperature=1.0
    )
    for row in range(4):
        for place, other in enumerate([x[(row + 2) % 4], *negatives[row % 2]]):
            cosine = x[row] @ other / np.linalg.norm(x[row]) / np.linalg.norm(other)
            np.testing.assert_allclose(found[row, place], cosine, rtol=1e-4)


def test_orthogonality_is_the_mean_square_of_the_product():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 9)).astype(np.float32)

    def rows(x):
        x = x - x.mean(axis=0)
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)

    expected = np.mean((rows(a).T @ rows(b)) ** 2)
    np.testing.assert_allclose(orthogonality(a, b), expected, rtol=1e-5)


def test_each_device_computes_its_share_of_pose_negatives():
    """Three poses with 20 negatives each, in a batch of 16."""
    config = pcl_config.get_config("small")
    config.model.width = 0.03125
    config.batch_size = 16
    config.augment.pose_items = 3
    config.augment.pose_negatives = 20
    method = methods.make(config.to_dict())
    state = jax.eval_shape(method.init, jax.random.key(0))
    batch = {"frames": jax.ShapeDtypeStruct((16, 3, 64, 64, 3), jnp.uint8)}

    def loss(params, frozen, batch):
        key = jax.random.key(0)
        views = method.views.augment(key, batch)
        return method.gradient_steps[-1].loss(params, frozen, views, key)[0]

    def flops(devices):
        mesh = make_mesh(jax.devices()[:devices])
        same = replicated(mesh)
        compiled = jax.jit(
            loss, in_shardings=(same, same, batch_sharding(mesh)), out_shardings=same
        )
        return compiled.lower(*state, batch).compile().cost_analysis()["flops"]

    assert flops(4) < 0.35 * flops(1)


def test_negatives_that_are_spread_over_a_batch_are_those_of_each_pose():
    """In a batch of 4, 2 poses of 3 negatives leave 2 places of the 8 unused."""
    networks = build_pcl(width=0.0625)
    params, frozen = drawn_state(pcl(networks, PclOptions()))
    x = jax.random.uniform(jax.random.key(1), (2, 3, 64, 64, 3))
    rest = jnp.full((2, 64, 64, 3), jnp.nan)
    spread = jnp.concatenate([x.reshape(6, 64, 64, 3), rest]).reshape(4, 2, 64, 64, 3)

    @functools.partial(jax.jit, static_argnums=1)
    def logits(negatives, count):
        return pcl_pose_logits(
            networks,
            params,
            frozen["batch_stats"],
            x[:, :2],
            negatives,
            None,
            temperature=TEMPERATURE,
            grouping="own",
            count=count,
            train=True,
        )

    for found, expected in zip(
        jax.tree.leaves(logits(spread, 3)),
        jax.tree.leaves(logits(x, None)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_update_is_three_gradient_steps_whose_sum_is_the_loss():
    method = pcl(build_pcl(width=0.0625), PclOptions(epoch_steps=2))
    params, frozen = drawn_state(method)
    x = jax.random.uniform(jax.random.key(1), (4, 3, 64, 64, 3))
    views = PclViews(x[:, 0], x[:, 1:], x[:2, :2], jnp.flip(x[:2], axis=3))
    total, aux = jax.jit(method.loss)(params, frozen, views, None)
    assert [step.name for step in method.gradient_steps] == [
        "reconstruction",
        "face",
        "pose",
    ]
    parts = [aux.terms[f"{step.name}/total"] for step in method.gradient_steps]
    np.testing.assert_allclose(total, sum(parts), rtol=1e-6)
    assert not aux.carried

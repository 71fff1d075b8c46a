"""The loss functions against the reference numbers, plain formulas and their bounds."""

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax import losses
from facecycle_jax.networks import make_face_networks
from facecycle_jax.ops import normalise


@pytest.fixture(scope="module")
def images():
    return normalise(jnp.asarray(reference.golden()["images_u8"]))


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_single_losses_agree_with_reference(images):
    numbers, x0, x1 = reference.golden(), images[:2], images[2:]
    ours = {
        "ssim_pair": losses.ssim_loss(x0, x1).mean(),
        "symmetry": losses.symmetry(images).mean(),
        "margin": losses.margin(x0, x1).mean(),
    }
    model = {
        "width": 1.0,
        "image_size": 64,
        "code_dim": 256,
        "dtype": "float32",
        "trunk": "vgg",
    }
    maps = make_face_networks(model).loss_features({"vgg": reference.vgg()}, images)[
        "conv3_1"
    ]
    ours["gram_r31"] = losses.gram_loss(maps[:2], maps[2:]).mean()
    for name, value in ours.items():
        np.testing.assert_allclose(
            value, numbers[f"loss/{name}"], rtol=1e-4, err_msg=name
        )


def test_losses_are_per_example_and_zero_for_equal_images():
    a = random(3, 8, 8, 4)
    for value in (losses.l1(a, a), losses.ssim_loss(a, a), losses.feature_loss(a, a)):
        assert value.shape == (3,)
        np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(losses.gram_loss(a, a), 0.0, atol=1e-6)
    mirrored = jnp.concatenate([a, jnp.flip(a, -2)], axis=-2)
    np.testing.assert_allclose(losses.symmetry(mirrored), 0.0, atol=1e-6)


def test_saturation_is_the_cost_of_the_argument_of_tanh():
    argument = np.array([[0.0, 0.0], [0.5, -0.5], [1.0, -3.0], [4.0, 4.0]], np.float32)
    cost = losses.saturation(jnp.tanh(argument))
    np.testing.assert_allclose(cost, np.mean(argument**2, axis=-1), rtol=1e-3)
    # Its gradient by the argument grows where that of the code itself has vanished.
    slope = jax.grad(lambda a: jnp.sum(losses.saturation(jnp.tanh(a))))(argument)
    np.testing.assert_allclose(slope, argument, rtol=2e-2)
    # Codes that are -1 and 1 to the last bit give a number, and no NaN backwards.
    value, slope = jax.value_and_grad(
        lambda a: jnp.sum(losses.saturation(jnp.tanh(a)))
    )(np.full(3, 50, np.float32))
    assert 40 < value < 70
    assert np.isfinite(slope).all()


def test_bending_is_zero_for_even_changes_and_counts_places_that_stand_out():
    grid = np.stack(
        np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 5)), axis=-1
    ).astype(np.float32)
    shear = grid @ np.array([[0.3, -0.2], [0.1, 0.4]], np.float32) + 0.05
    np.testing.assert_allclose(losses.bending(np.stack([shear])), [0.0], atol=1e-9)

    # One place of 9, two distances to the right. Its row of 7 second differences along
    # x has 2, -4 and 2; its column of 3 along y has -4, 2 or both sides of it.
    flow = np.zeros((5, 9, 2), np.float32)
    flow[2, 4, 0] = 2 * 2 / 8
    along_x = (4 + 16 + 4) / (5 * 7)
    along_y = (4 + 16 + 4) / (3 * 9)
    np.testing.assert_allclose(losses.bending(flow), along_x + along_y, rtol=1e-5)


def test_fine_detail_is_that_of_a_pixel_or_two():
    even = np.ones((2, 6, 6, 3), np.float32) * random(2, 1, 1, 3)
    np.testing.assert_allclose(losses.fine_detail(even), [0.0, 0.0], atol=1e-6)

    # Of stripes one pixel wide, smoothing leaves their mean, but for the edges.
    stripes = np.zeros((1, 8, 8, 1), np.float32)
    stripes[:, :, ::2] = 1.0
    expected = (6 * 0.5 + 2 * 0.25) / 8
    np.testing.assert_allclose(losses.fine_detail(stripes), [expected], rtol=1e-6)


def test_mean_flow_is_zero_for_flows_that_cancel():
    flow = 0.1 * random(3, 5, 9, 2)
    both = jnp.concatenate([flow, -flow])
    np.testing.assert_allclose(losses.mean_flow(both), 0.0, atol=1e-9)

    # A shift of all by three distances along x.
    shift = jnp.zeros((2, 5, 9, 2)).at[..., 0].set(3 * 2 / 8)
    np.testing.assert_allclose(losses.mean_flow(shift), 9.0, rtol=1e-6)


def test_folding_measures_neighbours_that_change_places():
    grid = np.stack(
        np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 5)), axis=-1
    ).astype(np.float32)
    np.testing.assert_array_equal(
        losses.folding(np.zeros((3, 5, 9, 2), np.float32)), np.zeros(3)
    )
    np.testing.assert_allclose(
        losses.folding(-0.9 * grid), 0, atol=1e-6
    )  # shrunk, in order
    np.testing.assert_allclose(losses.folding(3 * grid), 0, atol=1e-6)
    np.testing.assert_allclose(
        losses.folding(grid * (-2, 0)), 1, atol=1e-6
    )  # mirrored left to right
    np.testing.assert_allclose(losses.folding(grid * (-2, -2)), 2, atol=1e-6)
    # The right half mirrored alone: half of the neighbours.
    half = np.where(grid[..., :1] > 0, grid * (-2, 0), 0)
    np.testing.assert_allclose(losses.folding(half), 0.5, atol=1e-6)


def test_symmetry_leaves_out_the_middle_column():
    a = random(2, 4, 3, 1)
    changed = a.at[:, :, 1].add(5.0)
    np.testing.assert_allclose(losses.symmetry(a), losses.symmetry(changed))


def test_gram_matrix_is_that_of_the_formula():
    a = np.asarray(random(2, 3, 5, 4))
    flat = a.reshape(2, 15, 4)
    expected = np.stack([f.T @ f / 15 for f in flat])
    np.testing.assert_allclose(losses.gram_matrix(a), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        losses.gram_matrix(a, divide_by_channels=True),
        expected / 4,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 3, 2, 3, 40)])
@pytest.mark.parametrize("divide", [False, True])
def test_gram_loss_is_that_of_the_matrices_however_it_is_computed(shape, divide):
    """The second shape has few pixels for its channels, and is compared by them."""
    features, target = random(*shape), random(*shape[:1], 1, *shape[2:], seed=1)

    def plainly(features):
        def matrix(x):
            flat = x.reshape(*x.shape[:2], -1, shape[-1])
            product = jnp.swapaxes(flat, -1, -2) @ flat
            return product / (flat.shape[-2] * (shape[-1] if divide else 1))

        return jnp.mean((matrix(features) - matrix(target)) ** 2, axis=(-2, -1))

    def ours(features):
        return losses.gram_loss(features, target, divide_by_channels=divide)

    assert ours(features).shape == shape[:2]
    np.testing.assert_allclose(ours(features), plainly(features), rtol=1e-5)
    weights = random(*shape[:2], seed=2)
    found, expected = (
        jax.grad(lambda x, f=f: jnp.sum(weights * f(x)))(features)
        for f in (ours, plainly)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Forward mode too, and maps that are close to each other, whose matrices nearly
    # cancel.
    change = random(*shape, seed=3)
    found, expected = (jax.jvp(f, (features,), (change,))[1] for f in (ours, plainly))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    near = target + 1e-3 * features
    np.testing.assert_allclose(ours(near), plainly(near), rtol=2e-2)


def test_gram_loss_of_bfloat16_maps_is_close():
    for size in ((1, 2, 3, 64), (1, 8, 8, 16)):
        features, target = random(*size), random(*size, seed=1)
        low = [x.astype(jnp.bfloat16) for x in (features, target)]
        assert losses.gram_loss(*low).dtype == jnp.float32
        np.testing.assert_allclose(
            losses.gram_loss(*low), losses.gram_loss(features, target), rtol=0.03
        )
        found, expected = (
            jax.grad(lambda f, t: losses.gram_loss(f, t).sum())(*maps)
            for maps in (low, (features, target))
        )
        assert found.dtype == jnp.bfloat16
        error = np.linalg.norm(
            np.asarray(found, np.float32) - expected
        ) / np.linalg.norm(expected)
        assert error < 0.02


def test_gram_ignores_places_and_feature_loss_does_not():
    a = random(1, 4, 4, 3)
    shuffled = a.reshape(1, 16, 3)[:, ::-1].reshape(a.shape)
    np.testing.assert_allclose(losses.gram_loss(a, shuffled), 0.0, atol=1e-6)
    assert float(losses.feature_loss(a, shuffled)[0]) > 0.1


def test_targets_get_no_gradient():
    a, b = random(1, 4, 4, 3), random(1, 4, 4, 3, seed=1)
    gradient = jax.grad(lambda t: losses.gram_loss(a, t).sum())(b)
    np.testing.assert_array_equal(gradient, 0.0)
    np.testing.assert_array_equal(
        jax.grad(lambda t: losses.feature_loss(a, t).sum())(b), 0.0
    )


def test_margin_cuts_small_differences_only_with_the_hinge():
    a = jnp.zeros((1, 2, 2, 3))
    np.testing.assert_allclose(losses.margin(a, a), -0.1, rtol=1e-6)
    np.testing.assert_allclose(losses.margin(a, a, hinge=True), 0.0)
    np.testing.assert_allclose(losses.margin(a, a + 0.5, hinge=True), 0.4, rtol=1e-6)
    gradient = jax.grad(lambda x: losses.margin(x, a + 0.05, hinge=True).sum())(a)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("mix", [None, 0.5])
def test_projections_of_zero_have_finite_gradients(mix):
    projections = random(6, 4).at[jnp.array([1, 4])].set(0.0)
    options = {"temperature": 0.1}
    if mix is not None:
        options |= {"mix": jnp.full((6, 4), mix), "permutation": jnp.arange(4)[::-1]}

    def total(x):
        return losses.info_nce(losses.contrastive_logits(x, **options)).sum()

    assert np.isfinite(jax.grad(total)(projections)).all()


def test_a_contrast_whose_projections_collapse_has_no_accuracy():
    same = losses.contrastive_logits(jnp.ones((6, 4)), temperature=1.0)
    np.testing.assert_array_equal(losses.contrast_accuracy(same), np.zeros(6))

    rows = jnp.array([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(losses.contrast_accuracy(rows), [1, 0, 0])

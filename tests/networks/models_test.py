"""Shapes, parameter counts, initial weights, noise and precision of the networks."""

import functools
import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from facecycle_jax.networks import (
    LAYERS,
    TRUNK_TAPS,
    VGG19,
    build_modules,
    random_vgg,
    read_vgg_npz,
)
from facecycle_jax.networks.face_networks import (
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.networks.generator import NoiseEncoding
from facecycle_jax.networks.normaliser import IMAGE_SCALE
from facecycle_jax.ops import warp

TINY = {
    "width": 1 / 16,
    "image_size": 64,
    "code_dim": 16,
    "dtype": "float32",
    "trunk": "learned",
}


def count(tree):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def images(n=2, size=64, seed=0):
    return jnp.asarray(
        np.random.default_rng(seed).standard_normal((n, size, size, 3)), jnp.float32
    )


@pytest.fixture(scope="module")
def tiny():
    networks = make_face_networks(TINY, vgg_width=1 / 16)
    trees = drawn(
        lambda key: {
            **init_motion(networks, key),
            **init_identity(networks, key),
            "vgg": random_vgg(width=1 / 16),
        }
    )
    return networks, trees


def test_parameter_counts_are_the_papers():
    networks = make_face_networks(
        {**TINY, "width": 1.0, "code_dim": 256, "trunk": "vgg"}
    )
    trees = jax.eval_shape(
        lambda key: {**init_motion(networks, key), **init_identity(networks, key)},
        jax.random.key(0),
    )
    millions = {name: round(count(tree) / 1e6, 2) for name, tree in trees.items()}
    assert millions == {
        "motion_encoder": 4.24,
        "flow_decoder": 3.0,
        "generator": 12.85,
        "identity_encoder": 4.24,
        "normaliser": 9.46,
    }
    trunk = jax.eval_shape(
        lambda: VGG19("conv3_1").init(jax.random.key(0), images(1), taps=TRUNK_TAPS)[
            "params"
        ]
    )
    assert round(count(trunk) / 1e6, 2) == 0.56


@pytest.mark.parametrize("size", [64, 128, 256])
def test_codes_and_flows_have_their_shapes_at_every_image_size(size):
    networks = make_face_networks({**TINY, "image_size": size}, vgg_width=1 / 16)
    trees = jax.eval_shape(lambda key: init_motion(networks, key), jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)

    def cycle(trees, x):
        code, flow, back = networks.motion(trees, x)
        features = networks.features(trees, x)
        image = networks.generate(trees, features, flow)
        return code, flow, back, image

    shapes = [s.shape for s in jax.eval_shape(cycle, trees, x)]
    flow = (2, size // 4, size // 4, 2)
    assert shapes == [(2, 16), flow, flow, (2, size, size, 3)]
    # The dense layers see a 4x4 map at every size.
    assert trees["motion_encoder"]["hidden"]["kernel"].shape[0] == 16 * 8


def test_feature_map_at_100_pixels_is_the_papers():
    modules = build_modules()
    variables = jax.eval_shape(modules.encoder.init, jax.random.key(0), images(1))
    shape = jax.eval_shape(
        lambda v, x: modules.encoder.apply(v, x, method="feature_map"),
        variables,
        images(2, 100),
    ).shape
    assert shape == (2, 7, 7, 128)


def test_maps_of_every_layer_can_be_read():
    modules = build_modules(width=0.0625)
    variables = drawn(lambda key: modules.encoder.init(key, images(1)))

    def read(layer, x):
        return modules.encoder.apply(variables, x, method="feature_map", layer=layer)

    shapes = {
        layer: jax.eval_shape(lambda x, y=layer: read(y, x), images(2, 100)).shape[1:]
        for layer in LAYERS
    }
    assert shapes == {
        "conv1_2": (50, 50, 4),
        "conv2_2": (50, 50, 4),
        "conv3_2": (25, 25, 8),
        "residual2": (25, 25, 8),
        "conv4_2": (13, 13, 8),
        "conv5_2": (7, 7, 16),
        "conv6_2": (7, 7, 8),
    }

    # The layers' outputs as flax itself sees them.
    x = images(2)
    _, seen = modules.encoder.apply(variables, x, capture_intermediates=True)
    inside = seen["intermediates"]["features"]
    np.testing.assert_array_equal(
        read("residual2", x), inside["residual2"]["__call__"][0]
    )
    np.testing.assert_array_equal(read("conv6_2", x), inside["__call__"][0])
    with pytest.raises(
        ValueError, match=r"layer must be one of conv1_2, .*, got 'conv9'"
    ):
        read("conv9", x)
    with pytest.raises(ValueError, match=r"layer must be one of .*, got ' conv6_2'"):
        read("residual2, conv6_2", x)


def test_maps_of_several_layers_are_joined():
    modules = build_modules(width=0.0625)
    variables = drawn(lambda key: modules.encoder.init(key, images(1)))

    def read(layer, *, side=3):
        return modules.encoder.apply(
            variables, images(2), method="feature_map", layer=layer, side=side
        )

    joined = read("conv6_2,residual2")
    assert joined.shape == (2, 3, 3, 8 + 8)
    np.testing.assert_array_equal(joined[..., :8], read("conv6_2"))
    np.testing.assert_array_equal(joined[..., 8:], read("residual2"))

    # conv6_2 has 4 x 4 places, residual2 has 16 x 16.
    assert read("conv6_2,residual2", side=7).shape == (2, 4, 4, 8 + 8)
    np.testing.assert_array_equal(
        read("conv6_2,residual2", side=7)[..., 8:], read("residual2", side=4)
    )

    with pytest.raises(ValueError, match="'conv6_2,residual2' needs a side above 0"):
        read("conv6_2,residual2", side=0)
    with pytest.raises(ValueError, match="layer names conv6_2 twice"):
        read("conv6_2,conv6_2")


def test_codes_lie_in_the_open_unit_interval_and_flows_too(tiny):
    networks, trees = tiny
    code, flow, back = jax.jit(networks.motion)(trees, 5 * images())
    for value in (code, flow, back):
        assert value.dtype == jnp.float32
        assert float(jnp.max(jnp.abs(value))) <= 1.0


def test_noise_comes_from_the_key_alone(tiny):
    networks, trees = tiny
    x = images()
    features, flow = networks.features(trees, x), jnp.zeros((2, 16, 16, 2))
    run = jax.jit(networks.generate)

    def draw(key):
        return run(trees, features, flow, key=key)

    np.testing.assert_array_equal(draw(jax.random.key(1)), draw(jax.random.key(1)))
    assert not np.array_equal(draw(jax.random.key(1)), draw(jax.random.key(2)))
    np.testing.assert_array_equal(draw(None), draw(None))
    # Autoencoding has no noise whatever the key.
    plain = networks.generate(trees, features, None)
    np.testing.assert_array_equal(
        plain, networks.generate(trees, features, None, key=jax.random.key(3))
    )


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (4, 16), (5, 5), (7, 6), (16, 16)], ids=str
)
@pytest.mark.parametrize("noisy", [False, True], ids=["mean alone", "noise"])
def test_noise_is_encoded_as_if_the_mean_were_everywhere(shape, noisy):
    """The mean is convolved on a small map, with the result of the whole map."""
    x = jax.random.normal(jax.random.key(0), (2, *shape, 8))
    key = jax.random.key(1) if noisy else None
    module = NoiseEncoding()
    tree = module.init(jax.random.key(2), x, None)["params"]
    assert jax.tree.structure(tree) == jax.tree.structure(
        module.init(jax.random.key(2), x, key)["params"]
    )

    def plainly(tree, x):
        y = jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)
        y = y + (jax.random.normal(key, x.shape) if noisy else 0)
        for name in ("conv1", "conv2"):
            y = jax.lax.conv_general_dilated(
                y,
                tree[name]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            y = jax.nn.relu(y + tree[name]["bias"])
        return y

    def run(function):
        weight = jax.random.normal(jax.random.key(3), x.shape)
        value, pull = jax.vjp(function, tree, x)
        return value, pull(weight)

    found, expected = (
        run(lambda tree, x: module.apply({"params": tree}, x, key)),
        run(plainly),
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_examples_do_not_see_each_other(tiny):
    networks, trees = tiny
    x = images(3)
    whole = jax.jit(networks.motion)(trees, x)
    single = jax.jit(networks.motion)(trees, x[1:2])
    for a, b in zip(whole, single, strict=True):
        np.testing.assert_allclose(a[1:2], b, atol=1e-5)


def test_vmap_equals_a_larger_batch(tiny):
    networks, trees = tiny
    x = images(4)
    code = networks.identity_code(trees, x)
    mapped = jax.vmap(lambda y: networks.identity_code(trees, y))(
        x.reshape(2, 2, *x.shape[1:])
    )
    np.testing.assert_allclose(mapped.reshape(code.shape), code, atol=1e-6)


def test_one_mean_face_serves_all_codes(tiny):
    networks, trees = tiny
    code = networks.identity_code(trees, images(3))
    one = networks.features(trees, images(1, seed=4))
    repeated = jax.tree.map(lambda m: jnp.repeat(m, 3, axis=0), one)
    np.testing.assert_allclose(
        networks.restore_identity(trees, one, code),
        networks.restore_identity(trees, repeated, code),
        atol=1e-5,
    )


def test_bfloat16_stays_near_float32(tiny):
    """bfloat16 keeps 8 bits, so each layer errs by about 2^-8 relative.

    The error grows about as the square root of some 20 layers. Codes and flows are
    bounded by 1 and stay within 0.02, images within 5 % of their own spread.
    """
    networks, trees = tiny
    half = make_face_networks({**TINY, "dtype": "bfloat16"}, vgg_width=1 / 16)
    x = images()

    def everything(networks, trees, x):
        code, flow, _ = networks.motion(trees, x)
        return code, flow, networks.generate(trees, networks.features(trees, x), flow)

    exact, rough = (
        jax.jit(functools.partial(everything, f))(trees, x) for f in (networks, half)
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rough))
    for a, b, bound in zip(exact, rough, (0.02, 0.02, 0.05), strict=True):
        spread = 1.0 if bound == 0.02 else float(jnp.std(a))
        error = float(jnp.sqrt(jnp.mean((a - b) ** 2)))
        assert 0.0 < error < bound * spread


def test_image_skips_add_the_warped_image_and_a_learned_one():
    networks = make_face_networks({**TINY, "image_skip": True}, vgg_for_loss=False)
    trees = drawn(
        lambda key: {**init_motion(networks, key), **init_identity(networks, key)}
    )

    # Where the last layers make nothing, the images alone are left.
    trees["generator"]["to_rgb"] = jax.tree.map(
        jnp.zeros_like, trees["generator"]["to_rgb"]
    )
    decoder = trees["normaliser"]["decoder"]
    decoder["to_rgb"] = jax.tree.map(jnp.zeros_like, decoder["to_rgb"])
    decoder["image"] = images(1)[0]

    x = images(2, seed=1)
    flow = 0.3 * images(2, 16)[..., :2]
    features = networks.features(trees, x)
    np.testing.assert_allclose(networks.generate(trees, features, None), x)
    moved = networks.generate(trees, features, flow)
    np.testing.assert_allclose(moved, warp(x, flow, clamp=True), atol=1e-5)

    mean_face = networks.remove_identity(trees, features, jnp.zeros((2, 16)))
    np.testing.assert_allclose(mean_face[1], IMAGE_SCALE * decoder["image"])


def test_initial_weights_follow_the_paper():
    networks = make_face_networks({**TINY, "width": 0.5, "code_dim": 64}, vgg_width=0.5)
    # A config can ask for larger codes.
    wider = make_face_networks({**TINY, "code_init": 0.1}, vgg_for_loss=False)

    # What is not returned is not compiled.
    @jax.jit
    def init(key):
        trees = init_motion(networks, key)
        encoder = trees["motion_encoder"]
        return {
            "conv": encoder["features"]["conv5_2"]["kernel"],
            "bias": encoder["features"]["conv1_1"]["bias"],
            "hidden": encoder["hidden"]["kernel"],
            "wider": init_motion(wider, key)["motion_encoder"]["code"]["kernel"],
            "flow": trees["flow_decoder"]["flow"],
            "conv3": trees["flow_decoder"]["conv3"]["kernel"],
            "layer": trees["generator"]["reduce"],
        }

    found = init(jax.random.key(1))
    kernel = found["conv"]
    assert abs(float(kernel.std()) / np.sqrt(2 / (9 * kernel.shape[-1])) - 1) < 0.02
    assert abs(float(found["hidden"].std()) / 0.01 - 1) < 0.02
    assert abs(float(found["wider"].std()) / 0.1 - 1) < 0.1
    assert abs(float(found["conv3"].std()) / 0.05 - 1) < 0.02
    assert set(found["flow"]) == {"kernel"}
    assert float(jnp.abs(found["bias"]).max()) == 0.0

    # Uniform within 1 / sqrt(fan in), biases too.
    layer = found["layer"]
    bound = 1 / np.sqrt(9 * layer["kernel"].shape[2])
    assert bound * 0.99 < float(jnp.abs(layer["kernel"]).max()) <= bound
    assert 0 < float(jnp.abs(layer["bias"]).max()) <= bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "100"),
        ({"width": 0.0}, "width"),
        ({"code_dim": 0}, "code_dim"),
        ({"dtype": "float16"}, "float16"),
        ({"trunk": "resnet"}, "resnet"),
    ],
)
def test_wrong_model_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_face_networks({**TINY, **change})


def test_encoder_names_a_wrong_image_size(tiny):
    networks, trees = tiny
    with pytest.raises(ValueError, match=r"64x64.*100x100"):
        networks.motion(trees, images(1, 100))


def test_vgg_stops_at_the_last_tap_and_names_unknown_ones():
    vgg = VGG19(width=1 / 16)
    params = random_vgg(width=1 / 16)
    maps = vgg.apply({"params": params}, images(1), taps=("conv2_1", "conv4_1"))
    assert {name: m.shape for name, m in maps.items()} == {
        "conv2_1": (1, 32, 32, 8),
        "conv4_1": (1, 8, 8, 32),
    }
    with pytest.raises(ValueError, match="conv5_1"):
        vgg.apply({"params": params}, images(1), taps=("conv5_1",))


def test_random_vgg_is_the_same_every_time():
    a, b = random_vgg(width=1 / 16), random_vgg(width=1 / 16)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_vgg_file_errors_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="import-vgg"):
        read_vgg_npz(tmp_path / "missing.npz")
    path = tmp_path / "vgg.npz"
    path.write_bytes(b"no zip file at all")
    with pytest.raises(ValueError, match="not a readable"):
        read_vgg_npz(path)
    np.savez(path, **{"conv1_1/kernel": np.zeros((3, 3, 3, 64))})
    with pytest.raises(ValueError, match="conv1_1/bias"):
        read_vgg_npz(path)
    np.savez(path, **{"conv1_1/kernel": np.zeros((3, 3, 64, 3))})
    with pytest.raises(ValueError, match=r"\(3, 3, 64, 3\).*\(3, 3, 3, 64\)"):
        read_vgg_npz(path)
    np.savez(path, **{"conv1_1/kernel": np.zeros((3, 3, 3, 64), np.int64)})
    with pytest.raises(ValueError, match="holds int64, not floating-point numbers"):
        read_vgg_npz(path)
    np.savez(path, **{"conv1_1/kernel": np.full((3, 3, 3, 64), np.nan)})
    with pytest.raises(ValueError, match="not finite"):
        read_vgg_npz(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable"):
        read_vgg_npz(path)


def test_vgg_arrays_of_any_claimed_size_are_refused_by_their_header(tmp_path):
    """A few bytes claim a terabyte, and an array that is not needed is not read."""
    path = tmp_path / "vgg.npz"
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (3, 3, 3, 1 << 36)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("more.npy", header.getvalue())
        archive.writestr("conv1_1/kernel.npy", header.getvalue())
    with pytest.raises(
        ValueError, match=r"conv1_1/kernel has shape \(3, 3, 3, 68719476736\)"
    ):
        read_vgg_npz(path)

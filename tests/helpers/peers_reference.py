"""Reference numbers of FAb-Net, TCAE, temporal consistency and PCL.

The numbers in tests/data/peers come from the authors' own PyTorch code at commits
588c45c, cd24014, c18a386 and 6e71d41, run in float32 on one CPU thread with weights of
the recipe in `torch_state` and inputs that are noise and ellipses. Maps are stored as
samples, means, standard deviations and random projections. Of the original arrays the
float64 runs and a few large or redundant ones are left out.
"""

import functools
import json
import math
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from facecycle_jax.methods import Method

DATA = pathlib.Path(__file__).parents[1] / "golden" / "peers"
GAINS = {
    "fab_net": {"decoder.30.weight": 0.1, "mask.30.weight": 0.5},
    "tcae": {"pose_decoder.30.weight": 0.1, "expression_decoder.30.weight": 0.1},
    "pcl": {"decoder.fc.weight": 16.0, "decoder.model.22.weight": 0.25},
    "temporal_consistency": {},
}


@functools.cache
def numbers(program: str) -> dict[str, np.ndarray]:
    """All reference arrays of a program by key."""
    with np.load(DATA / f"{program}.npz") as file:
        return {name: file[name] for name in file.files}


def enlarged(images: np.ndarray) -> jax.Array:
    """Enlarges uint8 images four times, bilinearly, to 0..1."""
    *lead, height, width, channels = images.shape
    flat = images.reshape(-1, height, width, channels).astype(np.float32)
    large = jax.image.resize(
        flat, (len(flat), 4 * height, 4 * width, channels), "bilinear"
    )
    return (large / np.float32(255)).reshape(*lead, 4 * height, 4 * width, channels)


@functools.cache
def torch_state(program: str) -> dict[str, np.ndarray]:
    """Draws a program's weights: each array seeded by its name."""
    shapes = json.loads((DATA / "state_dicts.json").read_text())[program]
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        rng = np.random.default_rng([zlib.crc32(f"{program}.{name}".encode()), 0])
        drawn = rng.standard_normal(tuple(shape))
        if len(shape) > 1:
            gain = GAINS[program].get(name, 1.0)
            if program == "temporal_consistency" and name.endswith("conv2.weight"):
                gain = 0.5
            drawn = drawn * gain * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("running_var"):
            drawn = 1 + 0.2 * np.abs(drawn)
        elif name.endswith("running_mean"):
            drawn = 0.1 * drawn
        elif name.endswith("weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.05 * drawn
        state[name] = drawn.astype(np.float32)
    return state


def _up_decoder(source: str, path: str) -> dict[str, str]:
    """Layers of a decoder of eight blocks, or of six for PCL."""
    blocks = 6 if source == "decoder.model" else 8
    layers = {f"{source}.{4 * n + 2}": f"{path}/conv{n + 1}" for n in range(blocks)}
    return layers | {
        f"{source}.{4 * n + 3}": f"{path}/norm{n + 1}" for n in range(blocks - 1)
    }


def _fab_net() -> dict[str, str]:
    convs = [0, *range(2, 21, 3)]
    layers = {
        f"encoder.{place}": f"encoder/conv{n}" for n, place in enumerate(convs, start=1)
    }
    layers |= {f"encoder.{3 * n}": f"encoder/norm{n + 1}" for n in range(1, 7)}
    return (
        layers
        | _up_decoder("decoder", "flow_decoder")
        | _up_decoder("mask", "mask_decoder")
    )


def _tcae() -> dict[str, str]:
    norms = [
        "batch_norm",
        "batch_norm2_0",
        "batch_norm4_0",
        "batch_norm8_0",
        "batch_norm8_1",
    ]
    layers = {}
    for n, norm in enumerate(norms, start=1):
        layers[f"encoder.conv{n}"] = f"encoder/shared{n}_conv"
        layers[f"encoder.{norm}"] = f"encoder/shared{n}_norm"
    for suffix, branch in {"": "pose", "_1": "expression"}.items():
        layers |= {
            f"encoder.conv{n + 5}{suffix}": f"encoder/{branch}{n}_conv"
            for n in (1, 2, 3)
        }
        layers |= {
            f"encoder.batch_norm8_{n + 1}{suffix}": f"encoder/{branch}{n}_norm"
            for n in (1, 2)
        }
    decoders = ("pose_decoder", "expression_decoder")
    return layers | {
        k: v for name in decoders for k, v in _up_decoder(name, name).items()
    }


def _temporal_consistency() -> dict[str, str]:
    layers = {
        "resnet18.0": "encoder/stem_conv",
        "resnet18.1": "encoder/stem_norm",
        "fc1": "encoder/code",
    }
    for stage in range(1, 5):
        for block in (0, 1):
            source, path = (
                f"resnet18.{stage + 3}.{block}",
                f"encoder/stage{stage}_block{block + 1}",
            )
            for n, name in {1: "first", 2: "second"}.items():
                layers[f"{source}.conv{n}"] = f"{path}/{name}_conv"
                layers[f"{source}.bn{n}"] = f"{path}/{name}_norm"
            if stage > 1 and block == 0:
                layers[f"{source}.downsample.0"] = f"{path}/shortcut_conv"
                layers[f"{source}.downsample.1"] = f"{path}/shortcut_norm"
    return layers


def _pcl() -> dict[str, str]:
    layers = {
        "conv1.0": "conv1_1",
        "conv1.2": "conv1_2",
        "layer1.0": "conv2_1",
        "layer1.3": "conv2_2",
        "layer2_1.0": "conv3_1",
        "layer2_1.3": "conv3_2",
        "layer2_2.0": "conv4_1",
        "layer2_2.2": "conv4_2",
        "layer3_1.0": "conv5_1",
        "layer3_1.2": "conv5_2",
    }
    for source, name in {"layer1.2": "attention2", "layer2_1.2": "attention3"}.items():
        layers |= {
            f"{source}.{part}": f"{name}/{part}" for part in ("g", "theta", "phi")
        }
    for n in (1, 2):
        layers |= {f"resblock{n}.conv{c}": f"residual{n}/conv{c}" for c in (1, 2)}
    found = {f"encoder.{source}": f"trunk/{path}" for source, path in layers.items()}
    for source, name in {"exp": "face", "pose": "pose"}.items():
        for n, place in enumerate((0, 2), start=1):
            found[f"encoder.layer3_2_{source}.{place}"] = f"{name}_head/conv{n}"
        for place, part in {0: "hidden", 2: "output", 3: "norm"}.items():
            found[f"{source}_fc.{place}"] = f"{name}_projector/{part}"
    found["decoder.fc"] = "decoder/code"
    return found | _up_decoder("decoder.model", "decoder/up")


LAYERS = {
    "fab_net": _fab_net,
    "tcae": _tcae,
    "temporal_consistency": _temporal_consistency,
    "pcl": _pcl,
}
# Dense layers on flattened maps of 4 x 4, which the programs flatten channels first.
FLATTENED = ("exp_fc.0", "pose_fc.0", "decoder.fc")
_FIELDS = {
    "weight": "kernel",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
}


def _field(layer: str, field: str) -> str:
    return (
        "scale"
        if field == "weight" and "norm" in layer.split("/")[-1]
        else _FIELDS[field]
    )


def _to_ours(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and name.rpartition(".")[0] in FLATTENED:
        outputs, inputs = array.shape
        return (
            array.reshape(outputs, inputs // 16, 16)
            .swapaxes(1, 2)
            .reshape(outputs, inputs)
            .T
        )
    return array.T if array.ndim == 2 else array


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and name.rpartition(".")[0] in FLATTENED:
        inputs, outputs = array.shape
        return (
            array.T.reshape(outputs, 16, inputs // 16)
            .swapaxes(1, 2)
            .reshape(outputs, inputs)
        )
    return array.T if array.ndim == 2 else array


def _put(tree: dict, path: list[str], value: np.ndarray) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def trees(program: str) -> tuple[dict, dict]:
    """Our parameters and running statistics of the recipe, by network name."""
    layers = LAYERS[program]()
    params, stats = {}, {}
    for name, array in torch_state(program).items():
        source, _, field = name.rpartition(".")
        layer = layers[source]
        tree = stats if field.startswith("running") else params
        _put(tree, [*layer.split("/"), _field(layer, field)], _to_ours(name, array))
    return params, stats


def named(
    program: str, tree: dict, *, statistics: bool = False
) -> dict[str, np.ndarray]:
    """Our arrays by the program's names, in its layout."""
    layers = LAYERS[program]()
    found = {}
    for name in torch_state(program):
        source, _, field = name.rpartition(".")
        if field.startswith("running") != statistics:
            continue
        value = tree
        for part in [*layers[source].split("/"), _field(layers[source], field)]:
            value = value[part]
        found[name] = _to_torch(name, np.asarray(value))
    return found


def of_map(
    x: np.ndarray, key: str, stored: dict
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs what is stored of a map [N, H, W, C] with the same of ours."""
    x = np.asarray(x, np.float64)
    height, width, channels = x.shape[1:]
    every = 17 if height == 256 else 9
    rng = np.random.default_rng([zlib.crc32(b"projection"), height, width, channels])
    basis = rng.standard_normal((4, height, width, channels)) / math.sqrt(
        height * width * channels
    )
    ours = {
        "grid": x[:, ::every, ::every],
        "mean": x.mean(axis=(1, 2)),
        "std": x.std(axis=(1, 2)),
        "proj": np.einsum("nhwc,khwc->nk", x, basis),
    }
    return {kind: (value, stored[f"{key}/{kind}"]) for kind, value in ours.items()}


def check_map(
    x: np.ndarray, key: str, stored: dict[str, np.ndarray], *, atol: float
) -> float:
    """Compares a map with what is stored of it; returns the largest difference."""
    worst = 0.0
    for kind, (ours, theirs) in of_map(x, key, stored).items():
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=atol, err_msg=f"{key}/{kind}"
        )
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


def check_tensors(
    program: str,
    arrays: dict[str, np.ndarray],
    stored: dict[str, np.ndarray],
    prefix: str,
    *,
    l2: float,
    probe: float,
    smallest: float = 1e-5,
    changes: bool = False,
) -> tuple[float, float]:
    """Compares gradients or changes with their norms and inner products.

    Args:
      program: name of the program.
      arrays: ours by the program's names.
      stored: the reference arrays.
      prefix: key of the reference, such as 'train/grad'.
      l2: tolerance of the norms, relative.
      probe: tolerance of the inner products, relative to the norm.
      smallest: norms below this fraction of the largest are rounding on both sides and
        left out.
      changes: whether these are changes of weights. Then kernels alone are compared:
        scales are near 1, and changes of 1e-7 are rounding there.

    Returns:
      The worst of both errors.
    """
    names, norms = list(stored[f"{prefix}_names"]), stored[f"{prefix}_l2"]
    probes = stored[f"{prefix}_probe"]
    assert set(names) == set(arrays)
    worst_norm = worst_probe = 0.0
    compared = 0
    for name, norm, expected in zip(names, norms, probes, strict=True):
        ours = arrays[name].astype(np.float64)
        if changes and ours.ndim == 1:
            continue
        limit = 1e-8 * math.sqrt(ours.size) if changes else smallest * np.nanmax(norms)
        if not norm > limit:
            # Both sides are rounding, and stay below a few times the limit.
            assert np.linalg.norm(ours) <= 10 * limit, name
            continue
        rng = np.random.default_rng([zlib.crc32(f"probe.{program}.{name}".encode()), 0])
        found = float((ours * rng.standard_normal(ours.shape)).sum())
        of_norm = abs(np.linalg.norm(ours) - norm) / norm
        of_probe = abs(found - expected) / norm
        if of_norm > l2 or of_probe > probe:
            raise AssertionError(
                f"{name}: norm off by {of_norm:.2g}, inner product by {of_probe:.2g}"
            )
        worst_norm, worst_probe = max(worst_norm, of_norm), max(worst_probe, of_probe)
        compared += 1
    assert compared >= 10
    # For pytest -s: how near it is.
    worst = f"norms {worst_norm:.1e}, products {worst_probe:.1e}"
    print(f"{program} {prefix}: {compared} tensors, {worst}")
    return worst_norm, worst_probe


def check_statistics(
    program: str, stats: dict, stored: dict, prefix: str, *, rtol: float
) -> float:
    """Compares running statistics.

    Returns the worst error relative to the largest entry of an array.
    """
    ours = named(program, stats, statistics=True)
    keys = [name for name in stored if name.startswith(f"{prefix}/")]
    assert len(keys) == len(ours)
    worst = 0.0
    for key in keys:
        value, expected = ours[key[len(prefix) + 1 :]], stored[key]
        error = np.abs(value - expected).max() / np.abs(expected).max()
        assert error <= rtol, (key, error)
        worst = max(worst, float(error))
    return worst


def three_sgd_steps(
    method: Method,
    params: dict,
    frozen: dict,
    images: jax.Array,
    *,
    rate: float,
    still: tuple[str, ...] = (),
) -> tuple[list[float], dict, dict, dict]:
    """Three updates on one batch with momentum 0.9; networks of `still` do not move.

    Returns the totals, the first gradients, the parameters and the rest of the state.
    """
    optimiser = optax.sgd(rate, momentum=0.9)
    opt_state = optimiser.init(params)

    @jax.jit
    def step(params, frozen, opt_state, images):
        (total, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, frozen, images, jax.random.key(0)
        )
        moving = {
            name: jax.tree.map(jnp.zeros_like, tree) if name in still else tree
            for name, tree in grads.items()
        }
        updates, opt_state = optimiser.update(moving, opt_state)
        params = optax.apply_updates(params, updates)
        return params, {**frozen, **aux.carried}, opt_state, total, grads

    totals, first = [], None
    for _ in range(3):
        params, frozen, opt_state, total, grads = step(
            params, frozen, opt_state, images
        )
        totals.append(float(total))
        first = first or grads
    return totals, first, params, frozen


def check_changes(
    program: str, params: dict, prefix: str, *, l2: float, probe: float
) -> None:
    """Compares how far parameters have moved from the recipe's."""
    start, _ = trees(program)
    changes = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), params, start)
    check_tensors(
        program,
        named(program, changes),
        numbers(program),
        prefix,
        l2=l2,
        probe=probe,
        changes=True,
    )

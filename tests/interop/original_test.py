"""Checkpoints of the original program are read bit by bit and execute nothing."""

import copy
import functools
import os
import pickle
import random
import tracemalloc

import golden as reference
import jax
import numpy as np
import pytest
import torch_files

from facecycle_jax.errors import ConversionError, UserError
from facecycle_jax.interop import read_original, safe_pickle
from facecycle_jax.interop.original_names import from_torch, to_torch
from facecycle_jax.interop.torch_file import read_torch
from facecycle_jax.networks.vgg import TRUNK_LAYERS
from facecycle_jax.storage.model_spec import nest, weight_shapes

SMALL = {"width": 0.0625, "image_size": 64, "code_dim": 16, "dtype": "float32"}
SMALL |= {"trunk": "vgg", "vgg_width": 0.0625}
STAGE_1 = ("codegeneration", "exptoflow", "Swap_Generator")


@functools.cache
def _small_state():
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in weight_shapes(SMALL).items():
        weights[name] = rng.standard_normal(shape).astype(np.float32)
    trees = nest(weights)

    state = {}
    for module, name, array in to_torch(trees):
        state.setdefault(module, {})[name] = array

    # Both modules hold the trunk; kernels from HWIO to OIHW.
    for module in ("Swap_Generator", "Swap_Norm"):
        for layer in TRUNK_LAYERS:
            part = trees["vgg"][layer]
            kernel = np.ascontiguousarray(part["kernel"].transpose(3, 2, 0, 1))
            state[module][f"{layer}.0.weight"] = kernel
            state[module][f"{layer}.0.bias"] = part["bias"]
    return state


def small_state(*modules):
    state = copy.deepcopy(_small_state())
    return {name: state[name] for name in modules or state}


def assert_same(ours, expected):
    assert set(ours) == set(expected)
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(ours[name], value)
        else:
            assert ours[name].dtype == np.float32
            np.testing.assert_array_equal(ours[name], value)


def read_state(tmp_path, state, *, legacy=False):
    path = tmp_path / "file.tar"
    path.write_bytes(torch_files.checkpoint(state, legacy=legacy))
    return read_original(path, model=SMALL)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("modules", [STAGE_1, ()], ids=["stage 1", "both"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_trees_keep_every_bit_of_the_file(tmp_path, legacy, modules, prefix):
    state = small_state(*modules)
    file = {}
    for module, arrays in state.items():
        file[module] = {f"{prefix}{name}": array for name, array in arrays.items()}

    # What else such programs save, which is ignored.
    file |= {"epoch": 19, "optimizer": {"lr": 5e-5}}
    assert_same(read_state(tmp_path, file, legacy=legacy), from_torch(state))


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_and_this_reader_agree(tmp_path, legacy):
    torch = pytest.importorskip(
        "torch", reason="writes the file with PyTorch, which is not a dependency"
    )
    arrays_of = small_state()

    # What PyTorch writes is what this reader reads.
    state = {}
    for module, arrays in arrays_of.items():
        state[module] = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save(state, tmp_path / "torch.tar", _use_new_zipfile_serialization=not legacy)
    trees = read_original(tmp_path / "torch.tar", model=SMALL)
    assert_same(trees, from_torch(arrays_of))

    # What these tests write is what PyTorch reads.
    content = torch_files.checkpoint(arrays_of, legacy=legacy)
    (tmp_path / "ours.tar").write_bytes(content)
    back = torch.load(tmp_path / "ours.tar", weights_only=True)
    for module, arrays in arrays_of.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[module][name].numpy(), array)


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_the_paper_s_width_are_read(tmp_path, legacy):
    content = torch_files.checkpoint(reference.torch_state(), legacy=legacy)
    (tmp_path / "full.tar").write_bytes(content)

    expected = from_torch(reference.torch_state())
    assert_same(read_original(tmp_path / "full.tar"), expected)
    vgg = reference.vgg()
    assert_same(expected["vgg"], {layer: vgg[layer] for layer in TRUNK_LAYERS})


def test_a_learned_trunk_is_refused_before_the_file_is_read(tmp_path):
    model = {**SMALL, "trunk": "learned"}
    with pytest.raises(UserError, match=r"model\.trunk is 'learned'"):
        read_original(tmp_path / "none.tar", model=model)


def test_double_and_half_precision_become_float32(tmp_path):
    state = small_state(*STAGE_1)
    for dtype in (np.float64, np.float16):
        file = jax.tree.map(lambda array, dtype=dtype: array.astype(dtype), state)
        rounded = jax.tree.map(lambda array: array.astype(np.float32), file)
        assert_same(read_state(tmp_path, file), from_torch(rounded))


def test_one_of_two_trunks_is_enough_and_none_gives_none(tmp_path):
    state = small_state()
    for name in list(state["Swap_Generator"]):
        if name.split(".")[0] in TRUNK_LAYERS:
            del state["Swap_Generator"][name]
    assert_same(read_state(tmp_path, state), from_torch(small_state()))

    alone = {name: state[name] for name in STAGE_1}
    assert set(read_state(tmp_path, alone)) == {
        "motion_encoder",
        "flow_decoder",
        "generator",
    }


def _without(state, module, name):
    del state[module][name]


def _with(state, module, name, value):
    state[module][name] = value


BIAS = "expresscode.2.bias"
FLOATS = np.zeros(16, np.float32)


# How a state is spoiled, and the message.
WRONG_STATES = [
    (
        lambda state: _without(state, "codegeneration", BIAS),
        r"lacks codegeneration\.expresscode\.2\.bias of shape \(16,\)",
    ),
    (
        lambda state: _with(state, "codegeneration", BIAS, FLOATS[:5]),
        r"codegeneration\.expresscode\.2\.bias has shape \(5,\), not \(16,\)",
    ),
    (
        lambda state: _with(state, "idcodegen", "extra.weight", np.zeros(1)),
        r"idcodegen\.'extra\.weight' is unknown",
    ),
    (
        lambda state: _with(state, "codegeneration", BIAS, 3),
        r"expresscode\.2\.bias is 3, not a tensor",
    ),
    (
        lambda state: _with(state, "codegeneration", BIAS, np.zeros(16, np.int64)),
        r"expresscode\.2\.bias holds int64",
    ),
    (
        lambda state: _with(state, "codegeneration", BIAS, np.full(16, np.nan)),
        r"expresscode\.2\.bias holds values that are not finite",
    ),
    (
        lambda state: _with(state, "codegeneration", f"module.{BIAS}", np.zeros(16)),
        r"'expresscode\.2\.bias' with and without 'module\.'",
    ),
    (
        lambda state: _without(state, "Swap_Generator", "conv2_1.0.bias"),
        r"lacks Swap_Generator\.conv2_1\.0\.bias",
    ),
    (
        lambda state: _with(state, "Swap_Norm", "conv2_1.0.bias", FLOATS[:8] + 1),
        r"Swap_Generator and Swap_Norm have different frozen conv2_1\.0\.bias",
    ),
    (lambda state: state.pop("Swap_Norm"), r"lacks Swap_Norm"),
    (lambda state: state.pop("exptoflow"), r"lacks exptoflow"),
    (lambda state: state.update(exptoflow=3), r"its exptoflow is 3, not a dict"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG_STATES)
def test_mismatching_files_are_refused_by_the_first_name(tmp_path, spoil, message):
    state = small_state()
    spoil(state)
    with pytest.raises(ConversionError, match=message) as info:
        read_state(tmp_path, state)
    assert "file.tar" in str(info.value)
    assert "\n" not in str(info.value)


def test_foreign_files_are_named_for_what_they_are(tmp_path):
    vgg = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    foreign = torch_files.checkpoint(vgg, legacy=False)
    files = {
        r"no key 'codegeneration', its first keys are 'features\.0\.weight'": foreign,
        "its first keys are none": torch_files.checkpoint({}, legacy=True),
        "not a PyTorch checkpoint": png,
        "it is empty": b"",
        "web page": b"<!DOCTYPE html>",
    }
    for message, data in files.items():
        (tmp_path / "foreign").write_bytes(data)
        with pytest.raises(ConversionError, match=message):
            read_original(tmp_path / "foreign")

    with pytest.raises(ConversionError, match="cannot be read"):
        read_original(tmp_path / "missing")
    with pytest.raises(ConversionError, match="cannot be read"):
        read_original(tmp_path)


class _Evil:
    """Calls a function when an ordinary unpickler meets it."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickles_execute_nothing(tmp_path, legacy, protocol):
    mark = tmp_path / "mark"
    calls = [
        _Evil(open, str(mark), "w"),
        _Evil(os.mkdir, str(mark)),
        _Evil(exec, f"open({str(mark)!r}, 'w')"),
    ]
    for call in calls:
        data = pickle.dumps({"codegeneration": call}, protocol)
        pack = torch_files.pack_legacy if legacy else torch_files.pack_zip
        (tmp_path / "evil.tar").write_bytes(pack(data))
        message = r"evil\.tar: it asks for .*does not allow"
        with pytest.raises(ConversionError, match=message) as info:
            read_original(tmp_path / "evil.tar")
        assert "\n" not in str(info.value)
        assert not mark.exists()

    # The pickle is one that works.
    pickle.loads(pickle.dumps(calls[1], protocol))
    assert mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, legacy):
    state = small_state(*STAGE_1)
    data = torch_files.checkpoint(state, legacy=legacy)
    expected = from_torch(state)
    rng = random.Random(0)
    path = tmp_path / "damaged.tar"

    # The pickles (and, in a zip, its directory at the end) are where most can go wrong.
    pickles = 20_000
    damaged = [data[: rng.randrange(len(data))] for _ in range(60)]
    damaged += [data[: rng.randrange(min(pickles, len(data)))] for _ in range(60)]
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            at_start = rng.random() < 0.7
            place = rng.randrange(pickles) if at_start else -rng.randrange(1, pickles)
            changed[place] ^= 1 << rng.randrange(8)
        damaged.append(bytes(changed))

    messages = []
    for content in damaged:
        path.write_bytes(content)
        try:
            trees = read_original(path, model=SMALL)
        except ConversionError as error:
            messages.append(str(error))
            continue

        # A zip has checksums of its records. The legacy format has none, so only the
        # names are sure.
        if not legacy:
            assert_same(trees, expected)
        assert set(trees) <= set(expected)

    assert len(messages) >= 120
    for message in messages:
        assert message.isprintable()
        assert len(message) < 600
        assert message.startswith(f"{path}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.tar"]


def test_a_flipped_bit_in_the_weights_of_a_zip_is_found(tmp_path):
    data = bytearray(torch_files.checkpoint(small_state(*STAGE_1), legacy=False))
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.tar").write_bytes(data)
    with pytest.raises(ConversionError, match="damaged"):
        read_original(tmp_path / "flipped.tar", model=SMALL)


def test_unwanted_tensors_are_not_read(tmp_path):
    state = {
        **small_state(*STAGE_1),
        "optimizer": {"momentum": np.zeros(7, np.float32)},
    }
    (tmp_path / "file.tar").write_bytes(torch_files.checkpoint(state, legacy=False))
    tree = read_torch(
        tmp_path / "file.tar", wanted=lambda name: not name.startswith("optimizer")
    )
    assert tree["optimizer"] == {"momentum": None}


def test_a_small_pickle_does_not_grow_without_bound(tmp_path, monkeypatch):
    # One list of pairs is named many times, and each call would build a dict of it.
    monkeypatch.setattr(safe_pickle, "MAX_ENTRIES", 100_000, raising=False)
    pairs = 2000
    calls = 500
    out = [b"\x80\x02(", b"]q\x00("]
    for number in range(pairs):
        out.append(b"X\x05\x00\x00\x00%05dK\x00\x86" % number)
    out.append(b"e")
    out += [b"ccollections\nOrderedDict\nh\x00\x85R"] * calls
    out.append(b"l.")
    path = tmp_path / "bomb.tar"
    path.write_bytes(torch_files.pack_zip(b"".join(out)))
    assert path.stat().st_size < 50_000

    tracemalloc.start()
    with pytest.raises(ConversionError, match="containers of more than 100000 entries"):
        read_torch(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # 500 such dicts have more than 70 MB.
    assert peak < 20e6

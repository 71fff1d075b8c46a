"""Tensors and storages as PyTorch's pickles describe them, checked before they become arrays."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from facecycle_jax.errors import ConversionError, shorten
from facecycle_jax.interop.safe_pickle import Builder, is_key

MAX_NODES = 1_000_000
MAX_DEPTH = 16
MAX_AXES = 16
DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Storage(NamedTuple):
    """A flat buffer named by the pickle, not read yet."""

    key: str
    kind: str
    size: int


class Tensor(NamedTuple):
    """A window on a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


Fetch = Callable[[Storage], np.ndarray]


class Walk:
    """Turns what the pickle built into plain data, bounded in depth and in number of nodes."""

    def __init__(self, fetch: Fetch, wanted: Callable[[str], bool] | None) -> None:
        self._fetch = fetch
        self._wanted = wanted
        self._nodes = 0

    def visit(self, node: Any, name: str, depth: int) -> Any:
        """Converts one node and all below it."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ConversionError("its contents are nested too deeply or without end")
        if isinstance(node, Tensor):
            if self._wanted is not None and not self._wanted(name):
                return None
            return _view(self._fetch(node.storage), node, name)
        if type(node) is dict:
            return {
                key: self.visit(value, f"{name}/{key}" if name else str(key), depth + 1)
                for key, value in node.items()
            }
        if type(node) in (list, tuple):
            children = [
                self.visit(v, f"{name}/{i}", depth + 1) for i, v in enumerate(node)
            ]
            return children if type(node) is list else tuple(children)
        if node is None or type(node) in (bool, int, float, str, bytes):
            return node
        raise ConversionError(f"{shorten(name)} is neither a tensor nor plain data")


def _view(flat: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
    """Cuts the tensor's window out of its storage, if it lies inside."""
    count = math.prod(tensor.shape)
    if count == 0:
        if math.prod(max(n, 1) for n in tensor.shape) > 2**31:
            raise ConversionError(f"{shorten(name)} has an absurd shape {tensor.shape}")
        return np.empty(tensor.shape, flat.dtype)
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if count > flat.size or tensor.offset + reach >= flat.size:
        raise ConversionError(
            f"{shorten(name)} of shape {tensor.shape}, strides {tensor.strides} and offset "
            f"{tensor.offset} reaches outside its storage of {flat.size} elements"
        )
    strides = tuple(s * flat.itemsize for s in tensor.strides)
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > MAX_AXES:
        raise ConversionError(f"a tensor's {what} is {shorten(values)}")
    if not all(type(v) is int and 0 <= v < 2**48 for v in values):
        raise ConversionError(f"a tensor's {what} is {shorten(values)}")
    return tuple(values)


def _build_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
    if not isinstance(storage, Storage):
        raise ConversionError("a tensor has no storage")
    sizes, steps = _naturals(shape, "shape"), _naturals(strides, "strides")
    if len(sizes) != len(steps):
        raise ConversionError(f"a tensor has shape {sizes} but strides {steps}")
    return Tensor(storage, _naturals((offset,), "offset")[0], sizes, steps)


def _build_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ConversionError("a parameter holds no tensor")
    return tensor


def _build_dict(*arguments: Any) -> dict[Any, Any]:
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise ConversionError(
            "an ordered dict is built from something other than pairs"
        )
    result = {}
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2 or not is_key(pair[0]):
            raise ConversionError(
                "an ordered dict is built from something other than pairs"
            )
        result[pair[0]] = pair[1]
    return result


TABLE = {
    "torch._utils._rebuild_tensor": Builder("tensor", _build_tensor),
    "torch._utils._rebuild_tensor_v2": Builder("tensor", _build_tensor),
    "torch._utils._rebuild_parameter": Builder("parameter", _build_parameter),
    "torch.Size": Builder("size", lambda sizes=(): _naturals(sizes, "size")),
    "collections.OrderedDict": Builder("dict", _build_dict),
    **{f"torch.{name}": Builder(name) for name in DTYPES},
}


def build_storage(identity: Any) -> Storage:
    """Checks a persistent id.

    ('storage', type, key, location, number of elements, view or None).
    """
    if (
        type(identity) is not tuple
        or len(identity) not in (5, 6)
        or identity[0] != "storage"
    ):
        raise ConversionError("it refers to something other than a storage")
    kind, key, size = identity[1], identity[2], identity[4]
    if not isinstance(kind, Builder) or kind.name not in DTYPES:
        raise ConversionError("a storage has no known element type")
    if type(key) is not str or not key.isalnum() or len(key) > 64:
        raise ConversionError(f"a storage has the key {shorten(key)}")
    if type(size) is not int or not 0 <= size < 2**48:
        raise ConversionError(f"storage {key} claims {shorten(size)} elements")
    if len(identity) == 6 and identity[5] is not None:
        raise ConversionError(
            f"storage {key} is a view of another, which is not supported"
        )
    return Storage(key, kind.name, size)


def decode(data: bytes, storage: Storage, *, big_endian: bool) -> np.ndarray:
    """Interprets a storage's bytes."""
    dtype = np.dtype(DTYPES[storage.kind])
    if storage.kind == "BoolStorage":
        return np.frombuffer(data, np.uint8) != 0
    if big_endian:
        data = np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes()
    return np.frombuffer(data, dtype)


def cached(read: Callable[[Storage], np.ndarray]) -> Fetch:
    """Reads every storage once, and insists that all mentions of a key agree."""
    seen: dict[str, tuple[Storage, np.ndarray]] = {}

    def fetch(storage: Storage) -> np.ndarray:
        if storage.key not in seen:
            seen[storage.key] = (storage, read(storage))
        known, array = seen[storage.key]
        if known != storage:
            raise ConversionError(
                f"storage {storage.key} is both {known.size} x {known.kind} and "
                f"{storage.size} x {storage.kind}"
            )
        return array

    return fetch


def size_of(storage: Storage) -> int:
    """Computes the bytes of a storage."""
    return storage.size * np.dtype(DTYPES[storage.kind]).itemsize

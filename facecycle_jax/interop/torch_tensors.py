"""Tensors and storages as PyTorch's pickles describe them.

All descriptions are checked before they become arrays.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from facecycle_jax.errors import ConversionError, shorten
from facecycle_jax.interop.safe_pickle import Builder, is_key

# Bounds of the tree of containers, and of the shape of a tensor.
MAX_NODES = 1_000_000
MAX_DEPTH = 16
MAX_AXES = 16
# Element types by the names of PyTorch's storage classes.
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
    """A flat buffer that the pickle names.

    Attributes:
      key: its name in the file.
      kind: one of `DTYPES`.
      size: number of elements.
    """

    key: str
    kind: str
    size: int


class Tensor(NamedTuple):
    """A window on a storage.

    Attributes:
      storage: the storage.
      offset: of the first element, in elements.
      shape: of the tensor.
      strides: of the axes, in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# Reads the elements of a storage.
Fetch = Callable[[Storage], np.ndarray]


class Walk:
    """Turns what the pickle built into plain data.

    Depth and number of nodes are bounded, because containers may contain themselves.
    """

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
            entries = {}
            for key, value in node.items():
                path = f"{name}/{key}" if name else str(key)
                entries[key] = self.visit(value, path, depth + 1)
            return entries

        if type(node) in (list, tuple):
            children = [
                self.visit(child, f"{name}/{index}", depth + 1)
                for index, child in enumerate(node)
            ]
            return children if type(node) is list else tuple(children)

        if node is None or type(node) in (bool, int, float, str, bytes):
            return node
        raise ConversionError(f"{shorten(name)} is neither a tensor nor plain data")


def _view(flat: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
    """Returns the tensor's window on its storage, if it lies inside."""
    count = math.prod(tensor.shape)
    if count == 0:
        # numpy refuses empty arrays whose other sides are too large.
        if math.prod(max(n, 1) for n in tensor.shape) > 2**31:
            raise ConversionError(f"{shorten(name)} has an absurd shape {tensor.shape}")
        return np.empty(tensor.shape, flat.dtype)

    # The last element of the window, counted from its first.
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if count > flat.size or tensor.offset + reach >= flat.size:
        raise ConversionError(
            f"{shorten(name)} of shape {tensor.shape}, strides {tensor.strides} and "
            f"offset {tensor.offset} reaches outside its storage of {flat.size} "
            "elements"
        )

    # numpy counts strides in bytes.
    strides = tuple(s * flat.itemsize for s in tensor.strides)
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    """Checks a short sequence of integers that are 0 or more."""
    if type(values) not in (tuple, list) or len(values) > MAX_AXES:
        raise ConversionError(f"a tensor's {what} is {shorten(values)}")
    if not all(type(v) is int and 0 <= v < 2**48 for v in values):
        raise ConversionError(f"a tensor's {what} is {shorten(values)}")

    return tuple(values)


def _build_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
    """Stands for PyTorch's functions that rebuild a tensor."""
    if not isinstance(storage, Storage):
        raise ConversionError("a tensor has no storage")

    sizes = _naturals(shape, "shape")
    steps = _naturals(strides, "strides")
    (start,) = _naturals((offset,), "offset")
    if len(sizes) != len(steps):
        raise ConversionError(f"a tensor has shape {sizes} but strides {steps}")

    return Tensor(storage=storage, offset=start, shape=sizes, strides=steps)


def _build_parameter(tensor: Any, *_: Any) -> Tensor:
    """Stands for PyTorch's function that makes a parameter of a tensor."""
    if not isinstance(tensor, Tensor):
        raise ConversionError("a parameter holds no tensor")
    return tensor


def _build_dict(*arguments: Any) -> dict[Any, Any]:
    """Stands for `collections.OrderedDict`, of pairs or empty."""
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


# All globals that a file may name.
TABLE = {
    "torch._utils._rebuild_tensor": Builder("tensor", _build_tensor),
    "torch._utils._rebuild_tensor_v2": Builder("tensor", _build_tensor),
    "torch._utils._rebuild_parameter": Builder("parameter", _build_parameter),
    "torch.Size": Builder("size", lambda sizes=(): _naturals(sizes, "size")),
    "collections.OrderedDict": Builder("dict", _build_dict),
    **{f"torch.{name}": Builder(name) for name in DTYPES},
}


def build_storage(identity: Any) -> Storage:
    """Checks a persistent id and returns the storage that it names.

    The id is ('storage', type, key, location, number of elements) and, in the legacy
    format, a view or None.
    """
    is_tuple = type(identity) is tuple and len(identity) in (5, 6)
    if not is_tuple or identity[0] != "storage":
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
    """Interprets a storage's bytes as an array of one axis."""
    dtype = np.dtype(DTYPES[storage.kind])

    if storage.kind == "BoolStorage":
        # Bytes other than 0 and 1 would be undefined as numpy's booleans.
        return np.frombuffer(data, np.uint8) != 0
    if big_endian:
        data = np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes()
    return np.frombuffer(data, dtype)


def cached(read: Callable[[Storage], np.ndarray]) -> Fetch:
    """Makes a function that reads every storage once.

    It raises ConversionError if two mentions of a key differ.
    """
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

"""Reader of pickles as data, which executes nothing that a file asks for.

`torch.load(weights_only=True)` reads both formats of the original's checkpoints too,
but it needs PyTorch, a dependency of 190 MB to download and 750 MB on disk (without
CUDA) that nothing else in the package requires. This reader and its two companions,
`torch_file` and `torch_tensors`, read the same files with numpy alone, execute nothing
in them, and report damage in one sentence.

A pickle is a program for a small stack machine. This is that machine without its
dangerous half. `GLOBAL` may only name entries of a table that the caller gives,
`REDUCE` may only call such entries, and instructions that build arbitrary objects are
refused. Python's own unpickler is not used.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from facecycle_jax.errors import ConversionError, UserError, shorten

MAX_INSTRUCTIONS = 2_000_000
# In all containers together, because a call can copy a list that another instruction
# only names.
MAX_ENTRIES = 2_000_000
# Bytes of a line of text, in pickles of protocol 0.
MAX_LINE = 1 << 16
# Bits of an integer; the largest that PyTorch writes is the legacy magic number of 80.
MAX_BITS = 128
# Characters of a key of a dict.
MAX_KEY = 256
# What `pickletools` and the machine raise on bytes that are not a pickle.
_DAMAGE = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
)
_MARK = object()


class Builder:
    """An entry of the table, the meaning of a global name of the pickle.

    Attributes:
      name: a short name, for those who check arguments.
      build: called with the pickle's arguments; None if the name may only be an
        argument itself.
    """

    def __init__(self, name: str, build: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.build = build


def is_key(value: Any) -> bool:
    """Says whether a value may be a key of a dict.

    Keys are names, and small integers as optimisers use.

    Args:
      value: the key.

    Returns:
      True for strings of bounded length and for integers whose hashes differ.
    """
    if type(value) is str:
        return len(value) <= MAX_KEY

    # Python's hash of larger integers wraps, so a file could make them collide.
    return type(value) is int and abs(value) < 2**31


class _Bounded:
    """A file whose reads stop at a limit, whatever length the pickle claims."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._end = file.tell() + limit

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._left()))

    def readline(self) -> bytes:
        return self._file.readline(min(MAX_LINE, self._left()))

    def _left(self) -> int:
        return max(0, self._end - self._file.tell())


def load(
    file: BinaryIO,
    *,
    limit: int,
    table: Mapping[str, Builder],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one pickle and leaves the file behind its end.

    Args:
      file: the file, positioned at the pickle.
      limit: bytes that may be read.
      table: builders by 'module.name'.
      persistent: called with persistent ids; None refuses them.

    Returns:
      dicts (string and small integer keys), lists, tuples, numbers, strings, bytes,
      None and what the builders return. Containers may be shared or even contain
      themselves, so code that walks them needs bounds.

    Raises:
      ConversionError: If the pickle is damaged or holds anything else; the sentence
        does not name the file.
    """
    machine = _Machine(table, persistent)
    bounded: Any = _Bounded(file, limit)

    try:
        for code, argument, _ in pickletools.genops(bounded):
            machine.step(code.name, argument)
        return machine.result
    except ConversionError:
        raise
    except _DAMAGE as error:
        raise ConversionError(
            f"its pickle is damaged or cut off ({shorten(str(error))})"
        ) from None


class _Machine:
    """The stack, the memo, and one method for each group of instructions.

    The errors that damaged files cause, `UserError` among them, end in `load`.
    """

    def __init__(
        self, table: Mapping[str, Builder], persistent: Callable[[Any], Any] | None
    ) -> None:
        self._table = table
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._count = 0
        self._entries = 0
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Executes one instruction."""
        self._count += 1
        if self._count > MAX_INSTRUCTIONS:
            raise ConversionError(
                f"its pickle has more than {MAX_INSTRUCTIONS} instructions"
            )

        if name in _LITERALS:
            if type(argument) is int and argument.bit_length() > MAX_BITS:
                raise ConversionError(
                    f"its pickle holds a number of more than {MAX_BITS} bits"
                )
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _METHODS:
            _METHODS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ConversionError(
                f"its pickle builds objects ({name}), which is not allowed"
            )

    def _grow(self, entries: int) -> None:
        """Counts entries of containers before they are built."""
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise ConversionError(
                f"its pickle builds containers of more than {MAX_ENTRIES} entries"
            )

    def _pop_to_mark(self) -> list[Any]:
        """Takes everything above the last mark, and the mark, off the stack."""
        index = len(self._stack) - 1
        while self._stack[index] is not _MARK:
            index -= 1
            if index < 0:
                raise UserError("no mark")

        items = self._stack[index + 1 :]
        del self._stack[index:]
        self._grow(len(items))
        return items

    def _stop(self, _: Any) -> None:
        self.result = self._stack.pop()

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple_n(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count:
            raise UserError("stack is empty")
        del self._stack[-count:]
        self._stack.append(items)

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise UserError("appends to what is not a list")
        target.extend(items)

    def _set_items(self, items: list[Any], target: Any) -> None:
        if type(target) is not dict or len(items) % 2:
            raise UserError("sets items of what is not a dict")

        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise ConversionError(
                    "its pickle has a dict with keys that are not names"
                )
            target[key] = value

    def _global(self, name: str) -> None:
        if name not in self._table:
            raise ConversionError(
                f"it asks for {shorten(name)}, which this reader does not allow"
            )
        self._stack.append(self._table[name])

    def _stack_global(self, _: Any) -> None:
        name = self._stack.pop()
        module = self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UserError("a global without a name")
        self._global(f"{module}.{name}")

    def _reduce(self, _: Any) -> None:
        arguments = self._stack.pop()
        function = self._stack.pop()
        if not isinstance(function, Builder) or function.build is None:
            raise ConversionError(
                "its pickle calls something that is not a known builder"
            )
        if type(arguments) is not tuple:
            raise UserError("a call without arguments")

        # What is built is at most as large as what it is built from.
        containers = [
            part for part in arguments if isinstance(part, list | tuple | dict)
        ]
        self._grow(sum(len(part) for part in containers))
        self._stack.append(function.build(*arguments))

    def _build(self, _: Any) -> None:
        # State dicts carry their `_metadata` (module versions) this way, which nobody
        # here needs.
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise ConversionError(
                "its pickle sets the state of an object, which is not allowed"
            )

    def _persist(self, _: Any) -> None:
        if self._persistent is None:
            raise ConversionError("its pickle holds a persistent id where none belongs")
        self._stack.append(self._persistent(self._stack.pop()))

    def _new_dict(self, _: Any) -> None:
        target: dict[Any, Any] = {}
        self._set_items(self._pop_to_mark(), target)
        self._stack.append(target)

    def _set_marked(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._set_items(items, self._stack[-1])

    def _set_one(self, _: Any) -> None:
        value = self._stack.pop()
        key = self._stack.pop()
        self._set_items([key, value], self._stack[-1])


# Instructions that push their argument.
_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
)
# Instructions that push a constant or an empty container.
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
# All other instructions that are allowed.
_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "STOP": _Machine._stop,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": lambda self, _: self._stack.append(self._stack[-1]),
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._put,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": lambda self, _: self._stack.append(tuple(self._pop_to_mark())),
    "TUPLE1": lambda self, _: self._tuple_n(1),
    "TUPLE2": lambda self, _: self._tuple_n(2),
    "TUPLE3": lambda self, _: self._tuple_n(3),
    "LIST": lambda self, _: self._stack.append(self._pop_to_mark()),
    "APPEND": lambda self, _: self._append([self._stack.pop()]),
    "APPENDS": lambda self, _: self._append(self._pop_to_mark()),
    "DICT": _Machine._new_dict,
    "SETITEM": _Machine._set_one,
    "SETITEMS": _Machine._set_marked,
    # pickletools joins the two parts of a GLOBAL with a blank.
    "GLOBAL": lambda self, name: self._global(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persist,
}

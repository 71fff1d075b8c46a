"""Files in PyTorch's two checkpoint formats, written byte by byte without PyTorch."""

import collections
import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
}


class _Tree:
    """One pickle of nested dicts of arrays, as torch.save writes it at protocol 2."""

    def __init__(self, *, legacy):
        self.legacy, self.out, self.storages = legacy, io.BytesIO(), {}

    def text(self, value):
        data = value.encode()
        self.out.write(b"X" + struct.pack("<I", len(data)) + data)

    def whole(self, value):
        self.out.write(b"J" + struct.pack("<i", value))

    def numbers(self, values):
        self.out.write(b"(")
        for value in values:
            self.whole(value)
        self.out.write(b"t")

    def visit(self, node):
        if isinstance(node, dict):
            self.out.write(b"ccollections\nOrderedDict\n)R(")
            for key, value in node.items():
                self.text(key)
                self.visit(value)
            self.out.write(b"u")
        elif isinstance(node, np.ndarray):
            self.tensor(np.ascontiguousarray(node))
        else:
            self.out.write(pickle.dumps(node, 2)[2:-1])

    def tensor(self, array):
        key = str(len(self.storages))
        self.storages[key] = array
        self.out.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        self.text("storage")
        self.out.write(f"ctorch\n{STORAGES[array.dtype.name]}\n".encode())
        self.text(key)
        self.text("cpu")
        self.whole(array.size)
        self.out.write(b"NtQ" if self.legacy else b"tQ")
        self.whole(0)
        self.numbers(array.shape)
        self.numbers(s // array.itemsize for s in array.strides)
        self.out.write(b"\x89ccollections\nOrderedDict\n)RtR")


def pack_zip(data, storages=None):
    """Packs the bytes of a pickle and storages as the zip format."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, array in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")
    return out.getvalue()


def pack_legacy(data, storages=None):
    """Packs the bytes of a pickle and storages as the legacy stream."""
    storages = storages or {}
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, SYSTEM))
    body = b"".join(struct.pack("<q", a.size) + a.tobytes() for a in storages.values())
    return head + data + pickle.dumps(list(storages), 2) + body


def checkpoint(state, *, legacy):
    """Makes the bytes of a checkpoint of nested dicts of arrays and plain values."""
    tree = _Tree(legacy=legacy)
    tree.out.write(b"\x80\x02")
    tree.visit(collections.OrderedDict(state))
    tree.out.write(b".")
    return (pack_legacy if legacy else pack_zip)(tree.out.getvalue(), tree.storages)

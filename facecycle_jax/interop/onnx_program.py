"""Programs in ONNX, for onnxruntime and what else reads that format.

The conversion is that of jax2onnx. Programs are traced with the portable forms of our
operations, so grid sampling becomes a gather of the four neighbours.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from facecycle_jax.errors import check_installed
from facecycle_jax.ops.portable import portable_forms

Program = Callable[..., Mapping[str, jax.Array]]
# Those that convert a program, and the one that runs it.
_PACKAGES = ("jax2onnx", "onnx", "onnxruntime")
# The operations of this version are in onnxruntime from 1.18 (2024) on.
OPSET = 21
# What reads the weights of networks. All other constants stay float32, such as the
# coordinates of grids, which need its precision. A slice mirrors the kernels of
# transposed convolutions.
_READERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Slice", "Transpose"})


def require_onnx(packages: Sequence[str] = _PACKAGES) -> None:
    """Raises MissingExtraError if a package of the extra `onnx` is not installed.

    Args:
      packages: those that are needed. By default they are all of the extra.
    """
    for name in packages:
        check_installed(name, f"ONNX programs need {name}", extra="onnx")


def to_onnx(
    program: Program,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    outputs: Sequence[str],
    weights: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Converts a program to ONNX.

    Args:
      program: function of the inputs, traceable, to arrays [N, ...] by name. Weights
        that it holds become part of the program.
      inputs: shapes and dtypes of the inputs by name, in the order of the function's
        arguments. A name such as 'n' in place of a size stands for any number.
      outputs: names of the program's outputs, in their order. An output must not be
        the input of a later convolution: jax2onnx may then turn its axes.
      weights: dtype in which weights are stored, 'float32' or 'float16'. The program
        computes in float32 with both.
      metadata: text by key that the file carries.

    Returns:
      The content of an .onnx file.

    Raises:
      MissingExtraError: If jax2onnx, onnx or onnxruntime is not installed.
    """
    require_onnx()
    import jax2onnx

    def in_order(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        found = program(*arrays)
        return tuple(found[name] for name in outputs)

    # onnx_ir warns of every intermediate result whose type it does not store.
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with portable_forms():
            model = jax2onnx.to_onnx(
                in_order,
                inputs=list(inputs.values()),
                opset=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
            )
    finally:
        log.setLevel(level)

    if weights == "float16":
        _store_in_float16(model.graph)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key = key
        entry.value = value
    return bytes(model.SerializeToString())


def _store_in_float16(graph: Any) -> None:
    """Stores the weights of a graph in float16, with casts to float32."""
    from onnx import TensorProto, helper, numpy_helper

    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)

    kept = []
    casts = []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        is_read = readers.get(weight.name, set())
        if array.dtype != np.float32 or not is_read or is_read - _READERS:
            kept.append(weight)
            continue

        # The cast has the weight's name, so that its readers stay as they are.
        name = f"{weight.name}_float16"
        kept.append(numpy_helper.from_array(array.astype(np.float16), name))
        casts.append(
            helper.make_node(
                "Cast", [name], [weight.name], name=f"{name}_cast", to=TensorProto.FLOAT
            )
        )

    # Nodes stand in the order of computation.
    nodes = [*casts, *graph.node]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.node[:]
    graph.node.extend(nodes)


def run_onnx(data: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs an ONNX program with onnxruntime, on the CPU.

    Args:
      data: content of an .onnx file.
      inputs: arrays by name.

    Returns:
      Arrays by name.

    Raises:
      MissingExtraError: If onnxruntime is not installed.
    """
    require_onnx(["onnxruntime"])
    import onnxruntime

    # Errors alone: it warns of constants that nothing reads.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: np.asarray(x) for name, x in inputs.items()})
    return dict(zip(names, found, strict=True))

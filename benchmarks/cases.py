"""The cases of the benchmark, each with our programs and PyTorch's.

The programs of a case are timed interleaved.
"""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks import (
    feeding,
    flops,
    hardware,
    layers,
    ours,
    sampling,
    starting,
    timing,
)

CASES = (
    "train-motion",
    "train-identity",
    "inference",
    "grid-sample",
    "layers",
    "input",
    "start",
)
# The stages of FaceCycle, by the cases of their train steps.
STAGES = {"train-motion": "motion_cycle", "train-identity": "identity_cycle"}
# Ways of running PyTorch.
MODES = ("eager", "channels_last", "compile")

# Both sides' losses are compared up to this number of pairs. Larger batches compute the
# same.
_MOST_COMPARED = 16
# Reasons why PyTorch is not measured.
_ONE_SIZE = "the PyTorch implementation supports 64-pixel images only"
_NO_WEIGHTS = "ours, whose weights it takes, could not be built"

Programs = dict[str, timing.Program | str]


def measure(
    case: str, setting: ours.Setting, modes: list[str], *, repeats: int
) -> list[timing.Row]:
    """Measures one case.

    Args:
      case: one of `CASES`.
      setting: what is measured.
      modes: ways of running PyTorch, of `MODES`; none leaves it out.
      repeats: number of timed calls of each program.

    Returns:
      The rows.

    Raises:
      RuntimeError: If the two sides compute different results, because their times
        could not be compared then.
    """
    if case == "grid-sample":
        return sampling.measure(setting, torch=bool(modes), repeats=repeats)
    if case == "layers":
        peak = _peak(setting.precision, setting.device)
        return layers.measure(setting, torch=bool(modes), repeats=repeats, peak=peak)
    if case == "start":
        return _start(setting, modes, repeats)
    if case == "input":
        return _input(setting, repeats)

    if case == "inference":
        rows = []
        for call in ours.CALLS:
            rows += _inference(call, setting, modes, repeats)
        return rows

    return _train(case, setting, modes, repeats)


def prepare(case: str, setting: ours.Setting) -> None:
    """Compiles the train step of a case; does nothing for other cases.

    Several threads may call this. A step that does not fit into memory is left to
    `measure`, because it may fit when it is alone.

    Args:
      case: one of `CASES`.
      setting: what is compiled.
    """
    if case in STAGES:
        timing.built(lambda: ours.compile_step(STAGES[case], setting))


def describe(setting: ours.Setting) -> dict[str, Any]:
    """Describes a setting for a row; image size and remat only if not the default."""
    defaults = ours.Setting._field_defaults
    described = {}
    for name, value in setting._asdict().items():
        if name not in defaults or value != defaults[name]:
            described[name] = value
    return described


@functools.cache
def _peak(precision: str, device: str) -> float:
    """Measures the speed of a large matrix product, once in a run."""
    setting = ours.Setting(batch=1, width=1.0, precision=precision, device=device)
    return hardware.product_speed(setting)


def _inference(
    call: str, setting: ours.Setting, modes: list[str], repeats: int
) -> list[timing.Row]:
    """Measures one public call of a loaded model.

    Its first call compiles, the others are warm.
    """
    mine = timing.built(lambda: ours.Inference(call, setting))
    programs: Programs = {"ours": mine}
    for mode in modes:
        programs[f"torch {mode}"] = _torch_inference(call, setting, mine, mode)

    count = flops.inference(
        call, batch=setting.batch, width=setting.width, size=setting.size
    )
    rows = timing.measure(
        f"inference {call}",
        programs,
        settings=describe(setting),
        repeats=repeats,
        work=_work(count, setting),
    )

    _compare_outputs(programs, rows, setting)
    _release_torch(programs)
    return rows


def _train(
    case: str, setting: ours.Setting, modes: list[str], repeats: int
) -> list[timing.Row]:
    """Measures a train step."""
    mine = timing.built(lambda: ours.TrainStep(STAGES[case], setting))
    programs: Programs = {"ours": mine}
    for mode in modes:
        programs[f"torch {mode}"] = _torch_train_step(case, setting, mine, mode)

    count = flops.train_step(
        STAGES[case], batch=setting.batch, width=setting.width, size=setting.size
    )
    rows = timing.measure(
        case,
        programs,
        settings=describe(setting),
        repeats=repeats,
        work=_work(count, setting),
        ahead={} if isinstance(mine, str) else {"ours": mine.ahead_s},
    )

    _compare_losses(programs, rows, setting)

    # The note of a row without figures states why there are none.
    if not isinstance(mine, str) and rows[0].median_ms is not None:
        memory = mine.compiled().memory_analysis()
        if memory:
            gigabytes = memory.temp_size_in_bytes / 1e9
            note = f"{gigabytes:.2f} GB in addition to the state"
            rows[0] = dataclasses.replace(rows[0], note=note)

    _release_torch(programs)
    return rows


def _work(count: flops.Count, setting: ours.Setting) -> timing.Work:
    """Returns the work of one call on the images of all pairs."""
    return timing.Work(
        images=2 * setting.batch,
        flops=count.flops,
        peak=_peak(setting.precision, setting.device),
    )


def _release_torch(programs: Programs) -> None:
    """Drops PyTorch's programs and returns their memory to the device."""
    has_torch = len(programs) > 1
    programs.clear()
    if has_torch:
        from benchmarks import torch_programs

        torch_programs.release()


def _torch_inference(
    call: str, setting: ours.Setting, mine: ours.Inference | str, mode: str
) -> timing.Program | str:
    """Builds PyTorch's program of the same call, or states why there is none."""
    if setting.size != 64:
        return _ONE_SIZE
    if isinstance(mine, str):
        return _NO_WEIGHTS

    from benchmarks import torch_programs

    return timing.built(
        lambda: torch_programs.TorchInference(
            call, setting, mine.trees, mine.images, mode=mode
        )
    )


def _torch_train_step(
    case: str, setting: ours.Setting, mine: ours.TrainStep | str, mode: str
) -> timing.Program | str:
    """Builds PyTorch's program of the same step, or states why there is none."""
    if setting.size != 64:
        return _ONE_SIZE
    if isinstance(mine, str):
        return _NO_WEIGHTS

    from benchmarks import torch_programs

    images = ours.random_images(setting.batch)
    return timing.built(
        lambda: torch_programs.TorchTrainStep(
            STAGES[case], setting, mine.trees, images, mode=mode
        )
    )


def _to_compare(
    programs: Programs, rows: list[timing.Row]
) -> tuple[Any, list[Any]] | None:
    """Returns this program and the others, or None if not both sides have times.

    Programs without times are not called again. They had too little memory, for
    example.
    """
    ran = {}
    for row in rows:
        if row.median_ms is not None:
            ran[row.program] = programs[row.program]

    mine = ran.pop("ours", None)
    return None if mine is None or not ran else (mine, list(ran.values()))


def _compare_outputs(
    programs: Programs, rows: list[timing.Row], setting: ours.Setting
) -> None:
    """Compares the outputs of both sides.

    This follows the timing, so that the first call that is timed is the first one made.

    Raises:
      RuntimeError: If they differ.
    """
    sides = _to_compare(programs, rows)
    if sides is None:
        return

    mine, others = sides
    output = mine()
    for other in others:
        _check_same_output(output, other(), setting)


def _check_same_output(
    mine: np.ndarray, other: np.ndarray, setting: ours.Setting
) -> None:
    """Raises RuntimeError if two outputs differ in shape or by more than rounding."""
    if mine.shape != other.shape:
        raise RuntimeError(
            f"the two programs differ: {mine.shape} here, {other.shape} in PyTorch."
        )

    tolerance = 1e-2 if setting.precision == "float32" else 1e-1
    expected = other.astype(np.float64)
    difference = np.abs(mine.astype(np.float64) - expected).mean()
    size = max(np.abs(expected).mean(), 1e-3)
    # Written so that NaN counts as a difference.
    if not difference <= tolerance * size:
        raise RuntimeError(f"the two programs differ by {difference} on average.")


def _compare_losses(
    programs: Programs, rows: list[timing.Row], setting: ours.Setting
) -> None:
    """Compares the losses of both sides at the initial parameters, without noise.

    This follows the timing, so that the first call that is timed is the first one made.

    Raises:
      RuntimeError: If they differ.
    """
    sides = _to_compare(programs, rows)
    if sides is None or setting.batch > _MOST_COMPARED:
        return

    mine, others = sides
    tolerance = 1e-3 if setting.precision == "float32" else 5e-2
    total = mine.total()
    for program in others:
        other = program.total()
        # Written so that NaN counts as a difference.
        if not abs(total - other) <= tolerance * abs(other):
            raise RuntimeError(
                f"the two programs differ: loss {total} here, {other} in PyTorch."
            )


def _input(setting: ours.Setting, repeats: int) -> list[timing.Row]:
    """Measures batches of pairs from image files, and augmentation on the device."""
    settings = {"batch": setting.batch, "device": setting.device}
    # The loaders end before the folder that they read ahead from.
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        feeding.write_tracks(pathlib.Path(folder))
        programs, ahead = feeding.programs(folder, setting, stack)
        return timing.measure(
            "input", programs, settings=settings, repeats=repeats, ahead=ahead
        )


def _start(setting: ours.Setting, modes: list[str], repeats: int) -> list[timing.Row]:
    """Measures new processes, each of which encodes one image in float32."""
    settings = {"images": 1, "width": setting.width, "device": setting.device}
    if setting.size != 64:
        settings["size"] = setting.size

    reason = ""
    if setting.precision != "float32":
        reason = "a new process is measured in float32 only"
    elif setting.device == "tpu":
        reason = "a TPU serves one process, and the benchmark's own has it"
    if reason:
        refused: Programs = {"ours": reason}
        if modes:
            refused["torch eager"] = reason
        return timing.measure("start", refused, settings=settings, repeats=repeats)

    _, trees = ours.initial_trees("motion_cycle", setting)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        programs: Programs = dict(starting.our_starts(path, trees, setting))
        if modes and setting.size != 64:
            programs["torch eager"] = _ONE_SIZE
        elif modes:
            programs["torch eager"] = timing.built(
                lambda: starting.torch_start(path, trees, setting)
            )
        return timing.measure("start", programs, settings=settings, repeats=repeats)

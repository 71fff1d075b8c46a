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

from benchmarks import flops, hardware, layers, ours, timing

CASES = (
    "train-motion",
    "train-identity",
    "inference",
    "grid-sample",
    "layers",
    "input",
    "start",
)
# Ways of running PyTorch.
MODES = ("eager", "channels_last", "compile")
SAMPLED = {"16x16": (16, 256), "32x32": (32, 128), "64x64": (64, 3)}
IMPLEMENTATIONS = ("auto", "gather", "dense", "separable", "autodiff")
# Pairs of images up to which both sides' losses are compared; larger batches compute
# the same.
_CHECKED = 16
_ONE_SIZE = "the PyTorch implementation supports 64-pixel images only"
_NO_WEIGHTS = "ours, whose weights it takes, could not be built"
STAGES = {"train-motion": "motion_cycle", "train-identity": "identity_cycle"}


def measure(
    case: str, setting: ours.Setting, modes: list[str], *, repeats: int
) -> list[timing.Row]:
    """Measures one case.

    Args:
      case: one of `CASES`.
      setting: what is measured.
      modes: ways of running PyTorch, of `MODES`; none leaves it out.
      repeats: timed calls of each program.

    Returns:
      The rows.
    """
    if case == "grid-sample":
        return _grid_sample(setting, modes, repeats)
    if case == "layers":
        peak = _peak(setting.precision, setting.device)
        return layers.measure(setting, torch=bool(modes), repeats=repeats, peak=peak)
    if case == "start":
        return _start(setting, modes, repeats)
    if case == "input":
        return _input(setting, repeats)
    if case == "inference":
        return [
            row
            for call in ours.CALLS
            for row in _inference(call, setting, modes, repeats)
        ]
    return _train(case, setting, modes, repeats)


def prepare(case: str, setting: ours.Setting) -> None:
    """Compiles our train step of a case, if it is one, so that measuring it need not.

    Safe in threads. A step that does not fit is left to `measure`, which reports it:
    alone it may fit.
    """
    if case in STAGES:
        timing.built(lambda: ours.compile_step(STAGES[case], setting))


def describe(setting: ours.Setting) -> dict[str, Any]:
    """Describes a setting for a row, leaving out what is not out of the ordinary."""
    return {
        name: value
        for name, value in setting._asdict().items()
        if value not in (False, 64)
    }


@functools.cache
def _peak(precision: str, device: str) -> float:
    """Speed of a large matrix product, measured once in a run."""
    return hardware.product_speed(ours.Setting(1, 1.0, precision, device))


def _inference(
    call: str, setting: ours.Setting, modes: list[str], repeats: int
) -> list[timing.Row]:
    """Measures one public call of a loaded model.

    Its first call compiles, the others are warm.
    """
    mine = timing.built(lambda: ours.Inference(call, setting))
    programs: dict[str, timing.Program | str] = {"ours": mine}
    for mode in modes:
        programs[f"torch {mode}"] = _torch_inference(call, setting, mine, mode)

    count = flops.inference(
        call, batch=setting.batch, width=setting.width, size=setting.size
    )
    work = timing.Work(
        2 * setting.batch, count.flops, _peak(setting.precision, setting.device)
    )
    rows = timing.measure(
        f"inference {call}",
        programs,
        settings=describe(setting),
        repeats=repeats,
        work=work,
    )

    # Compared afterwards, so that the first call measured is the first one made. What
    # did not run, for want of memory for example, is not called again.
    ran = [programs[row.program] for row in rows if row.median_ms is not None]
    if mine in ran and not isinstance(mine, str):
        for program in ran:
            if program is not mine and not isinstance(program, str):
                _check_same_output(mine(), program(), setting)
    _release_torch(programs)
    return rows


def _train(
    case: str, setting: ours.Setting, modes: list[str], repeats: int
) -> list[timing.Row]:
    """Measures a train step."""
    mine = timing.built(lambda: ours.TrainStep(STAGES[case], setting))
    programs: dict[str, timing.Program | str] = {"ours": mine}
    for mode in modes:
        programs[f"torch {mode}"] = _torch_train_step(case, setting, mine, mode)

    shape: dict[str, Any] = {
        "batch": setting.batch,
        "width": setting.width,
        "size": setting.size,
    }
    count = flops.train_step(STAGES[case], **shape)
    work = timing.Work(
        2 * setting.batch, count.flops, _peak(setting.precision, setting.device)
    )
    rows = timing.measure(
        case,
        programs,
        settings=describe(setting),
        repeats=repeats,
        work=work,
        ahead={} if isinstance(mine, str) else {"ours": mine.ahead_s},
    )

    # The note of a row without figures says why there are none.
    if not isinstance(mine, str) and rows[0].median_ms is not None:
        memory = mine.compiled().memory_analysis()
        if memory:
            note = f"{memory.temp_size_in_bytes / 1e9:.2f} GB beside the state"
            rows[0] = dataclasses.replace(rows[0], note=note)
    _release_torch(programs)
    return rows


def _release_torch(programs: dict[str, timing.Program | str]) -> None:
    """Lets PyTorch's programs go, and gives their memory back."""
    has_torch = len(programs) > 1
    programs.clear()
    if has_torch:
        from benchmarks import torch_programs

        torch_programs.release()


def _torch_inference(
    call: str, setting: ours.Setting, mine: ours.Inference | str, mode: str
) -> timing.Program | str:
    """Builds PyTorch's program of the same call, or says why there is none."""
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


def _check_same_output(
    mine: np.ndarray, other: np.ndarray, setting: ours.Setting
) -> None:
    """Raises RuntimeError if the sides compute different outputs.

    Then their times mean nothing.
    """
    mine, other = mine.astype(np.float64), other.astype(np.float64)
    tolerance = 1e-2 if setting.precision == "float32" else 1e-1
    difference = np.abs(mine - other).mean()
    if mine.shape != other.shape or difference > tolerance * max(
        np.abs(other).mean(), 1e-3
    ):
        raise RuntimeError(f"the two programs differ by {difference} on average.")


def _torch_train_step(
    case: str, setting: ours.Setting, mine: ours.TrainStep | str, mode: str
) -> timing.Program | str:
    """Builds PyTorch's program of the same step, or says why there is none."""
    if setting.size != 64:
        return _ONE_SIZE
    if isinstance(mine, str):
        return _NO_WEIGHTS

    from benchmarks import torch_programs

    def build() -> timing.Program:
        images = ours.random_images(setting.batch)
        other = torch_programs.TorchTrainStep(
            STAGES[case], setting, mine.trees, images, mode=mode
        )
        if setting.batch <= _CHECKED:
            _check_same(mine.total(), other.total(), setting)
        return other

    return timing.built(build)


def _check_same(mine: float, other: float, setting: ours.Setting) -> None:
    """Raises RuntimeError if the sides compute different losses.

    Then their times mean nothing.
    """
    tolerance = 1e-3 if setting.precision == "float32" else 5e-2
    if abs(mine - other) > tolerance * abs(other):
        raise RuntimeError(
            f"the two programs differ: loss {mine} here, {other} in PyTorch."
        )


def _grid_sample(
    setting: ours.Setting, modes: list[str], repeats: int
) -> list[timing.Row]:
    """Measures sampling, each implementation, forward and with gradients."""
    rows = []
    for name, (side, channels) in SAMPLED.items():
        image, grid = ours.sampling_arrays((2 * setting.batch, side, side, channels))
        for backward in (False, True):
            programs: dict[str, timing.Program | str] = {
                implementation: timing.built(
                    functools.partial(
                        ours.grid_sample_program,
                        image,
                        grid,
                        implementation=implementation,
                        backward=backward,
                        setting=setting,
                    )
                )
                for implementation in IMPLEMENTATIONS
            }
            if modes:
                programs["torch"] = layers.torch_program(
                    "grid_sample_program",
                    image,
                    grid,
                    setting=setting,
                    backward=backward,
                )
            case = f"grid-sample {name}x{channels}" + (
                " with gradients" if backward else ""
            )
            settings = {
                "maps": 2 * setting.batch,
                "precision": setting.precision,
                "device": setting.device,
            }
            rows += timing.measure(case, programs, settings=settings, repeats=repeats)
    return rows


def _input(setting: ours.Setting, repeats: int) -> list[timing.Row]:
    """Measures batches of pairs from image files, and augmentation on the device."""
    from benchmarks import feeding

    settings = {"batch": setting.batch, "device": setting.device}
    # The loaders end before the folder that they read ahead from.
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        feeding.write_tracks(pathlib.Path(folder))
        programs = feeding.programs(folder, setting, stack)
        return timing.measure("input", programs, settings=settings, repeats=repeats)


def _start(setting: ours.Setting, modes: list[str], repeats: int) -> list[timing.Row]:
    """Measures fresh processes, each of which encodes one image in float32."""
    from benchmarks import starting

    settings = {"images": 1, "width": setting.width, "device": setting.device}
    if setting.size != 64:
        settings["size"] = setting.size
    programs: dict[str, timing.Program | str]

    reason = ""
    if setting.precision != "float32":
        reason = "a new process is measured in float32 only"
    elif setting.device == "tpu":
        reason = "a TPU serves one process, and the benchmark's own has it"
    if reason:
        programs = {"ours": reason}
        if modes:
            programs["torch eager"] = reason
        return timing.measure("start", programs, settings=settings, repeats=repeats)

    _, trees = ours.initial_trees("motion_cycle", setting)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        programs = dict(starting.our_starts(path, trees, setting))
        if modes and setting.size != 64:
            programs["torch eager"] = _ONE_SIZE
        elif modes:
            programs["torch eager"] = timing.built(
                lambda: starting.torch_start(path, trees, setting)
            )
        return timing.measure("start", programs, settings=settings, repeats=repeats)

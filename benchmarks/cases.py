"""The cases of the benchmark, each with our programs and PyTorch's.

The programs of a case are timed interleaved.
"""

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
MODES = ("eager", "channels_last", "compile")
SAMPLED = {"16x16": (16, 256), "32x32": (32, 128), "64x64": (64, 3)}
IMPLEMENTATIONS = ("auto", "gather", "dense", "separable", "autodiff")
# Pairs of images up to which both sides' losses are compared; larger batches compute
# the same.
_CHECKED = 16
_ONE_SIZE = "the PyTorch implementation supports 64-pixel images only"
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

    Safe in threads.
    """
    if case in STAGES:
        _train_step(STAGES[case], setting).compile()


@functools.cache
def _train_step(stage: str, setting: ours.Setting) -> ours.TrainStep:
    return ours.TrainStep(stage, setting)


def torch_modes(wanted: list[str]) -> list[str]:
    """Returns the wanted ways of running PyTorch; none where it is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return []
    return wanted


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
    mine = ours.Inference(call, setting)
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

    # Compared afterwards, so that the first call measured is the first one made.
    for program in list(programs.values())[1:]:
        if not isinstance(program, str):
            _check_same_output(mine(), program(), setting)
    _release_torch(programs)
    return rows


def _train(
    case: str, setting: ours.Setting, modes: list[str], repeats: int
) -> list[timing.Row]:
    """Measures a train step."""
    mine = _train_step(STAGES[case], setting)
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
        case, programs, settings=describe(setting), repeats=repeats, work=work
    )

    memory = mine.compile().memory_analysis()
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
    call: str, setting: ours.Setting, mine: ours.Inference, mode: str
) -> timing.Program | str:
    """Builds PyTorch's program of the same call, or says why there is none."""
    from benchmarks import torch_programs

    if setting.size != 64:
        return _ONE_SIZE
    try:
        return torch_programs.TorchInference(
            call, setting, mine.trees, mine.images, mode=mode
        )
    except ValueError as error:
        return str(error)


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
    case: str, setting: ours.Setting, mine: ours.TrainStep, mode: str
) -> timing.Program | str:
    """Builds PyTorch's program of the same step, or says why there is none."""
    from benchmarks import torch_programs

    if setting.size != 64:
        return _ONE_SIZE
    images = ours.random_images(setting.batch)
    try:
        other = torch_programs.TorchTrainStep(
            STAGES[case], setting, mine.trees, images, mode=mode
        )
        if mine.untouched and setting.batch <= _CHECKED:
            _check_same(mine.total(), other.total(), setting)
    except ValueError as error:
        return str(error)
    return other


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
                implementation: ours.grid_sample_program(
                    image,
                    grid,
                    implementation=implementation,
                    backward=backward,
                    setting=setting,
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
    with tempfile.TemporaryDirectory() as folder:
        feeding.write_tracks(pathlib.Path(folder))
        programs = feeding.programs(folder, setting)
        work = timing.Work(2 * setting.batch, 0.0, None)
        return timing.measure(
            "input", programs, settings=settings, repeats=repeats, work=work
        )


def _start(setting: ours.Setting, modes: list[str], repeats: int) -> list[timing.Row]:
    """Measures fresh processes."""
    from benchmarks import starting

    _, trees = ours.initial_trees("motion_cycle", setting)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        programs: dict[str, timing.Program | str] = dict(
            starting.our_starts(path, trees, setting)
        )
        if modes:
            programs["torch eager"] = starting.torch_start(path, trees, setting)
        return timing.measure(
            "start", programs, settings=describe(setting), repeats=repeats
        )

"""Plans of several measurements: what one command measures, the most telling first."""

from typing import NamedTuple

from benchmarks import cases, timing
from benchmarks.ours import Setting

NAMES = {
    "gpu": "gpu: all that is worth knowing of one GPU, in --budget seconds",
    "growth": "growth: how time and memory grow with batch, width and image size",
}


class Entry(NamedTuple):
    """One measurement of a plan.

    Attributes:
      case: its name.
      setting: what is measured.
      modes: ways of running PyTorch.
      repeats: timed calls of each program.
      seconds: what is left of the time must be more than this for it to be started.
    """

    case: str
    setting: Setting
    modes: list[str]
    repeats: int
    seconds: float = 0.0

    def prepare(self) -> None:
        """Compiles our side ahead."""
        cases.prepare(self.case, self.setting)

    def measure(self) -> list[timing.Row]:
        """Measures it."""
        return cases.measure(self.case, self.setting, self.modes, repeats=self.repeats)

    def skipped(self, reason: str) -> list[timing.Row]:
        """Returns rows that say why it was not measured."""
        programs: dict[str, timing.Program | str] = dict.fromkeys(
            ["ours", *(f"torch {mode}" for mode in self.modes)], reason
        )
        return timing.measure(
            self.case, programs, settings=cases.describe(self.setting), repeats=1
        )


def plan(
    suite: str | None,
    setting: Setting,
    chosen: list[str],
    modes: list[str],
    *,
    repeats: int,
) -> list[Entry]:
    """Lists what to measure.

    Args:
      suite: one of `NAMES`, or None for the chosen cases alone.
      setting: what is measured; a suite varies it.
      chosen: cases.
      modes: ways of running PyTorch.
      repeats: timed calls of each program.

    Returns:
      The entries in order.
    """
    if suite is None:
        return [Entry(case, setting, modes, repeats) for case in chosen]
    return {"gpu": _gpu, "growth": _growth}[suite](setting, modes, repeats)


def _gpu(setting: Setting, modes: list[str], repeats: int) -> list[Entry]:
    """Lists the entries of a GPU run, the most informative first.

    Their seconds are estimates for an H100.
    """
    half, tf32 = (
        setting._replace(precision="bfloat16"),
        setting._replace(precision="tf32"),
    )
    full = setting._replace(precision="float32")
    plain = [mode for mode in modes if mode != "compile"]
    compiled = [mode for mode in modes if mode == "compile"]

    def entry(case: str, setting: Setting, modes: list[str], seconds: float) -> Entry:
        return Entry(case, setting, modes, repeats, seconds)

    return [
        # The first is measured whatever compiling took.
        entry("train-motion", half, plain, 5),
        entry("train-motion", tf32, plain, 45),
        entry("train-identity", half, plain, 45),
        entry("grid-sample", half, modes, 60),
        entry("train-motion", half._replace(batch=4 * setting.batch), plain[-1:], 45),
        # Ours is compiled already: what is new is PyTorch's compilation.
        entry("train-motion", half, compiled, 90),
        entry("train-motion", half._replace(batch=16 * setting.batch), plain[-1:], 60),
        entry("train-motion", full, plain[:1], 45),
        entry("inference", half, plain, 20),
        entry("train-identity", tf32, plain[-1:], 45),
        entry(
            "train-motion", half._replace(batch=16 * setting.batch, remat=True), [], 60
        ),
        entry("inference", half._replace(batch=16 * setting.batch), plain[-1:], 30),
        entry("grid-sample", full, modes, 60),
        # A process takes seconds, and each program starts twice before it is timed.
        entry("start", full, plain[:1], 60)._replace(repeats=min(repeats, 2)),
    ]


def _growth(setting: Setting, _: list[str], repeats: int) -> list[Entry]:
    """A setting, and what doubling one thing at a time does."""
    varied = [
        setting,
        setting._replace(batch=2 * setting.batch),
        setting._replace(batch=4 * setting.batch),
        setting._replace(width=2 * setting.width),
        setting._replace(size=2 * setting.size),
        setting._replace(remat=True),
        setting._replace(precision="bfloat16"),
    ]
    return [Entry("train-motion", one, [], repeats) for one in varied]

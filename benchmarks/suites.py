"""Plans of several measurements: what one command measures, the most telling first."""

from typing import NamedTuple

from benchmarks import cases, timing
from benchmarks.ours import Setting

# The suites by name, each with its line of the help.
NAMES = {
    "gpu": "gpu: all that is worth knowing of one GPU, in --budget seconds",
    "growth": "growth: how time and memory grow with batch, width and image size",
}
# The largest batch of a suite over that of the command.
_LARGEST_BATCH = {"gpu": 16, "growth": 4}


class Entry(NamedTuple):
    """One measurement of a plan.

    Attributes:
      case: name of the case.
      setting: what is measured.
      modes: ways of running PyTorch.
      repeats: number of timed calls of each program.
      seconds: it is started only if more than this is left of the time.
    """

    case: str
    setting: Setting
    modes: list[str]
    repeats: int
    seconds: float = 0.0

    def prepare(self) -> None:
        """Compiles our side in advance."""
        cases.prepare(self.case, self.setting)

    def measure(self) -> list[timing.Row]:
        """Measures it."""
        return cases.measure(self.case, self.setting, self.modes, repeats=self.repeats)

    def skipped(self, reason: str) -> list[timing.Row]:
        """Returns rows that state why it was not measured."""
        names = ["ours", *(f"torch {mode}" for mode in self.modes)]
        programs: dict[str, timing.Program | str] = dict.fromkeys(names, reason)
        settings = cases.describe(self.setting)
        return timing.measure(self.case, programs, settings=settings, repeats=1)


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
      suite: one of `NAMES`; None for the chosen cases alone.
      setting: what is measured; a suite varies it.
      chosen: cases, used without a suite.
      modes: ways of running PyTorch; the suite 'growth' leaves it out.
      repeats: number of timed calls of each program.

    Returns:
      The entries in order.
    """
    if suite == "gpu":
        return _gpu(setting, modes, repeats)
    if suite == "growth":
        return _growth(setting, repeats)
    return [Entry(case, setting, modes, repeats) for case in chosen]


def largest_batch(suite: str | None, batch: int) -> int:
    """Returns the largest batch of a plan.

    Args:
      suite: one of `NAMES`; None for chosen cases alone.
      batch: that of the command.

    Returns:
      Pairs of images.
    """
    return batch if suite is None else _LARGEST_BATCH[suite] * batch


def _gpu(setting: Setting, modes: list[str], repeats: int) -> list[Entry]:
    """Lists the entries of a GPU run, the most informative first.

    Their seconds are estimates for an H100.
    """
    full = setting._replace(precision="float32")
    tf32 = setting._replace(precision="tf32")
    half = setting._replace(precision="bfloat16")
    half_4 = half._replace(batch=4 * setting.batch)
    half_16 = half._replace(batch=_LARGEST_BATCH["gpu"] * setting.batch)

    # torch.compile takes longer than everything else, and is measured once.
    compiled = [mode for mode in modes if mode == "compile"]
    plain = [mode for mode in modes if mode != "compile"]
    first, last = plain[:1], plain[-1:]

    def entry(case: str, setting: Setting, modes: list[str], seconds: float) -> Entry:
        return Entry(case, setting, modes, repeats, seconds)

    return [
        # The first one is measured however long compiling in advance took.
        entry("train-motion", half, plain, 5),
        entry("train-motion", tf32, plain, 45),
        entry("train-identity", half, plain, 45),
        entry("grid-sample", half, modes, 60),
        entry("train-motion", half_4, last, 45),
        # Ours is compiled already; only PyTorch's compilation is new.
        entry("train-motion", half, compiled, 90),
        entry("train-motion", half_16, last, 60),
        entry("train-motion", full, first, 45),
        entry("inference", half, plain, 20),
        entry("train-identity", tf32, last, 45),
        entry("train-motion", half_16._replace(remat=True), [], 60),
        entry("inference", half_16, last, 30),
        entry("grid-sample", full, modes, 60),
        # A process takes seconds, and each program starts twice before it is timed.
        entry("start", full, first, 60)._replace(repeats=min(repeats, 2)),
    ]


def _growth(setting: Setting, repeats: int) -> list[Entry]:
    """Lists a setting, and variants of it that differ in one field each."""
    varied = [
        setting,
        setting._replace(batch=2 * setting.batch),
        setting._replace(batch=_LARGEST_BATCH["growth"] * setting.batch),
        setting._replace(width=2 * setting.width),
        setting._replace(size=2 * setting.size),
        setting._replace(remat=True),
        setting._replace(precision="bfloat16"),
    ]
    return [Entry("train-motion", one, [], repeats) for one in varied]

"""Averages of loss terms between logs, written as JSON lines and for TensorBoard.

Scalars by name, e.g. 'train/total'; images uint8 [H, W, 3].
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from facecycle_jax.files import named_in_errors, write_whole

log = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"
# Step and figures of a row of that file.
OnMetrics = Callable[[int, dict[str, float]], None]


@flax.struct.dataclass
class Average:
    """A sum of observations and their number.

    Attributes:
      total: float32 scalar.
      count: int32 scalar.
    """

    total: jax.Array
    count: jax.Array

    def merge(self, other: "Average") -> "Average":
        """Adds the other's observations."""
        return Average(self.total + other.total, self.count + other.count)


@flax.struct.dataclass
class Averages:
    """Running averages of scalars.

    A pytree, so it can stay on the devices until it is read.

    Attributes:
      values: one average by name.
    """

    values: dict[str, Average]

    @classmethod
    def of(
        cls, terms: Mapping[str, jax.Array], *, mask: jax.Array | None = None
    ) -> "Averages":
        """Builds averages of one observation each.

        Args:
          terms: scalars by name.
          mask: bool scalar; False leaves the observation out, even if it is not finite.

        Returns:
          The averages.
        """
        mask = jnp.asarray(True) if mask is None else mask
        count = mask.astype(jnp.int32)

        # `where`, not a product: NaN times 0 is NaN.
        values = {}
        for name, value in terms.items():
            total = jnp.where(mask, value, 0).astype(jnp.float32)
            values[name] = Average(total, count)
        return cls(values)

    def merge(self, other: "Averages") -> "Averages":
        """Merges with averages of the same names."""
        merged = {
            name: value.merge(other.values[name]) for name, value in self.values.items()
        }
        return Averages(merged)

    def compute(self) -> dict[str, float]:
        """Computes the averages as floats, without those that have no observation."""
        host = jax.device_get(self)
        return {
            name: float(value.total / value.count)
            for name, value in host.values.items()
            if value.count > 0
        }


def hide_accelerators_from_tensorflow() -> str:
    """Keeps TensorFlow from taking the memory that JAX needs.

    Returns:
      '' or, where TensorFlow cannot be imported, the reason.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        return f"{error} (pip install 'facecycle_jax[tf]')"

    tf.config.set_visible_devices([], "GPU")
    return ""


def _summary_writer(directory: epath.Path) -> tuple[Any, str]:
    """Opens TensorBoard event files, or returns None and the reason why not."""
    try:
        reason = hide_accelerators_from_tensorflow()
        if reason:
            return None, reason

        from clu import metric_writers
    except ImportError as error:
        return None, f"{error} (pip install 'facecycle_jax[tf]')"
    except Exception as error:
        # The files are optional, and a TensorFlow that does not fit the packages
        # installed with it fails in many ways.
        return None, f"TensorFlow cannot be used ({type(error).__name__}: {error})"

    return metric_writers.SummaryWriter(str(directory)), ""


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Turns TensorFlow's own errors of a full disk and the like into OSError."""
    try:
        yield
    except Exception as error:
        raise OSError(f"TensorBoard event files: {str(error)[:300]}") from error


class MetricWriter:
    """Writes scalars and images of a run; of several processes the first one writes.

    Args:
      workdir: directory of the run.
      step: step the run continues from. Lines of later steps are removed from
        metrics.jsonl, so that no step is written there twice; event files keep them.
      tensorboard: whether to write event files too, if TensorFlow and TensorBoard are
        installed.
      on_metrics: called with the step and the scalars of each line, once it is written.
        Its errors are not caught.
    """

    def __init__(
        self,
        workdir: epath.Path,
        *,
        step: int = 0,
        tensorboard: bool = True,
        on_metrics: OnMetrics | None = None,
    ) -> None:
        self._on_metrics = on_metrics
        self._path = workdir / FILE_NAME
        self._lines: list[str] = []
        self._file: TextIO | None = None
        self._events: Any = None
        if jax.process_index():
            return

        self._lines = _kept_lines(self._path, step)
        self._rewrite()
        # Object stores cannot append: there the whole file is written each time.
        if "://" not in str(self._path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115

        reason = ""
        if tensorboard:
            self._events, reason = _summary_writer(workdir / "tensorboard")
        if reason:
            log.info(
                "No TensorBoard event files: %s. Metrics go to %s.", reason, self._path
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of scalars, at once."""
        if jax.process_index():
            return

        # JSON has no NaN; null says the same to every reader.
        numbers = {
            name: float(value) if np.isfinite(value) else None
            for name, value in sorted(values.items())
        }
        line = json.dumps({"step": int(step), **numbers})
        if self._file is not None:
            with named_in_errors(self._path):
                self._file.write(line + "\n")
                self._file.flush()
        else:
            self._lines.append(line)
            self._rewrite()

        if self._events is not None:
            with _as_os_errors():
                self._events.write_scalars(step, dict(values))

        if self._on_metrics is not None:
            figures = {name: float(values[name]) for name in sorted(values)}
            self._on_metrics(int(step), figures)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds an image, uint8 [H, W, 3], to the TensorBoard event files."""
        if self._events is not None:
            with _as_os_errors():
                self._events.write_images(step, {name: image[None]})

    def close(self) -> None:
        """Writes out what is buffered and closes the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            with _as_os_errors():
                self._events.close()

    def _rewrite(self) -> None:
        write_whole(self._path, "".join(line + "\n" for line in self._lines).encode())


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the lines a run has written.

    Args:
      workdir: directory of the run.

    Returns:
      One dict per line, with 'step'; [] if there are none.
    """
    path = epath.Path(workdir) / FILE_NAME
    return [json.loads(line) for line in _kept_lines(path, None)]


def training_seconds(workdir: epath.PathLike) -> float:
    """Computes the seconds that the updates of a run have taken, from its metrics.

    Compilation, evaluations of held-out people and pauses between two starts do not
    count. Updates whose speed was not measured count as long as the others.

    Args:
      workdir: directory of the run.

    Returns:
      Seconds; NaN if no speed was measured.
    """
    measured_steps = 0
    seconds = 0.0
    before = 0
    for line in read_metrics(workdir):
        # Lines of held-out losses and probes have no learning rate.
        if "learning_rate" not in line:
            continue
        steps = line["step"] - before
        before = line["step"]
        if line.get("steps_per_second"):
            measured_steps += steps
            seconds += steps / line["steps_per_second"]

    if not measured_steps:
        return float("nan")
    return seconds * before / measured_steps


def _kept_lines(path: epath.Path, last: int | None) -> list[str]:
    """Reads the lines of a metrics file up to a step, without broken ones.

    A kill may cut off the last line.
    """
    if not path.exists():
        return []

    kept = []
    # A torn write may end in the middle of a character.
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            log.warning("Leaving out a broken line of %s.", path)
            continue

        if last is None or step <= last:
            kept.append(line)
    return kept

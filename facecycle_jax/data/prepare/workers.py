"""Preparation of many tracks in several processes.

A run continues where a stopped one was, and records what is left out. `run_all` does
any work on many files and survives processes that are killed.
"""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from facecycle_jax.data.images.landmarks import has_landmarks
from facecycle_jax.data.images.media_files import is_image_name
from facecycle_jax.data.prepare.encoding import (
    FrameOptions,
    Prepared,
    Source,
    prepare_track,
)
from facecycle_jax.errors import UserError
from facecycle_jax.files import under_another_name, write_whole

# If this many processes are killed in a row, each alone with its item, the items are
# not the cause.
_MOST_KILLED = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Work:
    """Prepares a track, in any process; all workers share the folders.

    Attributes:
      options: options of the frames.
      left_out: folder of the lines about what is left out, one file for each track that
        has some.
      finished: folder that keeps tracks which needed decoding, so that a restarted run
        does not decode them again; '': none.
    """

    options: FrameOptions
    left_out: str
    finished: str = ""

    def __call__(self, source: Source) -> Prepared:
        """Prepares one track, or loads it if an earlier run finished it."""
        kept = self._place(source)
        prepared = _load(kept) if kept else None

        if prepared is None:
            prepared = prepare_track(source, self.options)
            if kept:
                _save(kept, prepared)

        self.note(source, prepared)
        return prepared

    def note(self, source: Source, prepared: Prepared) -> None:
        """Records what is left out of a track."""
        if prepared.left_out:
            # os.fsencode, because names of files may hold bytes that are not UTF-8.
            name = hashlib.sha256(os.fsencode(source.name)).hexdigest()[:32]
            content = json.dumps([source.name, prepared.left_out]).encode()
            write_whole(pathlib.Path(self.left_out) / f"{name}.json", content)

    def _place(self, source: Source) -> pathlib.Path | None:
        """Names the file of a finished track after everything that it depends on."""
        # Images whose bytes are copied are as quickly read again.
        is_decoded = self.options.reencodes or source.is_video
        if not self.finished or not is_decoded:
            return None

        try:
            files = _states(source)
        except OSError:
            return None

        # With the landmarks, faces are cut out at other places than without them.
        landmarks = self.options.crop and has_landmarks()

        # A change of a file or of an option gives another name.
        options = dataclasses.astuple(self.options)
        key = json.dumps([source.name, files, options, landmarks])
        name = hashlib.sha256(key.encode()).hexdigest()

        return pathlib.Path(self.finished) / name[:2] / f"{name}.npz"


def _states(source: Source) -> list[tuple[str, int, int]]:
    """Lists name, size and time of change (ns) of every file of a track."""
    if not os.path.isdir(source.path):
        stat = os.stat(source.path)
        return [("", stat.st_size, stat.st_mtime_ns)]

    # The folder's own time does not change when a file is overwritten in place.
    states = []
    for name in sorted(set(os.listdir(source.path)) - set(source.left_out)):
        if is_image_name(name):
            stat = os.stat(os.path.join(source.path, name))
            states.append((name, stat.st_size, stat.st_mtime_ns))

    return states


def _save(path: pathlib.Path, prepared: Prepared) -> None:
    """Writes a finished track."""
    with under_another_name(path) as partial, open(partial, "wb") as file:
        np.savez(
            file,
            content=np.frombuffer(b"".join(prepared.frames), np.uint8),
            lengths=np.array([len(frame) for frame in prepared.frames], np.int64),
            left_out=np.frombuffer(json.dumps(prepared.left_out).encode(), np.uint8),
        )


def _load(path: pathlib.Path) -> Prepared | None:
    """Reads a finished track; None if there is none, or its file is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            content = stored["content"].tobytes()
            ends = np.cumsum(stored["lengths"]).tolist()
            left_out = json.loads(stored["left_out"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None

    # Frames lie one behind the other.
    starts = [0, *ends[:-1]]
    frames = tuple(content[a:b] for a, b in zip(starts, ends, strict=False))

    return Prepared(frames, tuple(left_out))


def prepare_all(
    sources: Sequence[Source], work: Work, *, workers: int = 1
) -> Iterator[tuple[Source, Prepared]]:
    """Prepares tracks in this process or in several, in order.

    A process may be killed, for example for lack of memory. Its track is tried once
    more in a process of its own, and left out if that is killed, too.

    Args:
      sources: the tracks.
      work: prepares one track.
      workers: number of processes; 1: only this one.

    Yields:
      Each source and the track prepared from it.

    Raises:
      UserError: If several processes in a row are killed.
    """

    def name(source: Source) -> str:
        return f"the track {source.name}"

    for source, prepared in run_all(work, sources, workers=workers, name=name):
        if prepared is None:
            reason = killed_reason(source.path, kind="track")
            prepared = Prepared((), (reason,))
            work.note(source, prepared)

        yield source, prepared


def killed_reason(path: str, *, kind: str) -> str:
    """Says why something is left out, at which `run_all` gave None.

    Args:
      path: its path.
      kind: what it is, such as 'track'.

    Returns:
      A sentence.
    """
    return (
        f"{path}: the process that read the {kind} was killed, perhaps for lack of "
        "memory."
    )


def run_all(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    name: Callable[[Item], str],
) -> Iterator[tuple[Item, Result | None]]:
    """Does the same work on many items, in this process or in several, in order.

    A process may be killed. Its item is tried once more in a process of its own.

    Args:
      work: what is done with an item; can be pickled, as can the items.
      items: the items.
      workers: number of processes; 1: only this one.
      name: names an item in messages.

    Yields:
      Each item and its result; None if both processes were killed.

    Raises:
      UserError: If several processes in a row are killed.
    """
    if workers <= 1:
        yield from ((item, work(item)) for item in items)
        return

    killed = 0
    waiting = deque(items)
    while waiting:
        # 1. All processes work until one of them is killed.
        done = 0
        for item, finished in _until_killed(work, waiting, workers, _ahead(workers)):
            done += 1
            yield item, finished

        for _ in range(done):
            waiting.popleft()

        # 2. The killed process had one of the items that were submitted, but it is not
        # known which. Each of them is now run alone. An item whose process is killed
        # again gives None, and the next one is tried.
        suspects = deque(itertools.islice(waiting, _ahead(workers)))
        while suspects:
            for item, finished in _until_killed(work, tuple(suspects), 1, 1):
                killed = 0
                yield item, finished
                suspects.popleft()
                waiting.popleft()

            if suspects:
                item = suspects.popleft()
                waiting.popleft()
                killed += 1
                if killed == _MOST_KILLED:
                    raise UserError(
                        f"{killed} processes in a row were killed, the last one at "
                        f"{name(item)}; is there enough memory? Try fewer --workers."
                    )
                yield item, None


def _ahead(workers: int) -> int:
    """Returns how many items are submitted at once."""
    return 4 * workers


def _processes(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Starts processes; spawned, not forked, because the parent has threads."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)


def _until_killed(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Works on items in order, `ahead` at once, until a process is killed."""
    with _processes(workers) as pool:
        waiting = deque(items)
        running: deque[tuple[Item, concurrent.futures.Future[Result]]] = deque()
        try:
            while waiting or running:
                while waiting and len(running) < ahead:
                    item = waiting.popleft()
                    running.append((item, pool.submit(work, item)))

                item, future = running.popleft()
                finished = future.result()
                yield item, finished
        except concurrent.futures.process.BrokenProcessPool:
            return
        except BaseException:
            # A command that is stopped waits for what has begun, and for nothing else.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def collect_left_out(folder: pathlib.Path) -> list[str]:
    """Reads the lines about what was left out, in the order of the tracks' names.

    Args:
      folder: `Work.left_out`.

    Returns:
      The lines.
    """
    if not folder.is_dir():
        return []

    # Each file holds a track's name and its lines.
    noted = sorted(json.loads(file.read_bytes()) for file in folder.glob("*.json"))
    return [" ".join(line.split()) for _, lines in noted for line in lines]

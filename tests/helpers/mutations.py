"""Deterministic damage to files, for tests that read thousands of damaged ones."""

import collections

import numpy as np


def damaged(content, rng):
    """Cuts a file, changes some bytes, or removes, repeats or inserts a part."""
    data = bytearray(content)
    kind = rng.integers(6)
    if kind == 0:
        return bytes(data[: rng.integers(len(data) + 1)])
    if kind <= 3:
        reach = min(len(data), 96) if kind == 1 else len(data)
        for place in rng.integers(reach, size=rng.integers(1, 9)):
            # Numbers at the ends of their range break more than others.
            data[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        return bytes(data)
    start, stop = np.sort(rng.integers(len(data) + 1, size=2))
    part = data[start : min(stop, start + 64)]
    if kind == 4:
        return bytes(data[:start] + data[start + len(part) :])
    return bytes(data[:start] + part * 2 + data[start:])


def outcomes(attempts, *, allowed):
    """Counts how many calls read their input and how many refuse it.

    Fails for any other exception.

    Args:
      attempts: functions without arguments.
      allowed: the exceptions that count as refusals; each must be one line.
    """
    counts = collections.Counter(read=0, refused=0)
    sentences = []
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except allowed as error:
            sentences.append(str(error))
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(
                f"attempt {number}: {type(error).__name__}: {error}"
            ) from error
        else:
            counts["read"] += 1
    assert all(sentences), "a refusal has no message"
    assert not any("\n" in sentence for sentence in sentences), (
        "a refusal has several lines"
    )
    return counts

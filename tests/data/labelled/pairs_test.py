"""No pair of stage 1 mixes people and every pair of stage 2 does, in all sources.

The colours of each image show its person, so the tests check the images instead of the
indices.
"""

import itertools

import numpy as np
import pytest
import record_files
from PIL import Image

from facecycle_jax.data import make_loader

SIZE = 8
BACKENDS = ("memory", "threads", "tf")


def random_people(rng):
    """{(person, track).

    [(person number, track number, frame number)]} of any small shape.
    """
    people = int(rng.integers(2, 7))
    tracks = {}
    for person in range(people):
        for track in range(int(rng.integers(1, 4))):
            frames = range(int(rng.integers(1, 6)))
            # Names whose order is not that of their numbers.
            name = f"{(person * 7) % 10}-person{person}"
            tracks[name, f"{(track * 3) % 5}-t{track}"] = [
                (person, track, frame) for frame in frames
            ]

    return tracks


def write_tree(root, tracks):
    for (person, track), colours in tracks.items():
        folder = root / person / track
        folder.mkdir(parents=True)
        for number, colour in enumerate(colours):
            pixels = np.full((SIZE, SIZE, 3), np.array(colour) * 20, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")


def source(kind, tmp_path, tracks):
    """Writes the tracks as one kind of source; returns its path."""
    if kind == "records":
        pytest.importorskip("tensorflow")
        encoded = {
            (person, f"{person}/{track}"): [
                record_files.png(np.array(c) * 20) for c in colours
            ]
            for (person, track), colours in tracks.items()
        }
        record_files.write_set(tmp_path / "set", encoded, shards=3)
        return tmp_path / "set"

    write_tree(tmp_path / "tree", tracks)
    if kind == "folder":
        return tmp_path / "tree"

    lines = [f"tree/{person}/{track}" for person, track in tracks]
    (tmp_path / "list.txt").write_text("\n".join(lines))

    return tmp_path / "list.txt"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["folder", "list", "records"])
@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_show_one_person_in_stage_1_and_two_in_stage_2(
    kind, backend, seed, tmp_path
):
    if backend == "tf":
        pytest.importorskip("tensorflow")

    rng = np.random.default_rng(seed)
    tracks = random_people(rng)
    path = source(kind, tmp_path, tracks)
    options = {
        "source": kind,
        "path": str(path),
        "backend": backend,
        "identity_depth": 2 if kind == "list" else 1,
        "memory_gb": 1.0,
        "min_frames": 1,
        "max_tracks": 0,
        "decode_size": SIZE,
        "eval_fraction": 0.0,
    }
    known = {colour for colours in tracks.values() for colour in colours}
    for method in ("motion_cycle", "identity_cycle"):
        config = {"method": method, "batch_size": 8, "seed": seed, "data": options}
        batches = make_loader(config, split="train").batches(
            int(rng.integers(0, 10_000))
        )
        for batch in itertools.islice(batches, 8):
            shown = batch["frames"][:, :, 0, 0, :] // 20
            assert {tuple(c) for c in shown.reshape(-1, 3).tolist()} <= known
            same_person = shown[:, 0, 0] == shown[:, 1, 0]
            same_track = same_person & (shown[:, 0, 1] == shown[:, 1, 1])
            same_frame = same_track & (shown[:, 0, 2] == shown[:, 1, 2])
            if method == "motion_cycle":
                assert same_track.all()
                np.testing.assert_array_equal(same_frame, batch["mirror"])
            else:
                assert not same_person.any()

        batches.close()


def test_pairs_of_synthetic_faces_show_one_person_in_stage_1_and_two_in_stage_2():
    # Size and number of frames are those of other tests, which have compiled the
    # renderer.
    options = {
        "source": "synthetic",
        "path": "",
        "backend": "memory",
        "decode_size": 16,
        "eval_fraction": 0.0,
        "identities": 3,
        "frames_per_track": 3,
    }
    for method in ("motion_cycle", "identity_cycle"):
        loader = make_loader(
            {"method": method, "batch_size": 8, "seed": 1, "data": options},
            split="train",
        )
        person = {
            frame.tobytes(): number // 3 for number, frame in enumerate(loader.frames)
        }
        for batch in itertools.islice(loader.batches(0), 4):
            shown = np.array(
                [
                    [person[frame.tobytes()] for frame in pair]
                    for pair in batch["frames"]
                ]
            )
            same = shown[:, 0] == shown[:, 1]
            assert same.all() if method == "motion_cycle" else not same.any()

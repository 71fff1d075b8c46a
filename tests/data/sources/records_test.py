"""Prepared sets yield exactly the bytes that were prepared, and name any damage."""

import errno
import functools
import io
import json
import os
import pathlib
import shutil
import unittest.mock

import jax
import loader_batches
import numpy as np
import pytest
from blocked_imports import run_without
from loader_batches import assert_same, first
from PIL import Image
from record_files import png, write_set, write_shard

from facecycle_jax.data import make_loader
from facecycle_jax.data.sources.record_index import (
    FRAME,
    FRAMES,
    TRACKS,
    index_shard,
    read_index,
    verify,
    write_index,
)
from facecycle_jax.data.sources.records import DamagedSetError, find_set, open_records
from facecycle_jax.errors import UserError

pytest.importorskip("tensorflow")
SIZE = 8
config = functools.partial(
    loader_batches.config, size=SIZE, source="records", backend="threads"
)


def colour(person, track, frame):
    return (person * 10, track * 10, frame * 10)


TRACKS_OF_PEOPLE = {
    (f"p{person}", f"p{person}/t{track}"): [
        png(colour(person, track, n)) for n in range(2 + track)
    ]
    for person in range(6)
    for track in range(2)
}


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path / "set", TRACKS_OF_PEOPLE)
    return tmp_path / "set"


def test_frames_are_the_bytes_that_were_prepared(folder):
    tracks, records = open_records(str(folder))
    assert list(zip(tracks.identities, tracks.names, strict=True)) == sorted(
        TRACKS_OF_PEOPLE
    )
    for track, key in enumerate(sorted(TRACKS_OF_PEOPLE)):
        assert [
            records.read(frame) for frame in tracks.frames[track]
        ] == TRACKS_OF_PEOPLE[key]

    content, frames = read_index(folder)
    expected = {"shards": 2, "tracks": 12, "people": 6, "frames": 30, "left_out": 0}
    assert content["counts"].items() >= expected.items()
    assert sum(shard["records"] for shard in content["shards"]) == 12
    assert frames["length"].sum() == sum(
        len(f) for v in TRACKS_OF_PEOPLE.values() for f in v
    )


def test_short_tracks_and_those_above_the_maximum_are_left_out(folder):
    assert len(open_records(str(folder), min_frames=3)[0]) == 6
    assert open_records(str(folder), max_tracks=3)[0].names == [
        "p0/t0",
        "p0/t1",
        "p1/t0",
    ]
    with pytest.raises(ValueError, match="no track of at least 9 frames"):
        open_records(str(folder), min_frames=9)


@pytest.mark.parametrize("method", ["motion_cycle", "identity_cycle"])
def test_batches_equal_those_of_the_folder(folder, tmp_path, method):
    for (_, name), frames in TRACKS_OF_PEOPLE.items():
        (tmp_path / "tree" / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            (tmp_path / "tree" / name / f"{number}.png").write_bytes(frame)

    options = {"method": method, "min_frames": 2, "eval_fraction": 0.34}
    for split in ("train", "eval"):
        tree = make_loader(
            config(tmp_path / "tree", source="folder", backend="memory", **options),
            split=split,
        )
        expected = first(tree, 6)
        for backend in ("threads", "memory", "tf"):
            loader = make_loader(
                config(folder, backend=backend, **options), split=split
            )
            assert_same(first(loader, 6), expected)


def test_only_the_frames_of_a_batch_are_read(folder):
    loader = make_loader(config(folder), split="train")
    read = []
    pread = os.pread

    def noted(descriptor, length, offset):
        read.append(length)
        return pread(descriptor, length, offset)

    with unittest.mock.patch.object(os, "pread", noted):
        at_start = first(loader, 1)
        from_start, read[:] = sum(read), []
        first(loader, 1, start=1_000_000)

    # A batch and those ahead; as many a million steps later, and no whole track.
    assert len(at_start[0]["frames"]) == 4
    longest = max(len(f) for v in TRACKS_OF_PEOPLE.values() for f in v)
    threads = os.cpu_count()
    for total in (from_start, sum(read)):
        assert 0 < total <= 8 * longest * (4 + 2 * threads)


def test_resumed_runs_and_processes_read_the_same_batches(folder):
    loader = make_loader(config(folder), split="train")
    whole = first(loader, 8)
    assert_same(first(loader, 3, start=5), whole[5:])
    parts = []
    for process in range(2):
        with (
            unittest.mock.patch.object(jax, "process_count", return_value=2),
            unittest.mock.patch.object(jax, "process_index", return_value=process),
        ):
            parts.append(first(make_loader(config(folder), split="train"), 8))

    for step, batch in enumerate(whole):
        for name, value in batch.items():
            joined = np.concatenate([parts[0][step][name], parts[1][step][name]])
            np.testing.assert_array_equal(joined, value)


def test_tracks_of_several_sets_keep_names_of_their_own(folder, tmp_path):
    write_set(
        tmp_path / "other",
        {("p0", "p0/t0"): [png((1, 2, 3))] * 2, ("q", "q/t"): [png((9, 9, 9))]},
    )
    tracks, records = open_records(f"{folder}, {tmp_path / 'other'}")
    assert len(tracks) == 14
    # One person in both sets is one person.
    assert len(set(tracks.identities)) == 7
    assert records.read(tracks.frames[tracks.names.index("p0/t0#2")][1]) == png(
        (1, 2, 3)
    )
    assert records.read(tracks.frames[-1][0]) == png((9, 9, 9))
    with pytest.raises(ValueError, match="holds several prepared sets"):
        find_set(str(tmp_path))


def test_a_shard_that_is_cut_off_or_missing_is_named_before_training(folder):
    shard = next(folder.glob("*00000-of*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(
        ValueError, match=r"The shard .*00000-of-00002 has \d+ bytes and had \d+"
    ):
        make_loader(config(folder), split="train")

    shard.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"The shard .*00000-of-00002 is missing"
    ):
        make_loader(config(folder), split="train")


@pytest.mark.parametrize("backend", ["threads", "tf"])
@pytest.mark.parametrize("damage", ["cut", "foreign", "gone"])
def test_damage_while_training_ends_the_run_with_its_name(folder, backend, damage):
    loader = make_loader(config(folder, backend=backend), split="train")
    for shard in folder.glob("*tfrecord*"):
        if damage == "cut":
            os.truncate(shard, 200)
        elif damage == "gone":
            shard.unlink()
        else:
            shard.write_bytes(bytes(reversed(shard.read_bytes())))

    words = {
        "cut": "is cut off",
        "foreign": "does not hold at byte",
        "gone": "is gone; bring it back",
    }[damage]
    with pytest.raises(DamagedSetError, match=words):
        first(loader, 30)


@pytest.mark.parametrize("backend", ["threads", "tf"])
@pytest.mark.parametrize("times", [2, 10**6])
def test_an_error_of_the_storage_is_no_damage_of_the_set(
    folder, backend, times, monkeypatch
):
    expected = first(make_loader(config(folder), split="train"), 5)
    monkeypatch.setattr(
        "facecycle_jax.data.batches.frame_reader._PAUSES", (0.0, 0.0, 0.0)
    )
    failed = []
    used = set()
    pread = os.pread

    def failing(descriptor, *arguments):
        used.add(descriptor)
        if len(failed) < times:
            failed.append(descriptor)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(descriptor, *arguments)

    monkeypatch.setattr(os, "pread", failing)
    loader = make_loader(config(folder, backend=backend), split="train")
    if times == 2:
        assert_same(first(loader, 5), expected)
        # A stale descriptor is not used again.
        assert used - set(failed)
    else:
        with pytest.raises(OSError, match=r"Stale file handle: '.*tfrecord") as raised:
            first(loader, 5)
        assert raised.value.errno == errno.ESTALE


def test_the_package_is_imported_where_open_files_have_no_limit(tmp_path):
    ended = run_without(
        ("resource",),
        "from facecycle_jax.data.sources import records; records._allow_open_files(9)",
        cwd=pathlib.Path(__file__).parents[3],
    )
    assert ended.returncode == 0, ended.stderr


def test_a_foreign_record_never_passes_for_the_right_one(tmp_path):
    """A shard of another set with images of the same lengths in the same places."""

    def bmp(*colour):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "BMP")
        return buffer.getvalue()

    one = {(f"p{n}", f"p{n}/t"): [bmp(n, 0, 0), bmp(n, 1, 0)] for n in range(4)}
    two = {(f"q{n}", f"q{n}/t"): [bmp(n, 0, 9), bmp(n, 1, 9)] for n in range(4)}
    write_set(tmp_path / "one", one)
    write_set(tmp_path / "two", two)
    name = "set-train.tfrecord-00000-of-00002"
    assert (tmp_path / "one" / name).stat().st_size == (
        tmp_path / "two" / name
    ).stat().st_size
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(DamagedSetError, match="does not hold at byte"):
        first(make_loader(config(tmp_path / "one"), split="train"), 10)


def test_checksums_find_a_changed_bit(folder):
    assert verify(folder) == []
    shard = next(folder.glob("*00001-of*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (problem,) = verify(folder)
    assert problem.startswith(f"The shard {shard} has changed: SHA-256")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / TRACKS).unlink(), "holds no prepared set"),
        (lambda f: (f / TRACKS).write_text("{"), r"tracks\.json is damaged"),
        (
            lambda f: (f / TRACKS).write_text('{"count": [], "format": "x 9"}'),
            "format 'x 9', this program reads",
        ),
        (lambda f: (f / FRAMES).write_bytes(b"no array"), r"frames\.npy is damaged"),
        (lambda f: (f / FRAMES).write_bytes(b""), r"frames\.npy is damaged"),
        (lambda f: (f / FRAMES).unlink(), r"frames\.npy is missing"),
        (
            lambda f: np.save(f / FRAMES, np.zeros(3)),
            "lists something else than frames and tracks.json 30",
        ),
        (
            lambda f: np.save(f / FRAMES, np.zeros(3, FRAME)),
            "lists 3 frames and tracks.json 30",
        ),
    ],
)
def test_a_damaged_index_is_reported(folder, spoil, words):
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make_loader(config(folder), split="train")


def test_files_that_are_no_shards_are_refused(folder, tmp_path):
    shard = tmp_path / "x.tfrecord"
    write_shard(shard, {("p", "p/t"): [png((0, 0, 0))] * 3})
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"x\.tfrecord is cut off"):
        index_shard(shard, number=0)

    import tensorflow as tf

    for content in (
        b"",
        b"\x0a\xff\xff\xff\xff\x0f",
        tf.train.Example().SerializeToString() + b"abc",
    ):
        with tf.io.TFRecordWriter(str(shard)) as writer:
            writer.write(content)
        with pytest.raises(ValueError, match="that is not a track"):
            index_shard(shard, number=0)

    for name in ("a", "b"):
        write_shard(tmp_path / name, {("p", "p/t"): [png((0, 0, 0))]})

    with pytest.raises(ValueError, match="two records of the track p/t"):
        write_index(tmp_path, ["a", "b"])

    assert not (tmp_path / TRACKS).exists()


def test_records_are_read_without_tensorflow(folder, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['tensorflow'] = None; "
        "sys.modules['tensorflow_datasets'] = None\nimport itertools, json\nfrom "
        "facecycle_jax.data import make_loader\nbatch = "
        "next(make_loader(json.loads(sys.argv[1]), "
        "split='train').batches(0))\nprint(batch['frames'].shape)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(config(folder))],
        capture_output=True, text=True, cwd=os.getcwd(),
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert result.stdout.strip() == "(4, 2, 8, 8, 3)", result.stderr


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_checksums_find_a_changed_bit_of_the_index(folder):
    flip(folder / FRAMES, -20)
    (problem,) = verify(folder)
    assert problem.startswith(f"The index {folder / FRAMES} has changed: SHA-256")


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_changed_bit_of_tracks_json_is_found_before_training(folder, part):
    path = folder / TRACKS
    flip(path, int(part * path.stat().st_size))
    with pytest.raises(UserError, match=r"tracks\.json"):
        verify(folder)
    with pytest.raises(UserError, match=r"tracks\.json"):
        make_loader(config(folder), split="train")


def test_an_index_that_points_outside_a_shard_is_blamed_itself(folder):
    frames = np.load(folder / FRAMES)
    frames["length"] = 2**32 - 1
    np.save(folder / FRAMES, frames)
    with pytest.raises(
        DamagedSetError,
        match=r"frames\.npy is damaged: it places a frame of the track p",
    ):
        first(make_loader(config(folder), split="train"), 1)


def unsigned(folder, change):
    """Changes tracks.json to the form of earlier versions, without own checksums."""
    content = json.loads((folder / TRACKS).read_text())
    del content["sha256"], content["frames_sha256"]
    change(content)
    (folder / TRACKS).write_text(json.dumps(content))


def test_sets_of_earlier_versions_are_read(folder):
    expected = first(make_loader(config(folder), split="train"), 3)
    unsigned(folder, lambda content: None)
    assert verify(folder) == []
    assert_same(first(make_loader(config(folder), split="train"), 3), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(shards=3), "its shards are not a list"),
        (
            lambda c: c["shards"][0].update(bytes=-1),
            "a shard lacks its name, size or SHA-256",
        ),
        (
            lambda c: c["shards"][0].update(name="../x"),
            "a shard lies in another folder",
        ),
        (
            lambda c: c["shard"].__setitem__(0, 2),
            "a track lies in a shard that there is not",
        ),
        (lambda c: c["shard"].pop(), "its tracks are not as many everywhere"),
        (lambda c: c["track"].__setitem__(0, None), "its tracks lack names"),
        (
            lambda c: c["count"].__setitem__(0, 0),
            "its tracks lack names, shards or numbers of frames",
        ),
        (
            lambda c: c["count"].__setitem__(0, "2"),
            "its tracks lack names, shards or numbers of frames",
        ),
    ],
)
def test_a_wrong_entry_of_tracks_json_is_named(folder, change, words):
    unsigned(folder, change)
    with pytest.raises(UserError, match=rf"tracks\.json is damaged \({words}"):
        open_records(str(folder))


def test_a_set_of_more_shards_than_files_may_be_open_raises_the_limit(
    folder, monkeypatch
):
    limits = {"now": (100, 4096)}
    monkeypatch.setattr(
        "facecycle_jax.data.sources.records.resource.getrlimit",
        lambda kind: limits["now"],
    )
    monkeypatch.setattr(
        "facecycle_jax.data.sources.records.resource.setrlimit",
        lambda kind, limit: limits.update(now=limit),
    )
    open_records(str(folder))
    soft, hard = limits["now"]
    assert 512 < soft <= hard == 4096


def test_too_many_open_files_are_no_damage(folder, monkeypatch):
    _, records = open_records(str(folder))

    def full(path, flags):
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr("facecycle_jax.data.sources.records.os.open", full)
    with pytest.raises(UserError, match=r"Raise the limit: ulimit -n \d+\.") as raised:
        records.read(0)
    assert not isinstance(raised.value, DamagedSetError)

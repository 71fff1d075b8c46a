"""Batches from files and from memory are equal and resumable; errors are reported."""

import errno
import functools
import itertools
import logging
import os
import pathlib
import shutil
import unittest.mock

import jax
import loader_batches
import numpy as np
import pytest
from loader_batches import assert_same, first
from PIL import Image

from facecycle_jax.data import make_loader, make_loaders
from facecycle_jax.data.batches.frame_reader import (
    UnreadableFrames,
    file_reader,
    read_frame,
    read_or_replace,
)
from facecycle_jax.data.batches.host_memory import check_memory, decode_all
from facecycle_jax.data.batches.loader import FILE_SOURCES
from facecycle_jax.data.images.decoding import decode_pillow
from facecycle_jax.data.sources.folder import scan_folder
from facecycle_jax.data.sources.tracks import make_tracks, split_people

SIZE = 16
config = functools.partial(loader_batches.config, size=SIZE)


def image(person, frame):
    """An image whose colours name its person and frame."""
    return np.full((SIZE, SIZE, 3), (person * 10, frame * 10, 100), np.uint8)


@pytest.fixture
def tree(tmp_path):
    for person in range(6):
        folder = tmp_path / f"p{person}" / "track"
        folder.mkdir(parents=True)
        for frame in range(5):
            Image.fromarray(image(person, frame)).save(folder / f"{frame}.png")
    return tmp_path


def test_half_of_the_pairs_are_mirror_images_by_default(tree):
    mirror = np.concatenate(
        [b["mirror"] for b in first(make_loader(config(tree), split="train"), 100)]
    )
    # Four standard deviations of 400 throws.
    assert abs(mirror.mean() - 0.5) < 0.1
    held = make_loader(config(tree), split="eval")
    assert not any(batch["mirror"].any() for batch in first(held, 20))


def test_each_root_has_its_own_probability_of_mirror_images(tree):
    # The second root lies within the first.
    roots = f"{tree}, {tree / 'p1'}"
    for split in ("train", "eval"):
        loader = make_loader(
            config(roots, mirror_pair_probability=(0.0, 1.0)), split=split
        )
        inner = np.array(
            [frames[0].startswith(f"{tree / 'p1'}/") for frames in loader.tracks.frames]
        )
        assert 0 < inner.sum() < len(inner)
        for batch in first(loader, 20):
            np.testing.assert_array_equal(batch["mirror"], inner[batch["track"][:, 0]])
            same = (batch["frames"][:, 0] == batch["frames"][:, 1]).all(axis=(1, 2, 3))
            np.testing.assert_array_equal(same, batch["mirror"])


@pytest.mark.parametrize("method", ["motion_cycle", "identity_cycle"])
def test_all_backends_yield_the_same_bytes(tree, method):
    pytest.importorskip("tensorflow")
    backends = ("memory", "tf", "threads")
    loaders = [
        make_loader(config(tree, b, method=method), split="train") for b in backends
    ]
    assert {loader.num_tracks for loader in loaders} == {6}
    expected = first(loaders[0], 7)
    for loader in loaders[1:]:
        assert_same(first(loader, 7), expected)


def test_frames_are_those_of_the_named_people(tree):
    for method in ("motion_cycle", "identity_cycle"):
        for batch in first(make_loader(config(tree, method=method), split="train"), 20):
            assert batch["frames"].dtype == np.uint8
            assert batch["frames"].shape == (4, 2, SIZE, SIZE, 3)
            # The red channel is the person, whatever the indices say.
            np.testing.assert_array_equal(
                batch["frames"][..., 0, 0, 0], batch["identity"] * 10
            )
            same = batch["identity"][:, 0] == batch["identity"][:, 1]
            assert same.all() if method == "motion_cycle" else not same.any()


@pytest.mark.parametrize(
    ("loss", "one_track"),
    [
        ({}, False),
        ({"exchange_identity": True}, True),
        ({"contrast_weight": 0.5}, True),
        ({"exchange_identity": False, "contrast_weight": 0.0}, False),
    ],
)
def test_stage_2_pairs_one_track_where_it_compares_codes_of_one_person(
    tree, loss, one_track
):
    settings = {**config(tree, method="identity_cycle"), "loss": loss}
    for batch in first(make_loader(settings, split="train"), 20):
        assert (np.diff(batch["track"], axis=1) == 0).all() == one_track


@pytest.mark.parametrize("backend", ["memory", "threads", "tf"])
def test_a_later_start_continues_where_an_earlier_one_would_be(tree, backend):
    if backend == "tf":
        pytest.importorskip("tensorflow")
    loader = make_loader(config(tree, backend), split="train")
    assert_same(first(loader, 9)[5:], first(loader, 4, start=5))


def test_starting_late_reads_nothing_of_the_past(tree):
    loader = make_loader(config(tree, "tf"), split="train")
    pytest.importorskip("tensorflow")
    read = []
    from facecycle_jax.data.batches import frame_reader as reading

    def noted(path, *, size):
        read.append(path)
        return read_frame(path, size=size)

    with unittest.mock.patch.object(reading, "read_frame", noted):
        first(loader, 1, start=1_000_000)

    # A batch and what is read ahead of it, not eight million frames.
    assert 8 <= len(read) < 800


def test_each_process_has_its_part(tree):
    whole = first(make_loader(config(tree), split="train"), 3)
    parts = []
    for process in range(2):
        with (
            unittest.mock.patch.object(jax, "process_count", return_value=2),
            unittest.mock.patch.object(jax, "process_index", return_value=process),
        ):
            parts.append(first(make_loader(config(tree), split="train"), 3))

    for step in range(3):
        for name in whole[step]:
            joined = np.concatenate([parts[0][step][name], parts[1][step][name]])
            np.testing.assert_array_equal(joined, whole[step][name])


@pytest.mark.parametrize("backend", ["memory", "threads", "tf"])
def test_unreadable_frames_are_left_out_and_named_once(tree, backend, caplog):
    if backend == "tf":
        pytest.importorskip("tensorflow")

    broken = tree / "p2" / "track" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    empty = tree / "p4" / "track" / "0.png"
    empty.write_bytes(b"")
    loader = make_loader(config(tree, backend), split="train")
    with caplog.at_level(logging.WARNING):
        batches = first(loader, 40)

    assert set(loader.report.unreadable) == {str(broken), str(empty)}
    for path in (broken, empty):
        assert sum(str(path) in record.getMessage() for record in caplog.records) <= 1

    greens = {
        tuple(v)
        for b in batches
        for v in b["frames"][:, :, 0, 0, :2].reshape(-1, 2).tolist()
    }
    assert (20, 30) not in greens
    assert (40, 0) not in greens
    assert len(greens) == 28


@pytest.mark.parametrize(
    ("backend", "decoder"),
    [("threads", "pillow"), ("threads", "opencv"), ("tf", "pillow")],
)
def test_a_file_that_vanishes_during_training_is_replaced_and_reported_once(
    tree, backend, decoder, caplog
):
    pytest.importorskip({"tf": "tensorflow", "threads": "numpy"}[backend])
    pytest.importorskip({"opencv": "cv2", "pillow": "PIL"}[decoder])
    batches = make_loader(
        config(tree, backend, decoder=decoder), split="train"
    ).batches(0)
    next(batches)
    gone = tree / "p2" / "track" / "3.png"
    gone.unlink()
    # Let go of what was read ahead.
    later = list(itertools.islice(batches, 300))[-60:]
    batches.close()
    assert sum(str(gone) in record.getMessage() for record in caplog.records) == 1
    for batch in later:
        np.testing.assert_array_equal(
            batch["frames"][..., 0, 0, 0], batch["identity"] * 10
        )
        greens = batch["frames"][batch["identity"] == 2][:, 0, 0, 1]
        assert 30 not in greens.tolist()


def test_an_unreadable_track_is_left_out_of_memory_and_ends_a_pipeline(tree):
    for file in (tree / "p2" / "track").iterdir():
        file.write_bytes(b"not an image")

    loader = make_loader(config(tree, "memory"), split="train")
    assert loader.num_tracks == 5
    pytest.importorskip("tensorflow")
    with pytest.raises(
        ValueError, match=r"No image of the track .*p2/track can be read"
    ):
        first(make_loader(config(tree, "tf"), split="train"), 20)


def test_the_next_readable_frame_stands_in(tree):
    (tree / "p0" / "track" / "4.png").write_bytes(b"")
    (tree / "p0" / "track" / "0.png").write_bytes(b"")
    paths = sorted(str(p) for p in (tree / "p0" / "track").iterdir())
    tracks = make_tracks([("p0", "p0/track", paths)], origin="the test")
    report = UnreadableFrames()
    read = read_or_replace(
        tracks, 0, 4, read=file_reader("pillow", size=SIZE), report=report
    )
    np.testing.assert_array_equal(read, image(0, 1))
    assert len(report.unreadable) == 2


def test_a_source_without_readable_images_raises(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"none of its 1 images can be read; one: .*0\.jpg"
    ):
        make_loader(config(tmp_path), split="train")


def test_single_images_are_paired_with_their_mirror_image(tmp_path):
    for number in range(3):
        Image.fromarray(image(number, 0)).save(tmp_path / f"{number}.png")
    for batch in first(make_loader(config(tmp_path, min_frames=4), split="train"), 3):
        assert batch["mirror"].all()
        np.testing.assert_array_equal(batch["frames"][:, 0], batch["frames"][:, 1])


def test_frames_above_the_memory_limit_are_refused(tree):
    tracks = make_loader(config(tree), split="train").tracks
    with pytest.raises(
        ValueError,
        match=r"needs 0\.0 GB decoded at 16 pixels, more than data.memory_gb=0",
    ):
        check_memory(tracks, size=SIZE, limit_gb=0)

    # Both splits are in memory at once, so each refuses what is too much together.
    whole = sum(len(frames) for frames in tracks.frames) * SIZE * SIZE * 3 / 1e9
    for split in ("train", "eval"):
        limited = config(tree, memory_gb=1.01 * whole, eval_fraction=0.3)
        make_loader(limited, split=split)
        limited["data"]["memory_gb"] = 0.99 * whole
        with pytest.raises(ValueError, match=r"more than data\.memory_gb"):
            make_loader(limited, split=split)

    kept, frames = decode_all(
        tracks, read=file_reader("pillow", size=SIZE), report=UnreadableFrames()
    )
    assert frames.shape == (30, SIZE, SIZE, 3)
    assert len(kept) == 6


def test_invalid_settings_raise_with_the_option_s_name(tree):
    with pytest.raises(
        ValueError, match=r"data\.backend must be one of .*, got 'disk'"
    ):
        make_loader(config(tree, "disk"), split="train")

    with pytest.raises(ValueError, match=r"data\.source must be one of .*, got 'web'"):
        make_loader(config(tree, source="web"), split="train")

    with pytest.raises(
        ValueError, match=r"mirror_pair_probability must be from 0 to 1, got \[1\.5\]"
    ):
        make_loader(config(tree, mirror_pair_probability=(1.5,)), split="train")

    with pytest.raises(ValueError, match=r"has 2 numbers and data\.path 1 folders"):
        make_loader(config(tree, mirror_pair_probability=(0.5, 1.0)), split="train")

    with pytest.raises(ValueError, match=r"data\.path is empty"):
        make_loader(config(""), split="train")


def test_synthetic_people_are_held_out_too():
    options = {
        "source": "synthetic",
        "identities": 8,
        "frames_per_track": 3,
        "eval_fraction": 0.25,
    }
    train, held = (
        make_loader(config("", **options), split=s) for s in ("train", "eval")
    )
    assert (train.num_tracks, held.num_tracks) == (6, 2)
    assert not set(train.tracks.identities) & set(held.tracks.identities)
    shown = {frame.tobytes() for frame in train.frames}
    assert not any(frame.tobytes() in shown for frame in held.frames)
    assert len(train.frames) == 18
    assert len(held.frames) == 6


@pytest.fixture
def impatient(monkeypatch):
    """Attempts follow each other at once."""
    monkeypatch.setattr(
        "facecycle_jax.data.batches.frame_reader._PAUSES", (0.0, 0.0, 0.0)
    )


def test_a_read_error_that_passes_drops_no_frame(tree, impatient, monkeypatch):
    tracks = scan_folder(str(tree))
    target = tracks.frames[0][0]
    failures = itertools.count()
    opening = open

    def flaky(path, *arguments, **options):
        if path == target and next(failures) < 3:
            raise OSError(errno.EIO, "Input/output error", path)
        return opening(path, *arguments, **options)

    # Reading through OpenCV's reader opens a file by name.
    monkeypatch.setattr("builtins.open", flaky)
    report = UnreadableFrames()

    def read(frame):
        try:
            with open(frame, "rb") as file:
                return decode_pillow(file.read(), size=SIZE)
        except OSError as error:
            raise ValueError(str(error)) from None

    kept, frames = decode_all(tracks, read=read, report=report)
    assert not report.unreadable
    assert sum(map(len, kept.frames)) == sum(map(len, tracks.frames)) == len(frames)


def test_a_pipe_in_the_place_of_an_image_is_left_out(tree, impatient):
    tracks = scan_folder(str(tree))
    pipe = pathlib.Path(tracks.frames[1][0])
    pipe.unlink()
    os.mkfifo(pipe)

    report = UnreadableFrames()
    read = file_reader("pillow", size=SIZE)
    kept, frames = decode_all(tracks, read=read, report=report)
    assert "is a pipe" in report.unreadable[str(pipe)]
    assert sum(map(len, kept.frames)) == len(frames)

    # Every row that stays is that of its own file.
    files = [name for names in kept.frames for name in names]
    assert str(pipe) not in files
    for file, frame in zip(files, frames, strict=True):
        np.testing.assert_array_equal(frame, read(file))


def test_a_track_that_becomes_too_short_is_left_out_and_single_images_stay(
    tmp_path, impatient
):
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2", "alone"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE)).save(path)
    (tmp_path / "a/1.png").write_bytes(b"no image")

    options = config(tmp_path, min_frames=3, eval_fraction=0)
    for backend in ("memory", "device"):
        options["data"]["backend"] = backend
        loader = make_loader(options, split="train")
        assert list(loader.tracks.names) == ["alone.png", "b"]
        assert len(loader.frames) == 4

    # Where none stays, the message tells why.
    (tmp_path / "alone.png").unlink()
    (tmp_path / "b/1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no track has 3 images that can be read; one"):
        make_loader(options, split="train")


def test_a_file_that_stays_unreadable_ends_the_run_instead_of_its_frame(
    tree, impatient
):
    tracks = scan_folder(str(tree))
    gone = pathlib.Path(tracks.frames[1][0])
    gone.unlink()
    report = UnreadableFrames()
    with pytest.raises(FileNotFoundError, match=gone.name):
        decode_all(tracks, read=file_reader("pillow", size=SIZE), report=report)
    assert not report.unreadable


PIPELINES = ("threads", "tf")


def fail_to_open(monkeypatch, target, *, times, number=errno.EIO):
    """Has the storage refuse a file `times` times; returns the attempts so far."""
    attempts = []
    opening = os.open

    def failing(path, *arguments, **options):
        if path == target and len(attempts) < times:
            attempts.append(path)
            raise OSError(number, os.strerror(number), path)
        return opening(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    return attempts


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
@pytest.mark.parametrize("backend", PIPELINES)
def test_a_storage_error_that_passes_replaces_no_frame_of_a_pipeline(
    tree, backend, decoder, impatient, monkeypatch
):
    pytest.importorskip({"tf": "tensorflow", "threads": "numpy"}[backend])
    pytest.importorskip({"opencv": "cv2", "pillow": "PIL"}[decoder])
    expected = first(make_loader(config(tree), split="train"), 30)

    target = str(tree / "p2" / "track" / "3.png")
    attempts = fail_to_open(monkeypatch, target, times=3)
    loader = make_loader(config(tree, backend, decoder=decoder), split="train")
    assert_same(first(loader, 30), expected)
    assert len(attempts) == 3
    assert not loader.unreadable


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("backend", PIPELINES)
def test_a_storage_error_that_stays_ends_a_pipeline_as_one_of_the_storage(
    tree, backend, number, impatient, monkeypatch
):
    pytest.importorskip({"tf": "tensorflow", "threads": "numpy"}[backend])
    target = str(tree / "p2" / "track" / "3.png")
    fail_to_open(monkeypatch, target, times=10**6, number=number)
    loader = make_loader(config(tree, backend), split="train")
    with pytest.raises(OSError, match=r"p2/track/3\.png") as raised:
        first(loader, 40)
    assert raised.value.errno == number
    assert not loader.unreadable


@pytest.mark.parametrize("backend", PIPELINES)
def test_a_drive_that_is_gone_is_no_damage(tree, backend, impatient):
    pytest.importorskip({"tf": "tensorflow", "threads": "numpy"}[backend])
    loader = make_loader(config(tree, backend), split="train")
    tree.rename(f"{tree}-away")
    with pytest.raises(OSError, match=r"is gone; is its drive still mounted\?"):
        first(loader, 1)
    assert not loader.unreadable


@pytest.mark.parametrize("backend", ["memory", "device", *PIPELINES])
def test_both_splits_come_from_one_listing_and_no_frame_is_decoded_twice(
    tree, backend, monkeypatch
):
    pytest.importorskip({"tf": "tensorflow"}.get(backend, "numpy"))
    listed = []
    decoded = []

    def scan(*arguments, **options):
        # The tree changes between two listings.
        listed.append(arguments)
        found = scan_folder(*arguments, **options)
        shutil.copytree(tree / "p0", tree / f"q{len(listed)}")
        return found

    def read(path, *, size):
        decoded.append(path)
        return read_frame(path, size=size)

    monkeypatch.setitem(FILE_SOURCES, "folder", scan)
    monkeypatch.setattr("facecycle_jax.data.batches.frame_reader.read_frame", read)
    train, held = make_loaders(config(tree, backend, eval_fraction=0.4))

    assert len(listed) == 1
    assert (train.num_tracks, held.num_tracks) == (4, 2)
    assert not set(train.tracks.identities) & set(held.tracks.identities)
    in_memory = backend not in PIPELINES
    assert len(decoded) == len(set(decoded)) == (30 if in_memory else 0)

    # They are the loaders that are built one by one.
    monkeypatch.undo()
    shutil.rmtree(tree / "q1")
    for loader, split in ((train, "train"), (held, "eval")):
        alone = make_loader(config(tree, "memory", eval_fraction=0.4), split=split)
        assert_same(first(loader, 5), first(alone, 5))


def test_without_held_out_people_both_loaders_share_their_frames(tree):
    train, held = make_loaders(config(tree))
    assert held.frames is train.frames
    for loader, split in ((train, "train"), (held, "eval")):
        assert_same(
            first(loader, 20), first(make_loader(config(tree), split=split), 20)
        )


def test_the_fingerprint_tells_what_is_drawn_from_and_not_where_it_lies(
    tree, tmp_path_factory
):
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, copy)
    own = make_loader(config(tree), split="train").fingerprint()
    assert own == make_loader(config(copy), split="train").fingerprint()

    # One frame fewer, in the middle of a track.
    victim = make_loader(config(copy), split="train").tracks.frames[0][2]
    pathlib.Path(victim).unlink()
    fewer = make_loader(config(copy), split="train").fingerprint()
    assert {name for name in own if own[name] != fewer[name]} == {"frames"}


def test_the_fingerprint_is_that_of_the_same_folder_by_another_path(
    tmp_path, monkeypatch
):
    for name in ("faces/0", "faces/1", "other/0", "other/1"):
        path = tmp_path / "faces" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE, SIZE)).save(path)

    monkeypatch.chdir(tmp_path)
    options = {"min_frames": 2, "eval_fraction": 0}
    whole = make_loader(config(tmp_path / "faces", **options), split="train")
    below = make_loader(config("faces", **options), split="train")
    assert whole.fingerprint() == below.fingerprint()


def test_people_whose_names_are_no_utf8_are_split_like_others():
    names = [os.fsdecode(b"caf\xe9"), "anna", "bob", "carl", "dora", "emil"]
    tracks = make_tracks([(name, name, ["0"]) for name in names], origin="here")
    train, held = split_people(tracks, eval_fraction=0.4)
    assert sorted([*train.identities, *held.identities]) == sorted(names)

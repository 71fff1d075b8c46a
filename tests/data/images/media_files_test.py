"""Searches of folders end, no link mixes people, and only regular files are opened."""

import functools
import logging
import os
import shutil

import fake_bucket
import loader_batches
import numpy as np
import pytest
from loader_batches import first
from PIL import Image
from record_files import png, write_set

from facecycle_jax.data import (
    list_images,
    make_loader,
    read_image,
    read_list,
    scan_folder,
)
from facecycle_jax.data.images.media_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, walk
from facecycle_jax.data.prepare.encoding import (
    FrameOptions,
    image_sources,
    prepare_track,
    video_sources,
)
from facecycle_jax.data.sources.records import open_records
from facecycle_jax.data.sources.tracks import split_people
from facecycle_jax.errors import UserError

config = functools.partial(loader_batches.config, size=8)


def write_image(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, 0, 0)).save(path, format="PNG")
    return path


@pytest.fixture
def people(tmp_path):
    """ann and bob, two images each."""
    for person in ("ann", "bob"):
        for number in range(2):
            write_image(tmp_path / "root" / person / f"{number}.png")
    return tmp_path / "root"


def shown(root):
    """Which folders' images each person has."""
    tracks = scan_folder(str(root))
    found = {}
    for person, frames in zip(tracks.identities, tracks.frames, strict=True):
        real = {
            os.path.basename(os.path.dirname(os.path.realpath(frame)))
            for frame in frames
        }
        found[person] = found.get(person, set()) | real

    return found


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("ann/back", ".."),
        ("ann/other", "../bob"),
        ("ann/self", "."),
        ("all", "."),
        ("aaa", "bob"),
        ("ann/2.png", "../bob/1.png"),
        ("ann/away", "../.."),
        ("ann/disk", "/"),
    ],
)
def test_no_link_shows_one_person_as_another(people, link, target, caplog):
    before = scan_folder(str(people))
    (people / link).symlink_to(target)
    with caplog.at_level(logging.WARNING):
        found = shown(people)
    assert found == {"ann": {"ann"}, "bob": {"bob"}}
    assert scan_folder(str(people)) == before
    assert "links are left out" in caplog.text


def test_links_in_both_directions_end(people):
    """Followed without a record of the way, these are 2^40 folders."""
    (people / "ann" / "back").symlink_to("..")
    (people / "bob" / "back").symlink_to("..")
    assert shown(people) == {"ann": {"ann"}, "bob": {"bob"}}


def test_links_to_elsewhere_are_followed_and_each_file_counts_once(tmp_path):
    for number in range(3):
        write_image(tmp_path / "store" / f"{number}.png")

    (tmp_path / "root" / "ann").mkdir(parents=True)
    for name, number in (("a", 0), ("b", 1), ("again", 1)):
        (tmp_path / "root" / "ann" / f"{name}.png").symlink_to(
            tmp_path / "store" / f"{number}.png"
        )

    tracks = scan_folder(str(tmp_path / "root"))
    assert [os.path.basename(frame) for frame in tracks.frames[0]] == [
        "a.png",
        "again.png",
    ]
    # Preparing reads the same files.
    (source,) = image_sources(str(tmp_path / "root"))
    assert len(prepare_track(source, FrameOptions()).frames) == 2


def test_links_to_files_beside_the_root_are_followed(tmp_path):
    write_image(tmp_path / "0.png")
    (tmp_path / "root" / "ann").mkdir(parents=True)
    (tmp_path / "root" / "ann" / "0.png").symlink_to(tmp_path / "0.png")
    assert len(scan_folder(str(tmp_path / "root")).frames[0]) == 1


def test_a_root_within_a_root_is_scanned_once(people):
    tracks = scan_folder(f"{people}, {people / 'bob'}")
    assert list(tracks.identities) == ["0.png#2", "1.png#2", "ann"]
    with pytest.raises(UserError, match="is named twice"):
        scan_folder(f"{people}, {people}/")


def test_hidden_files_and_folders_are_left_out(people):
    write_image(people / ".thumbnails" / "0.png")
    write_image(people / "ann" / "._0.png")
    assert shown(people) == {"ann": {"ann"}, "bob": {"bob"}}
    (people / "list.txt").write_text("ann\n")
    assert len(read_list(str(people / "list.txt")).frames[0]) == 2


def test_a_folder_that_may_not_be_read_is_named(people, monkeypatch, caplog):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("bob"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with caplog.at_level(logging.WARNING):
        folders = walk([str(people)])

    assert [os.path.basename(folder.path) for folder in folders] == ["root", "ann"]
    assert "bob is left out: Permission denied" in caplog.text


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_a_pipe_in_the_place_of_an_image_is_refused_at_once(people, decoder):
    pytest.importorskip({"opencv": "cv2", "pillow": "PIL"}[decoder])
    pipe = people / "ann" / "2.png"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"2\.png is a pipe, a socket or a device"):
        read_image(pipe)

    loader = make_loader(config(people, "threads", decoder=decoder), split="train")
    first(loader, 30)
    (reason,) = loader.unreadable.values()
    assert (
        reason
        == f"{pipe} is a pipe, a socket or a device; images must be regular files."
    )
    (line,) = prepare_track(image_sources(str(people))[0], FrameOptions()).left_out
    assert line == reason


def test_devices_and_folders_are_no_images(tmp_path):
    with pytest.raises(UserError, match="is a pipe, a socket or a device"):
        read_image("/dev/zero")
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)


def test_a_file_larger_than_any_image_is_refused_unread(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        UserError, match=r"x\.png has 1,099,511,627,776 bytes, more than"
    ):
        read_image(tmp_path / "x.png")


def test_a_file_in_a_bucket_is_refused_unread_too(tmp_path):
    (tmp_path / "bucket").mkdir()
    with open(tmp_path / "bucket" / "x.png", "wb") as file:
        file.truncate(1 << 40)
    write_image(tmp_path / "bucket" / "y.png")
    with fake_bucket.bucket(tmp_path):
        assert read_image("gs://bucket/y.png").shape == (8, 8, 3)
        with pytest.raises(
            UserError, match=r"gs://bucket/x\.png has 1,099,511,627,776 bytes, more"
        ):
            read_image("gs://bucket/x.png")


def test_all_commands_and_sources_know_the_same_endings(tmp_path):
    for suffix in IMAGE_SUFFIXES:
        write_image(tmp_path / "images" / "ann" / f"x{suffix}")
        write_image(tmp_path / "images" / "ann" / f"y{suffix.upper()}")

    count = 2 * len(IMAGE_SUFFIXES)
    assert len(scan_folder(str(tmp_path / "images")).frames[0]) == count
    assert len(list(list_images(tmp_path / "images"))) == count
    (source,) = image_sources(str(tmp_path / "images"))
    assert len(prepare_track(source, FrameOptions()).frames) == count
    (tmp_path / "list.txt").write_text("images/ann\n")
    assert len(read_list(str(tmp_path / "list.txt")).frames[0]) == count

    (tmp_path / "videos" / "ann" / "1").mkdir(parents=True)
    for suffix in VIDEO_SUFFIXES:
        (tmp_path / "videos" / "ann" / "1" / f"x{suffix}").touch()

    assert len(video_sources(str(tmp_path / "videos"))) == len(VIDEO_SUFFIXES)


def held_out(tracks):
    return set(split_people(tracks, eval_fraction=0.1)[1].identities)


def test_held_out_people_do_not_depend_on_where_the_data_lies(tmp_path, monkeypatch):
    """Single images and folders, by different paths, and as records."""
    for number in range(20):
        write_image(tmp_path / "first" / f"{number:02}.png", number)
        write_image(tmp_path / "first" / f"p{number:02}" / "0.png", number)

    shutil.copytree(tmp_path / "first", tmp_path / "deep" / "second")
    monkeypatch.chdir(tmp_path)
    paths = (f"{tmp_path}/first", f"{tmp_path}/first/", "first", "./deep/second")
    found = [scan_folder(path) for path in paths]
    for tracks in found[1:]:
        assert (tracks.identities, tracks.names) == (
            found[0].identities,
            found[0].names,
        )

    prepared = {
        (s.identity, s.name): [png((0, 0, 0))]
        for s in image_sources(f"{tmp_path}/first")
    }
    assert sorted(prepared) == list(
        zip(found[0].identities, found[0].names, strict=True)
    )
    assert len(held_out(found[0])) == 4


def test_records_name_people_as_folders_do(tmp_path):
    """Two roots with images and folders of equal names.

    Single images are kept whatever min_frames.
    """
    pytest.importorskip("tensorflow")
    for place, root in enumerate(("one", "two")):
        for number in range(2):
            write_image(tmp_path / root / f"{number}.png", 100 * place + number)

        for number in range(4):
            write_image(tmp_path / root / "ann" / f"{place}{number}.png", 50)

        sources = image_sources(str(tmp_path / root))
        tracks = {
            (s.identity, s.name): prepare_track(s, FrameOptions()).frames
            for s in sources
        }
        write_set(tmp_path / "records" / root, tracks)

    roots = f"{tmp_path}/one,{tmp_path}/two"
    sets = f"{tmp_path}/records/one,{tmp_path}/records/two"
    folders = scan_folder(roots, min_frames=4)
    records, _ = open_records(sets, min_frames=4)
    assert list(folders.identities) == [
        "0.png",
        "0.png#2",
        "1.png",
        "1.png#2",
        "ann",
        "ann",
    ]
    assert list(folders.names) == [
        "0.png",
        "0.png#2",
        "1.png",
        "1.png#2",
        "ann",
        "ann#2",
    ]
    assert (records.identities, records.names) == (folders.identities, folders.names)
    assert [len(frames) for frames in records.frames] == [
        len(frames) for frames in folders.frames
    ]

    options = {"min_frames": 4, "eval_fraction": 0.4, "backend": "threads"}
    for split in ("train", "eval"):
        one = make_loader(config(roots, **options), split=split)
        two = make_loader(config(sets, source="records", **options), split=split)
        for a, b in zip(first(one, 4), first(two, 4), strict=True):
            np.testing.assert_array_equal(a["frames"], b["frames"])


def test_a_root_may_have_a_comma_when_it_is_prepared(tmp_path):
    write_image(tmp_path / "a, b" / "ann" / "0.png")
    (source,) = image_sources(str(tmp_path / "a, b"))
    assert len(prepare_track(source, FrameOptions()).frames) == 1


def test_lists_name_people_below_what_their_folders_share(tmp_path):
    (tmp_path / "lists").mkdir()
    found = []
    for place in ("here", "there"):
        for person in ("ann", "bob"):
            write_image(tmp_path / place / "frames" / person / "1" / "0.png")
        lines = [f"{tmp_path}/{place}/frames/{person}/1" for person in ("ann", "bob")]
        (tmp_path / "lists" / place).write_text("\n".join(lines) + "\n")
        found.append(read_list(str(tmp_path / "lists" / place)))

    assert found[0].identities == found[1].identities == ("ann", "bob")
    assert found[0].names == found[1].names == ("ann/1", "bob/1")


def test_a_list_that_gives_one_folder_to_two_people_is_refused(people):
    (people / "cy").symlink_to("ann")
    (people / "list.txt").write_text("ann\n# twice the weight\nann\ncy\n")
    with pytest.raises(
        UserError,
        match=r"list\.txt, lines 1 and 4 name the same folder as two people's",
    ):
        read_list(str(people / "list.txt"))


def test_names_that_are_not_utf8_are_read_and_prepared(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path / "root") + b"/Ren\xe9")
    os.makedirs(folder)
    for name in ("ann", "bob", "cy", "dee", "eve"):
        write_image(tmp_path / "root" / name / "0.png")

    shutil.copy(tmp_path / "root" / "ann" / "0.png", folder)
    tracks = scan_folder(str(tmp_path / "root"))
    assert os.fsdecode(b"Ren\xe9") in tracks.identities
    train, held = split_people(tracks, eval_fraction=0.3)
    assert len(train) + len(held) == 6

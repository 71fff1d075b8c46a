"""Folder trees and lists in common layouts, and the messages for unusable ones."""

import pytest
from PIL import Image

from facecycle_jax.data import read_list, scan_folder, split_people
from facecycle_jax.data.sources.tracks import make_tracks


def write_frames(folder, count, *, suffix=".jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:04}{suffix}")


def test_a_voxceleb_tree_is_read(tmp_path):
    write_frames(tmp_path / "id10001" / "1.6" / "abc" / "1", 4)
    write_frames(tmp_path / "id10001" / "1.6" / "abc" / "2", 5)
    write_frames(tmp_path / "id10002" / "1.6" / "def" / "1", 3)
    tracks = scan_folder(str(tmp_path), min_frames=4)
    assert tracks.identities == ("id10001", "id10001")
    assert [len(f) for f in tracks.frames] == [4, 5]
    assert tracks.frames[1][-1].endswith("id10001/1.6/abc/2/0004.jpg")
    assert len(scan_folder(str(tmp_path), min_frames=1)) == 3
    assert len(scan_folder(str(tmp_path), max_tracks=1)) == 1


def test_identity_may_be_several_folders_deep(tmp_path):
    for person in ("a", "b"):
        write_frames(tmp_path / "train" / person, 2)
    assert set(scan_folder(str(tmp_path)).identities) == {"train"}
    assert set(scan_folder(str(tmp_path), identity_depth=2).identities) == {
        "train/a",
        "train/b",
    }


def test_other_files_in_the_folders_of_people_are_ignored(tmp_path):
    write_frames(tmp_path / "Ann", 2, suffix=".png")
    write_frames(tmp_path / "Bob", 1, suffix=".JPG")
    (tmp_path / "Ann" / "notes.txt").write_text("no image")
    (tmp_path / "Ann" / "._0000.png").write_text("a trace of another system")
    tracks = scan_folder(str(tmp_path))
    assert tracks.identities == ("Ann", "Bob")
    assert [len(f) for f in tracks.frames] == [2, 1]


def test_a_flat_folder_is_people_of_one_image(tmp_path):
    write_frames(tmp_path, 3)
    # Their pair is the mirror image, so a minimum does not apply.
    tracks = scan_folder(str(tmp_path), min_frames=4)
    assert len(set(tracks.identities)) == 3
    assert [len(f) for f in tracks.frames] == [1, 1, 1]


def test_several_roots_make_one_source(tmp_path):
    write_frames(tmp_path / "one" / "Ann", 2)
    write_frames(tmp_path / "two" / "Bob", 2)
    tracks = scan_folder(f"{tmp_path}/one, {tmp_path}/two")
    assert tracks.identities == ("Ann", "Bob")


def test_links_to_folders_are_followed(tmp_path):
    write_frames(tmp_path / "elsewhere" / "Ann", 2)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "Ann").symlink_to(tmp_path / "elsewhere" / "Ann")
    assert scan_folder(str(tmp_path / "root")).identities == ("Ann",)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*/missing'"):
        scan_folder(str(tmp_path / "missing"))

    with pytest.raises(ValueError, match="no images at all"):
        scan_folder(str(tmp_path))

    write_frames(tmp_path / "Ann", 2)
    with pytest.raises(
        ValueError, match=r"no track of at least 4 frames \(1 tracks, the longest of 2"
    ):
        scan_folder(str(tmp_path), min_frames=4)


def test_a_list_file_names_tracks_and_people(tmp_path):
    write_frames(tmp_path / "frames" / "Ann" / "1", 4)
    write_frames(tmp_path / "frames" / "Bob" / "1", 4)
    write_frames(tmp_path / "frames" / "Cy" / "1", 4)
    file = tmp_path / "frames" / "list.txt"
    file.write_text(f"Bob/1\n# a comment\n\n{tmp_path}/frames/Ann/1\n")
    tracks = read_list(str(file), min_frames=4)
    assert tracks.identities == ("Ann", "Bob")
    assert [len(f) for f in tracks.frames] == [4, 4]


def test_folders_outside_the_list_s_own_are_named_below_what_they_share(tmp_path):
    write_frames(tmp_path / "frames" / "Ann" / "1", 4)
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "list.txt"
    file.write_text(f"{tmp_path}/frames/Ann/1\n")
    assert read_list(str(file)).identities == ("Ann",)


@pytest.mark.parametrize("below", ["", "1.6/video{}/track", "track{}"])
def test_a_person_outside_the_list_s_folder_is_one_person(tmp_path, below):
    lines = []
    for name in ("Ann", "Bob", "Cy"):
        for video in range(2 if below else 1):
            folder = tmp_path / "frames" / name / below.format(video)
            write_frames(folder, 4)
            lines.append(str(folder))
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "list.txt"
    file.write_text("\n".join(lines))

    tracks = read_list(str(file))
    assert len(tracks) == len(lines)
    assert set(tracks.identities) == {"Ann", "Bob", "Cy"}


def test_errors_of_a_list_file_name_the_line(tmp_path):
    file = tmp_path / "list.txt"
    with pytest.raises(FileNotFoundError, match="no such list file"):
        read_list(str(file))
    write_frames(tmp_path / "Ann", 4)
    file.write_text("Ann\nBob/1\n")
    with pytest.raises(FileNotFoundError, match="line 2: there is no folder 'Bob/1'"):
        read_list(str(file))


def people(count):
    return make_tracks(
        [(f"p{n}", f"p{n}/{t}", ["a", "b"]) for n in range(count) for t in range(2)],
        origin="x",
    )


def test_held_out_people_do_not_train_and_stay_the_same():
    train, held = split_people(people(50), eval_fraction=0.2)
    assert not set(train.identities) & set(held.identities)
    assert len(set(held.identities)) == 10
    assert len(train) + len(held) == 100
    again, _ = split_people(people(50), eval_fraction=0.2)
    assert again.names == train.names
    # A few people more move no more than a few others across.
    _, later = split_people(people(55), eval_fraction=0.2)
    assert len(set(held.identities) & set(later.identities)) >= 8


def test_splits_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"from 0 to below 1, got 1\.5"):
        split_people(people(9), eval_fraction=1.5)
    with pytest.raises(ValueError, match="x has 3 people, too few to hold 2 out"):
        split_people(people(3), eval_fraction=0.1)
    train, held = split_people(people(3), eval_fraction=0)
    assert train is held


def test_tracks_are_in_the_order_of_their_names(tmp_path):
    for name in ("2", "10", "1"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    assert [t.split("/")[-1] for t in scan_folder(str(tmp_path)).names] == [
        "1.png",
        "10.png",
        "2.png",
    ]

"""From raw trees to encoded frames: layouts, what is left out, and restarts."""

import dataclasses
import io
import os
import pathlib
import signal
import unittest.mock

import numpy as np
import pytest
from PIL import Image
from voxceleb_tree import make_voxceleb1, make_voxceleb2

from facecycle_jax.data.images import face_crop
from facecycle_jax.data.prepare import workers as prepare_work
from facecycle_jax.data.prepare.encoding import (
    FrameOptions,
    Source,
    chosen,
    image_sources,
    prepare_track,
    video_sources,
)
from facecycle_jax.data.prepare.workers import Work, collect_left_out, prepare_all
from facecycle_jax.errors import UserError


@pytest.fixture
def tracks(tmp_path):
    """Three people, two tracks each, four JPEGs a track."""
    found = {}
    for person in range(3):
        for track in range(2):
            files = []
            for frame in range(4):
                file = tmp_path / "images" / f"{person}-{track}-{frame}.jpg"
                file.parent.mkdir(exist_ok=True)
                colour = (person * 80, track * 80, frame * 60)
                Image.new("RGB", (48, 40), colour).save(file)
                files.append(file)
            found[f"id1000{person}", str(track)] = files

    return found


def test_frames_of_images_are_their_bytes(tracks, tmp_path):
    make_voxceleb1(tmp_path / "raw", tracks)
    sources = image_sources(str(tmp_path / "raw"))
    assert len(sources) == 6
    assert {source.identity for source in sources} == {"id10000", "id10001", "id10002"}
    prepared = [prepare_track(source, FrameOptions()) for source in sources]
    assert {p.frames for p in prepared} == {
        tuple(f.read_bytes() for f in files) for files in tracks.values()
    }
    assert not any(p.left_out for p in prepared)


def test_images_may_be_fewer_and_smaller(tracks, tmp_path):
    make_voxceleb1(tmp_path / "raw", tracks)
    source = image_sources(str(tmp_path / "raw"))[0]
    prepared = prepare_track(source, FrameOptions(max_frames=2, size=24))
    assert len(prepared.frames) == 2
    for content in prepared.frames:
        (tmp_path / "x.jpg").write_bytes(content)
        with Image.open(tmp_path / "x.jpg") as image:
            assert image.size == (24, 24)

    assert [list(chosen(*c)) for c in ((5, 0), (3, 9), (10, 2), (7, 3))] == [
        [0, 1, 2, 3, 4], [0, 1, 2], [2, 7], [1, 3, 5],
    ]  # fmt: skip


def test_frames_are_cut_where_no_face_is_found(tracks, tmp_path, monkeypatch):
    make_voxceleb1(tmp_path / "raw", tracks)
    source = image_sources(str(tmp_path / "raw"))[0]
    monkeypatch.setattr(face_crop, "find_faces", lambda image: [])
    nothing = prepare_track(source, FrameOptions(crop=True))
    assert not nothing.frames
    assert "No face was found" in nothing.left_out[0]
    prepared = prepare_track(source, FrameOptions(crop=True, cut=(0.25, 0.25, 0.5)))
    assert len(prepared.frames) == 4
    assert not prepared.left_out
    with Image.open(io.BytesIO(prepared.frames[0])) as image:
        assert image.size == (20, 20)

    with pytest.raises(ValueError, match=r"^a cut is"):
        FrameOptions(cut=(0.0, 0.0, 0.0))


def test_frames_of_videos_are_taken_at_the_given_rate(tracks, tmp_path):
    pytest.importorskip("av")
    make_voxceleb2(tmp_path / "raw", tracks, side=64)
    sources = video_sources(str(tmp_path / "raw"))
    assert len(sources) == 6
    assert sources[0].name.count("/") == 2
    for source in sources:
        # Each image is shown for a fifth of a second.
        prepared = prepare_track(source, FrameOptions(fps=5))
        assert len(prepared.frames) == 4
        (tmp_path / "x.jpg").write_bytes(prepared.frames[3])
        with Image.open(tmp_path / "x.jpg") as image:
            red, green, blue = np.asarray(image)[32, 32].astype(int)
        assert abs(red - int(source.identity[-1]) * 80) < 12
        assert min(abs(green - g) for g in (0, 80)) < 12
        assert abs(blue - 180) < 12

    assert len(prepare_track(sources[0], FrameOptions(fps=25)).frames) == 20


def test_what_cannot_be_read_is_left_out_and_reported(tracks, tmp_path):
    make_voxceleb1(tmp_path / "raw", tracks)
    sources = image_sources(str(tmp_path / "raw"))
    files = sorted(pathlib.Path(sources[0].path).iterdir())
    files[1].write_bytes(files[1].read_bytes()[:-60])
    for file in pathlib.Path(sources[1].path).iterdir():
        file.write_bytes(b"")

    work = Work(FrameOptions(), str(tmp_path / "left_out"))
    results = [prepared for _, prepared in prepare_all(sources, work)]
    assert [len(p.frames) for p in results] == [3, 0, 4, 4, 4, 4]
    lines = collect_left_out(tmp_path / "left_out")
    assert len(lines) == 1 + 4 + 1
    assert sum(str(files[1]) in line for line in lines) == 1
    assert f"{sources[1].path}: the track has no image left." in lines
    assert collect_left_out(tmp_path / "none") == []


def test_broken_videos_are_left_out(tracks, tmp_path):
    pytest.importorskip("av")
    make_voxceleb2(tmp_path / "raw", dict(list(tracks.items())[:2]), side=64)
    source, other = video_sources(str(tmp_path / "raw"))
    pathlib.Path(source.path).write_bytes(b"no video")
    prepared = prepare_track(source, FrameOptions())
    assert prepared.frames == ()
    assert source.path in prepared.left_out[0]
    pathlib.Path(other.path).unlink()
    assert "There is no file" in prepare_track(other, FrameOptions()).left_out[0]


def test_a_second_start_does_only_what_is_left(tracks, tmp_path):
    make_voxceleb1(tmp_path / "raw", tracks)
    sources = image_sources(str(tmp_path / "raw"))
    work = Work(
        FrameOptions(size=16), str(tmp_path / "left_out"), str(tmp_path / "finished")
    )
    first = []
    for number, (_, prepared) in enumerate(prepare_all(sources, work)):
        first.append(prepared)
        if number == 3:
            break

    with unittest.mock.patch.object(
        prepare_work, "prepare_track", wraps=prepare_track
    ) as called:
        again = [prepared for _, prepared in prepare_all(sources, work)]

    assert called.call_count == 2
    assert again[:4] == first
    # Other options, other frames.
    with unittest.mock.patch.object(
        prepare_work, "prepare_track", wraps=prepare_track
    ) as called:
        other = Work(FrameOptions(size=20), work.left_out, work.finished)
        assert dict(prepare_all(sources, other))[sources[0]] != first[0]

    assert called.call_count == 6
    # A file that a crash left half written is not believed.
    for file in (tmp_path / "finished").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:50])

    assert [prepared for _, prepared in prepare_all(sources, work)] == again


def test_a_changed_image_or_new_landmarks_undo_a_finished_track(
    tracks, tmp_path, monkeypatch
):
    make_voxceleb1(tmp_path / "raw", tracks)
    source = image_sources(str(tmp_path / "raw"))[0]
    work = Work(
        FrameOptions(size=16), str(tmp_path / "left_out"), str(tmp_path / "finished")
    )
    first = work(source)
    assert work(source) == first

    # Overwritten in place, which leaves the folder's own time as it is.
    file = min(pathlib.Path(source.path).iterdir())
    before = os.stat(source.path)
    content = io.BytesIO()
    Image.new("RGB", (48, 40), (1, 2, 3)).save(content, "JPEG")
    with open(file, "r+b") as opened:
        opened.truncate(0)
        opened.write(content.getvalue())
    assert os.stat(source.path).st_mtime_ns == before.st_mtime_ns
    second = work(source)
    assert second.frames[0] != first.frames[0]
    assert second.frames[1:] == first.frames[1:]

    # Landmarks change what a face crop shows, and nothing else.
    crop = dataclasses.replace(work, options=FrameOptions(size=16, crop=True))
    places = []
    for has in (True, False):
        monkeypatch.setattr(prepare_work, "has_landmarks", lambda has=has: has)
        places.append((work._place(source), crop._place(source)))
    assert places[0][0] == places[1][0]
    assert places[0][1] != places[1][1]


def test_only_tracks_that_are_decoded_are_kept_for_a_second_start(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "single.jpg")
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    image = Source(
        identity="a", name="a", path=str(tmp_path / "single.jpg"), is_single=True
    )
    video = Source(identity="b", name="b", path=str(tmp_path / "clip.mp4"))

    copied = Work(FrameOptions(), "", str(tmp_path / "finished"))
    assert copied._place(image) is None
    assert copied._place(video)
    encoded = dataclasses.replace(copied, options=FrameOptions(size=16))
    assert encoded._place(image)
    assert encoded._place(video)


@pytest.mark.slow
def test_several_processes_do_the_same(tracks, tmp_path):
    make_voxceleb1(tmp_path / "raw", tracks)
    sources = image_sources(str(tmp_path / "raw"))
    work = Work(FrameOptions(size=16), str(tmp_path / "left_out"))
    assert list(prepare_all(sources, work, workers=2)) == list(
        prepare_all(sources, work)
    )


def test_other_layouts_are_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "id1" / "abc").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "id1" / "abc" / "a.jpg")
    with pytest.raises(
        ValueError, match=r"must hold <a>/1\.6, and has images in 'a\.jpg'"
    ):
        image_sources(str(tmp_path), pattern=r"[^/]+/1\.6", layout="<a>/1.6")

    with pytest.raises(ValueError, match="holds no videos"):
        video_sources(str(tmp_path))

    (tmp_path / "id1" / "clip.mp4").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"<identity>/<video>/\*\.mp4, and has 'id1/clip\.mp4'"
    ):
        video_sources(str(tmp_path))

    with pytest.raises(FileNotFoundError, match="There is no folder"):
        video_sources(str(tmp_path / "none"))

    single = next(s for s in image_sources(str(tmp_path)) if s.name == "a.jpg")
    assert single == Source("a.jpg", "a.jpg", str(tmp_path / "a.jpg"), is_single=True)
    assert len(prepare_track(single, FrameOptions()).frames) == 1


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="fps must be above 0"):
        FrameOptions(fps=0)


@dataclasses.dataclass(frozen=True)
class KilledWork(Work):
    """Is killed at some tracks, as by a system without memory."""

    deadly: tuple[str, ...] = ()

    def __call__(self, source):
        if source.name in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(source)


@pytest.mark.slow
def test_a_killed_process_costs_its_track_alone(tracks, tmp_path):
    make_voxceleb1(tmp_path / "raw", tracks)
    sources = image_sources(str(tmp_path / "raw"))
    plain = dict(prepare_all(sources, Work(FrameOptions(), str(tmp_path / "plain"))))
    work = KilledWork(
        FrameOptions(), str(tmp_path / "left_out"), deadly=(sources[1].name,)
    )
    made = list(prepare_all(sources, work, workers=2))
    assert [source for source, _ in made] == sources
    for source, prepared in made:
        if source is sources[1]:
            assert prepared.frames == ()
        else:
            assert prepared == plain[source]

    (line,) = collect_left_out(tmp_path / "left_out")
    assert (
        line
        == f"{sources[1].path}: the process that read the track was killed, perhaps "
        "for lack of memory."
    )


@pytest.mark.slow
def test_a_machine_that_kills_every_process_is_reported_with_the_track(
    tracks, tmp_path
):
    make_voxceleb1(tmp_path / "raw", tracks)
    sources = image_sources(str(tmp_path / "raw"))
    work = KilledWork(
        FrameOptions(), str(tmp_path / "out"), deadly=tuple(s.name for s in sources)
    )
    with pytest.raises(
        UserError,
        match="3 processes in a row were killed, the last one at the track "
        f"{sources[2].name}",
    ):
        list(prepare_all(sources, work, workers=2))

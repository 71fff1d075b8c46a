import itertools
import struct
import sys

import numpy as np
import pytest

from facecycle_jax.data.video import read_video, write_video


def clip(count=12, height=48, width=64):
    """Frames of one colour each, getting lighter: compression leaves them as they are."""
    return [np.full((height, width, 3), 20 + 15 * i, np.uint8) for i in range(count)]


@pytest.fixture
def written(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    path = tmp_path / "clip.mp4"
    write_video(path, clip(), fps=10)
    return path


def levels(frames):
    return [round((float(frame.mean()) - 20) / 15) for frame in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_come_back(tmp_path, suffix):
    pytest.importorskip("av", reason="needs the extra `video`")
    path = tmp_path / "deep" / f"clip{suffix}"
    write_video(path, iter(clip()), fps=25)
    frames, fps = read_video(path)
    frames = list(frames)
    assert fps == pytest.approx(25)
    assert len(frames) == 12
    for frame, expected in zip(frames, clip(), strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == (48, 64, 3)
        np.testing.assert_allclose(frame, expected, atol=3)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_colours_and_places_survive(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:32, :32, 0], frame[:32, 32:, 1], frame[32:, :32, 2] = 255, 255, 255
    write_video(tmp_path / "x.mp4", [frame] * 3, fps=5)
    back = next(read_video(tmp_path / "x.mp4").frames)
    for y, x in itertools.product((16, 48), (16, 48)):
        np.testing.assert_allclose(back[y, x], frame[y, x], atol=12)


def test_odd_sides_grow_by_one(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    write_video(tmp_path / "x.mp4", clip(3, 35, 51), fps=5)
    assert next(read_video(tmp_path / "x.mp4").frames).shape == (36, 52, 3)


def test_max_frames(written):
    assert levels(read_video(written, max_frames=4).frames) == [0, 1, 2, 3]


def test_other_rates_repeat_or_leave_out_frames(written):
    half = read_video(written, fps=5)
    assert half.fps == 5
    assert levels(half.frames)[:6] == [0, 2, 4, 6, 8, 10]
    assert levels(read_video(written, fps=20).frames)[:6] == [0, 0, 1, 1, 2, 2]
    assert levels(read_video(written, fps=10).frames) == list(range(12))


def test_files_that_are_no_videos_are_refused(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    (tmp_path / "text.mp4").write_text("this is text")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.mp4 cannot be read as a video: .*\.$"):
            read_video(tmp_path / f"{name}.mp4")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.mp4"):
        read_video(tmp_path / "none.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="no pictures"):
        read_video(tmp_path / "sound.mkv")


def test_damaged_videos_are_read_as_far_as_they_go_or_refused(written, tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    av.logging.set_level(av.logging.PANIC)
    for index in range(40):
        data = bytearray(whole)
        if index % 2:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=1 + index // 2):
                data[place] = rng.integers(256)
        path = tmp_path / f"{index}.mp4"
        path.write_bytes(bytes(data))
        said = ""
        try:
            frames = list(read_video(path, max_frames=50, fps=10 if index % 3 else None).frames)
        except ValueError as error:
            frames, said = [], str(error)
        assert frames or path.name in said
        assert "\n" not in said


def test_videos_of_a_turned_camera_are_upright(tmp_path):
    """The header of an MP4 file has the matrix by which a player turns it."""
    pytest.importorskip("av", reason="needs the extra `video`")
    frame = np.zeros((64, 32, 3), np.uint8)
    frame[:32, :16] = 255
    write_video(tmp_path / "x.mp4", [frame] * 3, fps=5)
    data = (tmp_path / "x.mp4").read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = data.index(upright, data.index(b"tkhd"))
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    (tmp_path / "y.mp4").write_bytes(data[:place] + clockwise + data[place + len(clockwise) :])
    turned = next(read_video(tmp_path / "y.mp4").frames)
    np.testing.assert_allclose(turned, np.rot90(frame, -1), atol=60)
    assert turned[4, 60].min() > 200


def test_a_failed_write_leaves_nothing(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    frames = [*clip(2), np.zeros((10, 10, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"Frame 2 must be uint8 \[48, 64, 3\] as the first"):
        write_video(tmp_path / "x.mp4", frames, fps=5)
    with pytest.raises(ValueError, match="Frame 0 must be"):
        write_video(tmp_path / "x.mp4", [np.zeros((4, 4, 3))], fps=5)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "x.mp4", [], fps=5)
    assert not list(tmp_path.iterdir())


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.txt"):
        write_video(tmp_path / "x.txt", clip(1), fps=5)
    with pytest.raises(ValueError, match="fps"):
        write_video(tmp_path / "x.mp4", clip(1), fps=0)
    with pytest.raises(ValueError, match="max_frames"):
        read_video(tmp_path / "x.mp4", max_frames=0)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"facecycle_jax\[video\]"):
        read_video(tmp_path / "x.mp4")
    with pytest.raises(ImportError, match=r"facecycle_jax\[video\]"):
        write_video(tmp_path / "x.mp4", clip(1), fps=5)

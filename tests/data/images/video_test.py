import itertools
import os
import struct
import sys
import weakref
from fractions import Fraction

import numpy as np
import pytest

from facecycle_jax.data.images import video
from facecycle_jax.data.images.video import (
    count_frames,
    edit_video,
    read_video,
    write_video,
)
from facecycle_jax.data.prepare import encoding as preparing
from facecycle_jax.errors import UserError


def clip(count=12, height=48, width=64):
    """Frames of one colour each, getting lighter.

    Compression leaves them as they are.
    """
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
def test_written_frames_are_read_back(tmp_path, suffix):
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


def test_max_frames_limits_what_is_read(written):
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
        with pytest.raises(
            ValueError, match=rf"{name}\.mp4 cannot be read as a video: .*\.$"
        ):
            read_video(tmp_path / f"{name}.mp4")

    with pytest.raises(FileNotFoundError, match=r"no file .*none\.mp4"):
        read_video(tmp_path / "none.mp4")

    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), "s16", "mono"
        )
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())

    with pytest.raises(ValueError, match="no images"):
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
            frames = list(
                read_video(path, max_frames=50, fps=10 if index % 3 else None).frames
            )
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
    (tmp_path / "y.mp4").write_bytes(
        data[:place] + clockwise + data[place + len(clockwise) :]
    )
    turned = next(read_video(tmp_path / "y.mp4").frames)
    np.testing.assert_allclose(turned, np.rot90(frame, -1), atol=60)
    assert turned[4, 60].min() > 200


def test_a_failed_write_leaves_nothing(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    frames = [*clip(2), np.zeros((10, 10, 3), np.uint8)]
    with pytest.raises(
        ValueError, match=r"Frame 2 must be uint8 \[48, 64, 3\] as the first"
    ):
        write_video(tmp_path / "x.mp4", frames, fps=5)

    with pytest.raises(ValueError, match="Frame 0 must be"):
        write_video(tmp_path / "x.mp4", [np.zeros((4, 4, 3))], fps=5)

    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "x.mp4", [], fps=5)

    assert not list(tmp_path.iterdir())


def test_invalid_options_of_writing_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.txt"):
        write_video(tmp_path / "x.txt", clip(1), fps=5)
    for fps in (0, 1e-9, 1e9, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"fps must be 0\.1 to 1000, got"):
            write_video(tmp_path / "x.mp4", clip(1), fps=fps)
    with pytest.raises(ValueError, match="max_frames"):
        read_video(tmp_path / "x.mp4", max_frames=0)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"facecycle_jax\[video\]"):
        read_video(tmp_path / "x.mp4")
    with pytest.raises(ImportError, match=r"facecycle_jax\[video\]"):
        write_video(tmp_path / "x.mp4", clip(1), fps=5)


def jumping(path, jumps, *, count=5, av):
    """A video of 10 fps whose clock jumps by `jumps[i]` seconds before frame i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        clock = 0
        for index, image in enumerate(clip(count)):
            clock += round(1000 * jumps.get(index, 0))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = clock, Fraction(1, 1000)
            clock += 100
            container.mux(stream.encode(frame))

        container.mux(stream.encode())

    return path


@pytest.mark.parametrize("jump", [172_800, 3_600, 11])
def test_a_jump_of_the_clock_counts_as_one_frame(tmp_path, jump):
    """Two days, an hour, and just above what a still may last."""
    av = pytest.importorskip("av", reason="needs the extra `video`")
    path = jumping(tmp_path / "clip.mkv", {4: jump}, av=av)
    assert levels(read_video(path, fps=10).frames) == [0, 1, 2, 3, 4]
    assert count_frames(path, fps=10) == 5


def test_a_still_is_repeated(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    path = jumping(tmp_path / "clip.mkv", {4: 2}, av=av)
    shown = levels(read_video(path, fps=10).frames)
    assert shown == [0, 1, 2, *[3] * 21, 4]
    assert count_frames(path, fps=10) == len(shown)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e6])
def test_rates_out_of_range_are_refused(written, fps):
    with pytest.raises(ValueError, match="fps must be above 0 and at most 1000"):
        list(read_video(written, fps=fps).frames)


def test_frames_counted_are_those_read(written, tmp_path):
    for fps in (3, 5, 10, 24):
        assert count_frames(written, fps=fps) == len(
            list(read_video(written, fps=fps).frames)
        )
    (tmp_path / "cut.mp4").write_bytes(written.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"cut\.mp4"):
        count_frames(tmp_path / "cut.mp4", fps=5)


@pytest.mark.parametrize("most", [1, 3, 5])
def test_only_the_frames_that_are_kept_are_held(written, most, monkeypatch):
    encoded = []
    encode = preparing._encode
    monkeypatch.setattr(
        preparing, "_encode", lambda image: encoded.append(1) or encode(image)
    )
    source = preparing.Source(identity="a", name="a/b/clip.mp4", path=str(written))
    every = preparing.prepare_track(source, preparing.FrameOptions(fps=10)).frames
    encoded.clear()
    kept = preparing.prepare_track(
        source, preparing.FrameOptions(fps=10, max_frames=most)
    ).frames
    assert kept == tuple(every[place] for place in preparing.chosen(len(every), most))
    assert len(encoded) == most


def test_a_track_without_end_is_cut_off(written, monkeypatch):
    source = preparing.Source(identity="a", name="a/b/clip.mp4", path=str(written))
    every = preparing.prepare_track(source, preparing.FrameOptions(fps=10)).frames
    monkeypatch.setattr(preparing, "MAX_TRACK_BYTES", sum(map(len, every[:4])))
    prepared = preparing.prepare_track(source, preparing.FrameOptions(fps=10))
    assert prepared.frames == every[:4]
    (line,) = prepared.left_out
    assert line.startswith(f"{written}: what follows frame 4 is left out")


def test_a_video_opens_no_other_file(written, tmp_path):
    """A list for FFmpeg's concat format, a playlist and a description of a session."""
    scripts = {
        "concat": "ffconcat version 1.0\nfile clip.mp4\n",
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n"
        "#EXT-X-ENDLIST\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
        "m=video 5004 RTP/AVP 96\n",
    }
    for name, content in scripts.items():
        (tmp_path / f"{name}.mp4").write_text(content)
        with pytest.raises(ValueError, match=rf"{name}\.mp4 cannot be read as a video"):
            read_video(tmp_path / f"{name}.mp4")


def test_names_that_look_like_addresses_are_files(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written.rename("concat:a|b.mp4")
    assert len(list(read_video("concat:a|b.mp4").frames)) == 12


def test_a_pipe_is_no_video(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    os.mkfifo(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match=r"x\.mp4 is not a regular file"):
        read_video(tmp_path / "x.mp4")


def test_frames_too_large_are_refused(written, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="has frames of 64x48 pixels, more than 3,071"):
        read_video(written)


def with_sound(path, *, av, codec="aac", seconds=2.0, delay=0.0):
    """A video of 10 fps with a tone; `delay` seconds pass before its first frame."""
    with av.open(str(path), "w") as container:
        images = container.add_stream("mpeg4", rate=10)
        images.width, images.height, images.pix_fmt = 64, 48, "yuv420p"
        images.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream(codec, rate=8000, layout="mono")

        shown = clip()
        for index in range(int(10 * seconds)):
            image = shown[index % len(shown)]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            # Unequal times, as telephones write them.
            frame.pts = round(1000 * delay) + 100 * index + 30 * (index % 2)
            frame.time_base = Fraction(1, 1000)
            container.mux(images.encode(frame))
        container.mux(images.encode())

        tone = 8000 * np.sin(np.arange(int(8000 * (seconds + delay))) / 3)
        for start in range(0, len(tone), 800):
            part = tone[None, start : start + 800].astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, "s16", "mono")
            frame.sample_rate = 8000
            frame.pts = start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())

    return path


def parts(path, *, av):
    """Times of the frames, and times and bytes of the packets of sound."""
    with av.open(str(path)) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return times, []
        packets = []
        for packet in container.demux(audio=0):
            if packet.size:
                time = float(packet.pts * packet.time_base)
                packets.append((time, bytes(packet)))
    return times, packets


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_an_edited_video_keeps_times_sound_and_size(tmp_path, delay):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    source = with_sound(tmp_path / "talk.mkv", av=av, delay=delay)

    def darker(frames):
        for frame in frames:
            yield frame // 2

    count = edit_video(source, tmp_path / "edited.mp4", darker)
    assert count == 20

    before, sound_before = parts(source, av=av)
    after, sound_after = parts(tmp_path / "edited.mp4", av=av)
    np.testing.assert_allclose(
        np.array(after) - after[0], np.array(before) - before[0], atol=1e-3
    )

    # The very packets, except for those heard before the first frame.
    kept = [(time, data) for time, data in sound_before if time >= before[0]]
    kept = kept[: len(sound_after)]
    assert [data for _, data in sound_after] == [data for _, data in kept]
    assert len(sound_after) > 10
    shifts = [time for time, _ in sound_after]
    wanted = [time - before[0] for time, _ in kept]
    np.testing.assert_allclose(shifts, np.array(wanted) + after[0], atol=2e-3)

    frames = list(read_video(tmp_path / "edited.mp4").frames)
    assert frames[0].shape == (48, 64, 3)
    np.testing.assert_allclose(frames[3], clip(4)[3] // 2, atol=4)


def test_frames_held_do_not_grow_with_the_length_of_a_video(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    path = tmp_path / "long.mkv"
    write_video(path, (frame for _ in range(6) for frame in clip()), fps=25)
    held = weakref.WeakValueDictionary()
    numbers = []

    def watched(frames):
        for number, frame in enumerate(frames):
            held[number] = frame
            numbers.append(len(held))
            yield frame

    assert edit_video(path, tmp_path / "edited.mkv", watched) == 72
    for _ in watched(read_video(path).frames):
        pass
    assert len(numbers) == 2 * 72
    assert max(numbers) <= 4


def test_an_edited_video_may_be_shorter_and_of_another_size(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    source = with_sound(tmp_path / "talk.mkv", av=av)

    def larger(frames):
        for frame in frames:
            yield np.repeat(np.repeat(frame, 2, axis=0), 2, axis=1)

    out = tmp_path / "edited.mkv"
    assert edit_video(source, out, larger, max_frames=5) == 5
    times, packets = parts(out, av=av)
    assert len(times) == 5
    assert 0.3 < packets[-1][0] < 0.7
    assert next(read_video(out).frames).shape == (96, 128, 3)


def test_a_silent_video_stays_silent(written, tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    out = tmp_path / "edited.mp4"
    assert edit_video(written, out, lambda frames: frames) == 12
    assert levels(read_video(out).frames) == list(range(12))
    assert read_video(out).fps == pytest.approx(10, rel=0.02)
    assert parts(out, av=av)[1] == []


@pytest.mark.parametrize(("matrix", "written_as"), [(1, 6), (6, 6), (2, 2)])
def test_an_edited_video_keeps_its_colours(tmp_path, matrix, written_as):
    """A player converts by the matrix that a video names."""
    av = pytest.importorskip("av", reason="needs the extra `video`")
    colour = np.full((64, 64, 3), (200, 60, 40), np.uint8)
    colours = av.video.reformatter.Colorspace
    with av.open(str(tmp_path / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = matrix
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
        used = colours.ITU709 if matrix == 1 else colours.ITU601
        container.mux(
            stream.encode(frame.reformat(format="yuv420p", dst_colorspace=used))
        )
        container.mux(stream.encode())

    out = tmp_path / "edited.mp4"
    edit_video(tmp_path / "red.mp4", out, lambda frames: frames)
    np.testing.assert_allclose(next(read_video(out).frames), colour, atol=6)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.colorspace == written_as


def with_wide_pixels(path, *, av):
    """A video whose pixels are 4/3 times as wide as high, and names no matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for image in clip(3):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shape_and_matrix(path, *, av):
    """The shape of a video's pixels, width by height, and its matrix of colours."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.sample_aspect_ratio, stream.codec_context.colorspace


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_edited_video_keeps_the_shape_of_its_pixels(tmp_path, suffix):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    source = with_wide_pixels(tmp_path / f"wide{suffix}", av=av)
    out = tmp_path / f"edited{suffix}"
    edit_video(source, out, lambda frames: frames)
    assert shape_and_matrix(out, av=av) == (Fraction(4, 3), 2)


def test_pixels_of_a_turned_camera_are_turned(tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    source = with_wide_pixels(tmp_path / "wide.mp4", av=av)
    monkeypatch.setattr(video, "_quarter_turns", lambda frame: 1)
    out = tmp_path / "edited.mp4"
    edit_video(source, out, lambda frames: frames)
    assert shape_and_matrix(out, av=av) == (Fraction(3, 4), 2)
    assert next(read_video(out).frames).shape[1] == 64


def test_other_images_have_square_pixels_and_name_their_matrix(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    source = with_wide_pixels(tmp_path / "wide.mp4", av=av)

    def others(frames):
        for frame in frames:
            yield np.zeros((32, 32, 3), np.uint8) + frame[0, 0]

    out = tmp_path / "edited.mp4"
    edit_video(source, out, others, own_images=False)
    shape, matrix = shape_and_matrix(out, av=av)
    assert shape in (None, 1)
    assert matrix == 6


def test_sound_that_a_format_cannot_hold_is_one_sentence(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    source = with_sound(tmp_path / "talk.mkv", av=av, codec="tta")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"\.mp4 cannot hold the sound of .*\.mkv\.$"):
        edit_video(source, tmp_path / "edited.mp4", lambda frames: frames)
    assert sorted(tmp_path.iterdir()) == before


def test_an_edit_that_fails_leaves_nothing(written, tmp_path):
    def failing(frames):
        yield next(frames)
        raise UserError("no face was found.")

    with pytest.raises(UserError, match="no face"):
        edit_video(written, tmp_path / "edited.mp4", failing)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]

    with pytest.raises(UserError, match=r"edited\.webm"):
        edit_video(written, tmp_path / "edited.webm", lambda frames: frames)
    with pytest.raises(UserError, match="max_frames"):
        edit_video(written, tmp_path / "x.mp4", lambda frames: frames, max_frames=0)


def test_images_too_wide_for_the_encoder_are_one_sentence(written, tmp_path):
    wide = np.zeros((16, 17000, 3), np.uint8)
    words = r"cannot be written .* images of 17000 x 16 pixels; make them smaller"
    with pytest.raises(UserError, match=words):
        write_video(tmp_path / "wide.mp4", [wide], fps=10)
    with pytest.raises(UserError, match=words):
        edit_video(
            written, tmp_path / "edited.mp4", lambda frames: (wide for _ in frames)
        )
    assert not list(tmp_path.glob("*wide*")) + list(tmp_path.glob("*edited*"))

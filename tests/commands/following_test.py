"""Faces followed through a video, and what starts anew with another scene."""

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.commands import following, pasting
from facecycle_jax.data.images import face_crop
from facecycle_jax.data.images.framing import FRAMING
from facecycle_jax.data.images.paste_back import match_colours


@pytest.fixture
def find(monkeypatch):
    """Replaces the detector by one that finds these boxes, frame by frame."""

    def given(*boxes):
        finds = iter([[(box, 1.0)] if box else [] for box in boxes])
        monkeypatch.setattr(face_crop, "find_faces", lambda image: next(finds))
        monkeypatch.setattr(face_crop, "has_landmarks", lambda: False)

    return given


def box(left):
    return (left, 10, left + 20, 30)


def test_a_face_is_followed_through_a_video(find):
    find(None, box(10), box(20), None, box(20), box(70))
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[None, :, None], (50, 120, 3))
    crops = list(following.follow_face([ramp] * 6, which="largest", name="clip.mp4"))
    lefts = [int(crop[20, 0, 0]) for crop in crops]

    # Before the first detection the square is where that will be. Then it follows the
    # face, and stays while none is detected.
    assert lefts[:5] == [lefts[0], lefts[0], lefts[0] + 6, lefts[0] + 6, lefts[0] + 8]
    # A jump is another scene.
    assert lefts[5] == lefts[0] + 60
    assert len({crop.shape for crop in crops}) == 1

    for count in (3, 100):
        find(*[None] * count)
        with pytest.raises(ValueError, match=r"clip\.mp4.*without --crop"):
            list(
                following.follow_face([ramp] * count, which="largest", name="clip.mp4")
            )


def test_the_pasted_square_follows_and_ends_with_its_face(find):
    find(None, box(10), box(14), box(90), *[None] * 14, box(90))
    frames = [np.zeros((50, 120, 3), np.uint8)] * 19
    followed = list(following.follow_square(frames, which="largest", framing=FRAMING))
    squares = [square for _, square, _ in followed]

    assert squares[0] is None
    lefts = [square[0] for square in squares[1:4]]
    assert lefts[1] - lefts[0] == 2  # smoothed
    assert lefts[2] - lefts[0] == 80  # a jump is another scene
    assert squares[4:16] == [squares[3]] * 12
    assert squares[16:18] == [None, None]

    # The first face, the jump, and the face after the gap.
    starts = [index for index, found in enumerate(followed) if found.starts]
    assert starts == [1, 3, 18]


def test_colours_of_one_scene_do_not_reach_into_the_next(find, tmp_path, monkeypatch):
    pytest.importorskip("av", reason="needs the extra `video`")
    from facecycle_jax.data.images.video import write_video

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 60, (5, 12, 3), dtype=np.uint8))
    dark = np.asarray(coarse.resize((120, 50), Image.Resampling.BICUBIC))
    clip = tmp_path / "clip.mp4"
    write_video(clip, [dark] * 3 + [dark + 180] * 2, fps=5)
    find(box(10), box(10), box(10), box(80), box(80))

    class Model:
        size = 16
        framing = FRAMING

    wanted = []
    used = []

    def matched(image, face, square):
        wanted.append(match_colours(image, face, square))
        return wanted[-1]

    def pasted(image, face, square, *, colours):
        used.append(colours)
        return image

    monkeypatch.setattr(pasting, "load", lambda name: Model())
    monkeypatch.setattr(pasting, "match_colours", matched)
    monkeypatch.setattr(pasting, "paste_face", pasted)

    class Arguments:
        out = str(tmp_path / "out.mp4")
        overwrite = False
        which = "largest"
        model = "stand-in"
        max_frames = None

    def drawing(model):
        # Faces of one colour.
        return lambda faces: np.full_like(faces, 128)

    assert pasting.paste_video(Arguments(), str(clip), drawing) == 0
    assert wanted[3].target.mean() > wanted[2].target.mean() + 100
    np.testing.assert_array_equal(used[0].target, wanted[0].target)
    np.testing.assert_array_equal(used[3].target, wanted[3].target)

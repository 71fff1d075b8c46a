"""The framing of face images: squares from landmarks, boxes and fixed cuts."""

import json

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data.images import face_crop
from facecycle_jax.data.images.face_crop import NoFaceError, crop_face, frame_image
from facecycle_jax.data.images.framing import (
    FRAMING,
    Framing,
    cut_square,
    read_cut,
    read_framing,
    square_of_cut,
    square_of_landmarks,
)
from facecycle_jax.data.images.landmarks import find_landmarks, has_landmarks
from facecycle_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def face(left_eye, right_eye, mouth):
    """Landmarks of a face of which only eyes and mouth are where they should be."""
    points = np.zeros((68, 2))
    points[36:42] = left_eye
    points[42:48] = right_eye
    points[[48, 54]] = mouth
    return points


def places(square, *points):
    """Points of an image as fractions of a square."""
    left, top, right, _ = square
    return (np.array(points) - [left, top]) / (right - left)


def test_the_framing_is_what_lfw_shows():
    assert FRAMING.midpoint == pytest.approx((0.5, 0.41))
    assert FRAMING.eye_distance == pytest.approx(0.28)
    assert Framing.from_dict(json.loads(json.dumps(FRAMING.to_dict()))) == FRAMING
    assert read_framing("0.3,0.4,0.7,0.4") == Framing(
        left_eye=(0.3, 0.4), right_eye=(0.7, 0.4)
    )


@pytest.mark.parametrize(
    "framing", [FRAMING, Framing(left_eye=(0.3, 0.35), right_eye=(0.7, 0.35))]
)
def test_eyes_of_a_frontal_face_come_to_their_places(framing):
    square = square_of_landmarks(face((500, 300), (780, 300), (640, 580)), framing)
    found = places(square, (500, 300), (780, 300))
    np.testing.assert_allclose(found, [framing.left_eye, framing.right_eye], atol=0.002)


def test_a_turned_head_is_not_enlarged():
    frontal = square_of_landmarks(face((500, 300), (780, 300), (640, 580)))
    # Half the distance between the eyes, the same from the eyes to the mouth.
    turned = square_of_landmarks(face((570, 300), (710, 300), (640, 580)))
    side, other = frontal[2] - frontal[0], turned[2] - turned[0]
    assert 0.8 * side < other <= side
    np.testing.assert_allclose(
        places(turned, (640, 300)), [FRAMING.midpoint], atol=0.002
    )


def test_the_roll_of_a_head_stays():
    square = square_of_landmarks(face((500, 200), (740, 340), (550, 510)))
    (left_eye, right_eye) = places(square, (500, 200), (740, 340))
    np.testing.assert_allclose((left_eye + right_eye) / 2, FRAMING.midpoint, atol=0.002)
    assert right_eye[1] - left_eye[1] == pytest.approx(
        0.28 * np.sin(np.arctan2(140, 240)), abs=0.01
    )


@pytest.mark.parametrize(
    "square", [(-20, -30, 70, 60), (100, 90, 250, 240), (-300, -400, 500, 400)]
)
def test_images_are_reflected_beyond_their_edges(square):
    left, top, right, bottom = square
    padded = np.pad(IMAGE, ((500, 500), (500, 500), (0, 0)), mode="reflect")
    wanted = padded[top + 500 : bottom + 500, left + 500 : right + 500]
    np.testing.assert_array_equal(cut_square(IMAGE, square), wanted)
    assert cut_square(IMAGE[:1, :1], (-3, -3, 4, 4)).shape == (7, 7, 3)


def test_a_cut_is_in_fractions_of_the_middle_square():
    assert square_of_cut((0.2, 0.2, 0.6), height=250, width=250) == (50, 50, 200, 200)
    assert square_of_cut((0.0, 0.0, 1.0), height=100, width=160) == (30, 0, 130, 100)
    assert square_of_cut((-0.1, -0.2, 1.3), height=100, width=100) == (
        -10,
        -20,
        120,
        110,
    )
    assert read_cut("-0.1,-0.2,1.3") == (-0.1, -0.2, 1.3)


@pytest.mark.parametrize(
    "text", ["", "1,2", "0,0,0", "0,0,-1", "0,nan,1", "a,b,c", "0,0,99", "0,0,1,1"]
)
def test_a_wrong_cut_is_refused(text):
    with pytest.raises(ValueError, match=r"^a cut is"):
        read_cut(text)


def test_a_cut_in_pixels_is_refused_as_such():
    with pytest.raises(UserError, match=r"not pixels, each -10 to 10 .* got 0,0,64"):
        read_cut("0,0,64")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"left_eye": [0.3, 0.4]},
        {"left_eye": [0.3, 0.4], "right_eye": [0.7]},
        {"left_eye": [0.3, 0.4], "right_eye": [0.7, 1.4]},
        {"left_eye": [0.7, 0.4], "right_eye": [0.3, 0.4]},
        {"left_eye": [0.3, True], "right_eye": [0.7, 0.4]},
        {"left_eye": 0.3, "right_eye": 0.7},
        [0.3, 0.4, 0.7, 0.4],
    ],
)
def test_a_wrong_framing_is_refused(content):
    with pytest.raises(ValueError, match=r"^framing"):
        Framing.from_dict(content)


@pytest.mark.parametrize("text", ["0.3,0.4,0.7", "a,b,c,d", ""])
def test_a_wrong_text_of_a_framing_is_refused(text):
    with pytest.raises(ValueError, match="four numbers"):
        read_framing(text)


def test_landmarks_decide_over_the_box():
    def detector(image):
        return [((10, 10, 90, 90), 1.0)]

    points = face((60, 40), (88, 40), (74, 68))
    square = crop_face(
        IMAGE, detector=detector, landmarks=lambda image, box: points
    ).box
    assert square == square_of_landmarks(points)
    # Without landmarks the box does, in proportion to the framing.
    near = crop_face(
        IMAGE, detector=detector, framing=Framing((0.3, 0.41), (0.7, 0.41))
    ).box
    far = crop_face(IMAGE, detector=detector).box
    assert (far[2] - far[0]) / (near[2] - near[0]) == pytest.approx(
        0.4 / 0.28, rel=0.02
    )


def test_a_cut_stands_in_where_no_face_is_found(monkeypatch):
    monkeypatch.setattr(face_crop, "find_faces", lambda image: [])
    with pytest.raises(NoFaceError):
        frame_image(IMAGE, crop=True)

    with pytest.raises(ValueError, match="needs crop"):
        frame_image(IMAGE, crop=False)

    framed = frame_image(IMAGE, crop=True, cut=(0.2, 0.2, 0.6))
    assert not framed.found
    np.testing.assert_array_equal(framed.image, IMAGE[24:96, 44:116])

    monkeypatch.setattr(
        face_crop, "find_faces", lambda image: [((30, 30, 60, 60), 1.0)]
    )
    monkeypatch.setattr(face_crop, "has_landmarks", lambda: False)
    framed = frame_image(IMAGE, crop=True, cut=(0.2, 0.2, 0.6))
    assert framed.found
    np.testing.assert_array_equal(framed.image, crop_face(IMAGE).crop)


@pytest.mark.skipif(not has_landmarks(), reason="needs the extra `landmarks`")
def test_a_known_face_is_framed_at_any_size():
    """scikit-image ships an astronaut's portrait."""
    data = pytest.importorskip("skimage.data", reason="needs the extra `eval`")
    portrait = Image.fromarray(data.astronaut())
    for size in (160, 512, 1300):
        image = np.asarray(portrait.resize((size, size)))
        square = crop_face(image).box
        # Her eyes, marked by hand at 512 pixels.
        eyes = np.array([(203, 105), (245, 106)]) * size / 512
        found = places(square, *eyes)
        np.testing.assert_allclose(found.mean(axis=0), FRAMING.midpoint, atol=0.04)
        assert found[1, 0] - found[0, 0] == pytest.approx(
            FRAMING.eye_distance, abs=0.03
        )


@pytest.mark.skipif(not has_landmarks(), reason="needs the extra `landmarks`")
def test_landmarks_survive_boxes_beyond_the_image():
    for box in ((-40, -40, 40, 40), (500, 500, 540, 540), (0, 0, 1, 1)):
        assert np.isfinite(find_landmarks(IMAGE, box)).all()

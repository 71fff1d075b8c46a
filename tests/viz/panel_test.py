import numpy as np
import pytest

from facecycle_jax.viz import grid, training_panel, translation_panel

RNG = np.random.default_rng(0)
FACES = RNG.integers(0, 256, (2, 64, 64, 3), np.uint8)
FLOW = RNG.normal(size=(2, 16, 16, 2)).astype(np.float32)


def test_images_stand_in_their_rows_and_columns():
    red, blue = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    panel = grid([[red, blue], [blue, None]], scale=2, padding=4)
    assert panel.shape == (4 + 20 * 2, 4 + 20 * 2, 3)
    np.testing.assert_array_equal(
        panel[4:20, 4:20], np.broadcast_to([255, 0, 0], (16, 16, 3))
    )
    np.testing.assert_array_equal(
        panel[4:20, 24:40], np.broadcast_to([0, 0, 255], (16, 16, 3))
    )
    assert (panel[24:40, 24:40] == 255).all()


def test_flows_faces_and_grey_images_share_one_size():
    panel = grid([[FACES[0], FLOW[0], FACES[0, ..., 0]]], side=100, padding=5)
    assert panel.shape == (110, 5 + 3 * 105, 3)


def test_captions_take_space_and_are_wrapped():
    bare = grid([[FACES[0], FACES[1]]])
    short = grid([[FACES[0], FACES[1]]], captions=["a", "b"])
    long = grid(
        [[FACES[0], FACES[1]]],
        captions=["a", "many words that need several lines " * 2],
    )
    endless = grid([[FACES[0]]], captions=["x" * 100])
    assert bare.shape[0] < short.shape[0] < long.shape[0]
    assert bare.shape[1] == short.shape[1] == long.shape[1]
    assert endless.shape[1] < bare.shape[1]
    assert (short[: short.shape[0] - bare.shape[0]] < 100).any()
    np.testing.assert_array_equal(short[short.shape[0] - bare.shape[0] + 6 :], bare[6:])


def test_row_captions_and_title_take_space_and_are_written():
    bare = grid([[FACES[0]], [FACES[1]]])
    panel = grid([[FACES[0]], [FACES[1]]], row_captions=["one", "two"], title="all")
    assert panel.shape[1] > bare.shape[1]
    assert panel.shape[0] > bare.shape[0]

    # The images keep their place in the lower right corner; around them there is ink.
    height, width = bare.shape[:2]
    np.testing.assert_array_equal(panel[-height + 6 :, -width + 6 :], bare[6:, 6:])
    assert (panel[:-height] < 100).any()
    assert (panel[-height:, :-width] < 100).any()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "at least one"),
        ([[]], {}, "at least one"),
        ([[FACES[0].astype(np.float32)]], {}, "float32"),
        ([[FACES]], {}, r"\[2, 64, 64, 3\]"),
        ([[FACES[0]]], {"captions": ["a", "b"]}, "captions"),
        ([[FACES[0]]], {"row_captions": []}, "1 rows"),
        ([[FACES[0]]], {"scale": 0}, "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(rows, options, message):
    with pytest.raises(ValueError, match=message):
        grid(rows, **options)


def test_training_panel_orders_columns_and_limits_rows():
    images = {
        "mystery": FACES,
        "flow": FLOW,
        "input": FACES,
        "code": np.zeros((2, 256)),
    }
    both = training_panel(images, step=1200, side=32)
    one = training_panel(images, step=1200, side=32, max_rows=1)
    assert one.shape[0] == both.shape[0] - 38
    assert both.shape[1] == 6 + 3 * 38
    known_first = {"input": FACES, "flow": FLOW, "mystery": FACES}
    np.testing.assert_array_equal(both, training_panel(known_first, step=1200, side=32))


@pytest.mark.parametrize(
    "images", [{}, {"code": np.zeros((2, 4))}, {"input": FACES, "flow": FLOW[:1]}]
)
def test_training_panel_needs_as_many_of_each(images):
    with pytest.raises(ValueError, match="one N"):
        training_panel(images)


def test_translation_panel_has_two_rows_of_six_images():
    names = ("input", "neutral", "reexpressed", "mean_face", "reidentified_reexpressed")
    result = {**dict.fromkeys(names, FACES), "flow": FLOW}
    panel = translation_panel(result, side=50)
    plain = grid([[FACES[0]] * 6, [FACES[1]] * 6], side=50)
    assert panel.shape[0] > plain.shape[0]

    # The last row of images ends at the lower padding, and each column has its place.
    left = panel.shape[1] - 6 * 56
    assert left > 6
    bottom = panel[-56:-6]
    second = grid([[FACES[1]]], side=50)[6:-6, 6:-6]
    flow = grid([[FLOW[1]]], side=50)[6:-6, 6:-6]
    for column in range(6):
        start = left + 56 * column
        expected = flow if column == 1 else second
        np.testing.assert_array_equal(bottom[:, start : start + 50], expected)
    del result["flow"]
    with pytest.raises(ValueError, match="flow"):
        translation_panel(result)

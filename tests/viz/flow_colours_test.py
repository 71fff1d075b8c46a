import numpy as np
import pytest
from golden import golden

from facecycle_jax.viz import flow_legend, flow_to_rgb


def test_colours_equal_the_reference():
    flow, expected = golden()["flow_color/flow"], golden()["flow_color/rgb"]
    np.testing.assert_array_equal(flow_to_rgb(flow), expected)


def test_each_field_of_a_batch_is_drawn_alone():
    flow = np.stack([golden()["flow_color/flow"], 0.1 * golden()["motion/flow"][0]])
    batch = flow_to_rgb(flow[None])
    assert batch.shape == (1, 2, 16, 16, 3)
    for drawn, field in zip(batch[0], flow, strict=True):
        np.testing.assert_array_equal(drawn, flow_to_rgb(field))


def test_no_flow_is_white_and_opposite_flows_differ():
    assert (flow_to_rgb(np.zeros((4, 4, 2))) == 255).all()
    right, left = flow_to_rgb(np.array([[[1.0, 0.0], [-1.0, 0.0]]]), max_flow=1.0)[0]
    assert right[0] == 255
    assert left[0] == 0


def test_stronger_flow_is_more_saturated_and_beyond_the_maximum_darker():
    flow = np.array([[[0.2, 0.1], [0.8, 0.4], [8.0, 4.0]]])
    weak, strong, beyond = flow_to_rgb(flow, max_flow=1.0)[0].astype(int)
    assert np.ptp(weak) < np.ptp(strong)
    assert beyond.max() < 255 == strong.max()


def test_the_angle_where_the_wheel_closes_is_valid():
    flow = np.array([[[-1.0, 0.0], [-1.0, -0.0], [-1.0, 1e-12], [-1.0, -1e-12]]])
    drawn = flow_to_rgb(flow, max_flow=1.0)[0].astype(int)
    assert np.abs(drawn - drawn[0]).max() <= 30


@pytest.mark.parametrize(
    ("flow", "options", "message"),
    [
        (np.zeros((4, 4, 3)), {}, r"\(4, 4, 3\)"),
        (np.zeros((4, 2)), {}, r"\(4, 2\)"),
        (np.full((2, 2, 2), np.nan), {}, "8 of 8"),
        (np.zeros((4, 4, 2)), {"max_flow": 0.0}, "above 0"),
    ],
)
def test_wrong_flows_are_refused(flow, options, message):
    with pytest.raises(ValueError, match=message):
        flow_to_rgb(flow, **options)


def test_legend_is_a_disc_on_white():
    legend = flow_legend(65)
    assert legend.shape == (65, 65, 3)
    assert legend.dtype == np.uint8
    assert (legend[0, 0] == 255).all()
    assert (legend[32, 32] > 250).all()
    np.testing.assert_allclose(
        legend[32, 60], flow_to_rgb(np.array([[[0.86, 0]]]), max_flow=1)[0, 0], atol=6
    )
    with pytest.raises(ValueError, match="at least 1"):
        flow_legend(0)

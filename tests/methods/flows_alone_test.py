"""The part of the motion cycle that only warps."""

import pytest
from flows_alone import made

from facecycle_jax.errors import UserError


@pytest.mark.parametrize(
    "name",
    [
        "flow_side",
        "turn_weight",
        "frontal_weight",
        "histogram_weight",
        "keep_weight",
        "keep_features",
    ],
)
def test_options_that_a_generator_would_leave_out_are_refused(name):
    with pytest.raises(UserError, match=rf"loss\.{name} is for training flows alone"):
        made(generator=True, vgg="random", **{name: 1.0})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"warped_weight": 1.0}, "loss.warped_weight"),
        ({"exchange_motion": False}, "loss.exchange_motion"),
        ({"histogram_weight": 1.0, "keep_features": True}, "loss.keep_features"),
    ],
)
def test_options_that_would_do_nothing_without_a_generator_are_refused(fields, named):
    with pytest.raises(UserError, match=named):
        made(generator=False, vgg="random", **fields)

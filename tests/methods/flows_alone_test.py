"""The part of the motion cycle that only warps."""

import pytest
from flows_alone import made

from facecycle_jax.errors import UserError


@pytest.mark.parametrize(
    "name",
    [
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

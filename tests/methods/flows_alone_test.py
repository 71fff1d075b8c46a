"""The part of the motion cycle that only warps."""

import jax
import pytest
from flows_alone import images, made

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


@pytest.mark.parametrize(
    ("kept", "keep_features"),
    [("flow_decoder", False), ("flow_decoder", True), ("motion_encoder", False)],
)
def test_a_network_that_is_kept_is_used_and_not_trained(kept, keep_features):
    method = made(vgg="random", keep_features=keep_features, freeze=(kept,))
    params, frozen = method.init(jax.random.key(0))
    assert kept in frozen
    assert kept not in params

    def total(params):
        return method.loss(params, frozen, images(), jax.random.key(1))[0]

    gradients = jax.eval_shape(jax.grad(total), params)
    assert gradients.keys() == {"motion_encoder", "flow_decoder"} - {kept}

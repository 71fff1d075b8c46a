"""Values of a configuration are checked before anything is made, read or compiled."""

import importlib
import math
import pathlib

import pytest
import toy_training

from facecycle_jax import training
from facecycle_jax.errors import UserError
from facecycle_jax.training.ranges import RANGES, Range

CONFIGS = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[2] / "configs").glob("*.py")
    if path.stem[0] != "_"
)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_in_range(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    training.check_ranges(config.to_dict())


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("log_every", 0, "a whole number of at least 1"),
        ("eval_every", 0, "a whole number of at least 1"),
        ("panel_every", 0, "a whole number of at least 1"),
        ("checkpoint_every", 0, "a whole number of at least 1"),
        ("panel_rows", 0, "a whole number of at least 1"),
        ("max_nonfinite", 0, "a whole number of at least 1"),
        ("keep_last", 0, "a whole number of at least 1"),
        ("num_steps", -1, "a whole number of at least 0"),
        ("optimiser.ema_decay", 1.5, "a number from 0 to below 1"),
        ("optimiser.ema_decay", -0.5, "a number from 0 to below 1"),
        ("optimiser.ema_decay", math.nan, "a number from 0 to below 1"),
        (
            "optimiser.schedule_rates",
            (1e-3, -1.0, 1e-3),
            "each be a number of at least 0",
        ),
        ("data.max_tracks", -3, "a whole number of at least 0"),
        ("data.identity_depth", -1, "a whole number of at least 1"),
        ("data.identity_depth", 0, "a whole number of at least 1"),
        ("augment.scale", (0.0, 1.0), "each be a number above 0"),
        ("augment.hue", 0.7, "a number from 0 to 0.5"),
        ("loss.ssim_range", 0.0, "a number above 0"),
        ("loss.flow_side", -3, "a whole number of at least 0"),
        ("profile_steps", (3,), "the first and the last step to trace"),
        ("profile_steps", (0, 2), "counted from 1"),
        ("profile_steps", (4, 2), "got [4, 2]"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(tmp_path, field, value, allowed):
    workdir = tmp_path / "run"
    with pytest.raises(UserError) as raised:
        toy_training.train(workdir, **{field.replace(".", "__"): value})
    text = str(raised.value)
    assert text.startswith(f"config.{field} must ")
    assert allowed in text
    assert "got" in text
    # Nothing was begun.
    assert not workdir.exists()


def test_the_stage_of_a_value_is_named_and_stages_must_exist():
    stage = toy_training.toy_config().to_dict()
    wrong = {"stages": ("one", "two"), "one": stage, "two": {**stage, "log_every": 0}}
    with pytest.raises(UserError, match=r"config\.two\.log_every must be"):
        training.check_ranges(wrong)
    with pytest.raises(
        UserError, match=r"config\.stages must name some of one, two, got three"
    ):
        training.check_ranges({**wrong, "stages": ("three",)})
    with pytest.raises(UserError, match="got nothing"):
        training.check_ranges({**wrong, "stages": ()})


def test_a_run_without_a_length_and_a_range_upside_down_are_refused():
    config = toy_training.toy_config().to_dict()
    with pytest.raises(UserError, match="are both 0"):
        training.check_ranges({**config, "num_steps": 0, "num_epochs": 0})
    with pytest.raises(UserError, match="the smaller one first"):
        training.check_ranges(
            {**config, "augment": {**config["augment"], "scale": (1.1, 0.9)}}
        )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_size", 16.0, "got 16.0; write it without a decimal point"),
        ("num_steps", 1e5, "a whole number of at least 0, got 100000.0"),
        ("batch_size", (16,), "must be one number, got [16]"),
        ("augment.scale", 1.0, "must be several numbers, got 1.0"),
        ("augment.scale", (1.0,), "two numbers, the smaller one first, got [1.0]"),
        ("optimiser.schedule_rates", 1e-3, "must be several numbers, got 0.001"),
        ("profile_steps", 5, "the first and the last step to trace"),
        ("profile_steps", (2, 5.0), "counted from 1, or empty, got [2, 5.0]"),
    ],
)
def test_values_of_another_kind_are_refused_in_dicts_too(field, value, words):
    # A config of ml_collections checks types by itself, a dict does not.
    config = toy_training.toy_config().to_dict()
    block = config
    *parents, name = field.split(".")
    for parent in parents:
        block = block[parent]
    block[name] = value
    with pytest.raises(UserError) as raised:
        training.check_ranges(config)
    assert str(raised.value).startswith(f"config.{field} must ")
    assert words in str(raised.value)


def test_booleans_texts_and_infinities_are_no_numbers_of_a_range():
    for value in (True, "1", math.inf, math.nan, None):
        assert value not in Range(0)
    assert 2.5 in Range(0)
    assert 2.5 not in Range(0, whole=True)
    assert 2.0 not in Range(0, whole=True)


def test_every_field_of_the_table_is_a_field_of_a_config():
    known = set()
    for name in ("motion_cycle", "identity_cycle", "simclr", "tcae", "pcl"):
        known |= set(
            training.flatten(
                importlib.import_module(f"configs.{name}").get_config().to_dict()
            )
        )
    assert set(RANGES) <= known

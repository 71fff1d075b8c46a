"""Configs are found by name or path, and fields become flags."""

import pathlib

import pytest

from facecycle_jax import config_files
from facecycle_jax.configs import face_cycle, facecycle_base, simclr
from facecycle_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def test_configs_are_found_by_name_and_a_file_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = pathlib.Path(config_files.find_config("debug"))
    assert found.resolve() == (ROOT / "configs/debug.py").resolve()
    assert config_files.find_config("fab_net:small").endswith("fab_net.py:small")
    (tmp_path / "debug").write_text("")
    assert config_files.find_config("debug") == "debug"


def test_modules_that_configs_share_are_no_configs():
    assert "motion_cycle" in config_files.config_names()
    assert not {"base", "peer_base", "__init__"} & set(config_files.config_names())

    message = "there is no config 'base': name a file, or one of debug"
    with pytest.raises(UserError, match=message):
        config_files.find_config("base")


@pytest.mark.parametrize("config", [simclr, face_cycle, facecycle_base])
def test_a_size_that_a_config_does_not_have_is_refused(config):
    with pytest.raises(ValueError, match=r"this config comes as '.*, not 'smal'"):
        config.get_config("smal")


def test_fields_become_flags_of_the_launchers_entry():
    command = config_files.launcher_arguments(
        "debug", ["data.path=a b", "num_steps=3"], workdir="w"
    )
    assert command[2:] == [
        "--workdir=w",
        "--config.data.path=a b",
        "--config.num_steps=3",
    ]

    with pytest.raises(UserError, match="--set num_steps: write it as FIELD=VALUE"):
        config_files.launcher_arguments("debug", ["num_steps"], workdir="w")


def test_a_field_without_a_stage_is_set_in_every_stage_that_has_it():
    config = {
        "stages": ("first", "second"),
        "first": {"data": {"path": ""}},
        "second": {"data": {"path": ""}, "freeze": ()},
        "unused": {"data": {"path": ""}},
        "about": "",
    }

    def fields(field):
        return config_files.for_all_stages([field], config)

    assert fields("data.path=a=b") == ["first.data.path=a=b", "second.data.path=a=b"]
    assert fields("freeze=x") == ["second.freeze=x"]
    assert fields("second.data.path=a") == ["second.data.path=a"]
    assert fields("about=x") == ["about=x"]
    assert fields("nothing=x") == ["nothing=x"]
    assert config_files.for_all_stages(["seed=1"], {"seed": 0}) == ["seed=1"]

"""Models on the Hub, by a local double of its HTTP interface: no network is used."""

import functools
import json
import sys

import hub_double
import jax
import numpy as np
import pytest
import tiny_model

import facecycle_jax
from facecycle_jax import cli, training
from facecycle_jax.errors import MissingExtraError, UserError
from facecycle_jax.storage.hub import push_model

pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    tiny_model.write(path)
    return path


@pytest.fixture
def hub(monkeypatch, folder):
    """A Hub with one model, user/name."""
    with hub_double.serving(monkeypatch) as double:
        double.commit_folder("user/name", folder)
        yield double


@pytest.fixture
def load(tmp_path):
    return functools.partial(facecycle_jax.load, cache_dir=tmp_path / "cache")


def flip_last_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def assert_is_the_tiny_model(model):
    jax.tree.map(np.testing.assert_array_equal, model.trees, tiny_model.trees())


@pytest.mark.parametrize("address", ["hf://user/name", "hf-hub:user/name"])
def test_a_model_is_downloaded_once_and_then_read_from_the_cache(hub, load, address):
    assert_is_the_tiny_model(load(address))
    hub.requests.clear()

    assert_is_the_tiny_model(load(address, local_files_only=True))
    assert not hub.requests


def test_a_revision_is_a_branch_or_a_commit_in_the_address_or_beside_it(
    hub, load, folder
):
    first = hub.find("user/name", "main")
    config = json.loads((folder / "config.json").read_bytes())
    changed = json.dumps(config | {"licence": "changed"}).encode()
    hub.commit("user/name", {"config.json": changed})

    assert load("hf://user/name").info["licence"] == "changed"
    assert load("hf://user/name@main").info["licence"] == "changed"
    assert load(f"hf://user/name@{first}").info["licence"] == "CC0"
    assert load("hf://user/name", revision=first).info["licence"] == "CC0"
    with pytest.raises(UserError, match="names a revision already"):
        load("hf://user/name@main", revision=first)


def test_a_private_model_needs_the_right_token(hub, load, monkeypatch):
    hub.private.add("user/name")
    with pytest.raises(UserError, match=r"There is no model user/name .*or it is"):
        load("hf://user/name")
    with pytest.raises(UserError, match=r"hf://user/name: the Hub refuses the token"):
        load("hf://user/name", token="hf_wrong")

    monkeypatch.setenv("HF_TOKEN", hub_double.TOKEN)
    assert_is_the_tiny_model(load("hf://user/name"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://user/unknown", "There is no model user/unknown on the Hub"),
        ("hf://user/name@v9", "hf://user/name@v9: there is no revision 'v9'"),
        ("hf://user/other", r"/other is not a model .* it has no config\.json"),
        ("hf://name", "write hf://USER/NAME or hf://USER/NAME@REVISION"),
        ("hf://user/name@", "write hf://USER/NAME"),
        ("hf-hub:us--er/name", "hf://us--er/name is not a name on the Hub"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(hub, load, address, message):
    hub.commit("user/other", {"README.md": b"of another program"})
    with pytest.raises(UserError, match=message) as raised:
        load(address)
    assert "\n" not in str(raised.value)


def test_without_a_network_the_cache_serves_or_one_sentence_says_so(
    hub, load, folder, monkeypatch
):
    load("hf://user/name")
    # Nothing listens on this port.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_is_the_tiny_model(load("hf://user/name"))

    with pytest.raises(UserError, match=r"the Hub cannot be reached.*network"):
        load("hf://user/other")
    with pytest.raises(UserError, match="is not in the cache"):
        load("hf://user/other", local_files_only=True)
    with pytest.raises(UserError, match="the Hub cannot be reached"):
        push_model(folder, "user/name")


def test_weights_damaged_in_transit_are_downloaded_again(hub, load):
    hub.damage = [flip_last_bit]
    assert_is_the_tiny_model(load("hf://user/name"))
    assert not hub.damage

    # The cache holds the whole file now.
    assert_is_the_tiny_model(load("hf://user/name", local_files_only=True))


def test_weights_damaged_again_and_again_are_one_sentence(hub, load):
    hub.damage = [flip_last_bit] * 2
    with pytest.raises(UserError, match="hf://user/name is damaged: weights") as raised:
        load("hf://user/name")
    assert "\n" not in str(raised.value)

    # The damaged file does not stay for ever.
    with pytest.raises(UserError, match="load it again with a network"):
        load("hf://user/name", local_files_only=True)
    assert_is_the_tiny_model(load("hf://user/name"))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "refuses this with status 400: 'the name is taken by a space'"),
        (429, "answers with status 429; try again later"),
        (500, "answers with status 500; try again later"),
    ],
)
def test_a_refusal_has_the_reason_of_the_hub(hub, folder, status, message):
    hub.refusal = (status, "the name is taken by a space")
    with pytest.raises(UserError, match=message) as raised:
        push_model(folder, "user/mine")
    assert ("try again" in str(raised.value)) == (status != 400)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'facecycle_jax\[hub\]'"):
        facecycle_jax.load("hf://user/name")


def test_options_of_the_hub_are_refused_for_other_models(folder):
    with pytest.raises(UserError, match="revision is for models on the Hub"):
        facecycle_jax.load(folder, revision="v1")
    with pytest.raises(UserError, match="local_files_only is for models on the Hub"):
        facecycle_jax.load("facecycle-small", local_files_only=True)


def test_training_starts_from_a_model_of_the_hub(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    trees = training.load_trees("hf://user/name")
    jax.tree.map(np.testing.assert_array_equal, trees, tiny_model.trees())


def test_a_pushed_model_is_private_and_loads_again(hub, load, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", hub_double.TOKEN)
    assert cli.main(["push", "facecycle-small", "user/mine"]) == 0
    assert f"{hub.endpoint}/user/mine/commit/" in capsys.readouterr().out
    assert hub.private == {"user/mine"}

    ours = facecycle_jax.load("facecycle-small")
    loaded = load("hf://user/mine")
    assert loaded.info == ours.info

    # Cards of earlier versions get what the Hub reads.
    [commit] = {hub.find("user/mine", "main")}
    card = hub.commits["user/mine"][commit]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: facecycle_jax\n")
    assert "# A FaceCycle model" in card

    arguments = ["push", "facecycle-small", "user/mine@dev"]
    assert cli.main([*arguments, "--public"]) == 0
    assert load("hf://user/mine@dev").info == ours.info


def test_only_whole_model_folders_are_pushed(hub, folder, tmp_path, capsys):
    assert cli.main(["push", str(tmp_path), "user/mine"]) == 2
    assert "is not a model folder" in capsys.readouterr().err

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in folder.iterdir():
        content = file.read_bytes()
        is_weights = file.suffix == ".safetensors"
        changed = flip_last_bit(content) if is_weights else content
        (damaged / file.name).write_bytes(changed)
    assert cli.main(["push", str(damaged), "user/mine"]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not hub.requests


def test_a_refused_push_is_one_sentence(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert cli.main(["push", "facecycle-small", "user/mine"]) == 2
    error = capsys.readouterr().err
    assert "the Hub refuses the token" in error
    assert error.count("\n") == 1

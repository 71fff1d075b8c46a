"""The bundled model loads by name without a network and does what its card says."""

import configparser
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import facecycle_jax
from facecycle_jax.data import synthetic_tracks
from facecycle_jax.evaluation.probes.verification import cosine_scores
from facecycle_jax.inference.loading import DEFAULT_MODEL
from facecycle_jax.storage import bundled

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "facecycle_jax" / "weights" / "facecycle-base"
MAX_BYTES = 40 * 2**20


@pytest.fixture(scope="module")
def model():
    return facecycle_jax.load()


@pytest.fixture(scope="module")
def faces():
    """Twelve synthetic people, two frames of each: uint8 [24, 64, 64, 3]."""
    return synthetic_tracks(41, identities=12, frames_per_track=2, size=64)["frames"]


def test_it_is_small_and_installed_with_the_package():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert {path.name for path in files} == {
        "config.json",
        "weights.safetensors",
        "README.md",
    }
    assert sum(path.stat().st_size for path in files) < MAX_BYTES

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["facecycle_jax"].split()
    installed = set()
    for pattern in patterns:
        installed.update((ROOT / "facecycle_jax").glob(pattern))
    assert set(files) <= installed


def test_other_files_of_the_folder_are_no_models(tmp_path, monkeypatch):
    (tmp_path / ".DS_Store").write_text("of a file manager")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights.safetensors").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(bundled, "_BUNDLED", tmp_path)
    assert bundled.bundled_models() == ["mine"]


def test_its_configuration_agrees_with_the_model_card(model):
    assert DEFAULT_MODEL == "facecycle-base"
    assert model.has_identity
    assert model.info["model"]["trunk"] == "learned"  # none of ImageNet's weights
    assert not any(name.startswith("vgg") for name in model.trees)
    assert "Non-commercial research" in model.info["licence"]

    card = (ROOT / "docs" / "model_card.md").read_text()
    assert f"{model.info['weights']['parameters']:,} parameters" in card


def test_it_loads_anywhere_without_tensorflow(tmp_path):
    program = (
        "import sys, facecycle_jax; m = facecycle_jax.load();"
        "assert 'tensorflow' not in sys.modules; print(m.size)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "64"


def middle(images):
    """The face without most of the background, which flows move too.

    Images of less contrast would be more alike and more symmetric, so each is divided
    by its own standard deviation.
    """
    images = images[:, 8:-8, 8:-8].astype(np.float32)
    return images / images.std(axis=(1, 2, 3), keepdims=True)


def test_neutral_faces_of_a_person_are_more_alike_than_the_frames(model, faces):
    # The model was trained on no synthetic faces, turns heads by two thirds of the
    # way, and draws sharp faces, so small shifts of edges count. The two frames of a
    # person share lighting and background, so the difference is that of their motion.
    def difference(images):
        images = middle(images)
        pairs = images.reshape(-1, 2, *images.shape[1:])
        return np.abs(pairs[:, 0] - pairs[:, 1]).mean()

    assert difference(model.neutral(faces)) < 0.98 * difference(faces)


def test_neutral_faces_are_more_symmetric_than_the_frames(model, faces):
    # Light from one side stays.
    def asymmetry(images):
        images = middle(images)
        return np.abs(images - images[:, :, ::-1]).mean()

    assert asymmetry(model.neutral(faces)) < 0.93 * asymmetry(faces)


def test_mean_faces_vary_less_over_people_than_neutral_faces(model, faces):
    def spread(images):
        return images.astype(np.float32).std(axis=0).mean()

    assert spread(model.mean_face(faces)) < 0.5 * spread(model.neutral(faces))


def test_identity_codes_distinguish_people(model, faces):
    codes = model.identity_code(faces).reshape(12, 2, -1)
    own = cosine_scores(codes[:, 0], codes[:, 1])
    others = cosine_scores(codes[:, 0], np.roll(codes[:, 1], 1, axis=0))
    assert (own > others).mean() >= 0.7

"""Paths that users have given."""

import pathlib

import pytest

from facecycle_jax.errors import UserError
from facecycle_jax.paths import given_path


def test_a_path_is_taken_as_it_is_and_the_home_folder_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert str(given_path("~/a b.jpg", name="--out")) == "/home/ann/a b.jpg"
    assert str(given_path("photos/é~.jpg", name="--out")) == "photos/é~.jpg"
    assert str(given_path(pathlib.Path("x"), name="--out")) == "x"
    assert str(given_path("gs://bucket/x", name="--out")) == "gs://bucket/x"


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_not_the_current_folder(path):
    with pytest.raises(UserError, match=r"^--out is empty: name a file or folder"):
        given_path(path, name="--out")


@pytest.mark.parametrize("path", ["http://a.org/a.jpg", "HTTPS://a", "file:///a.jpg"])
def test_an_address_is_refused_by_name(path):
    with pytest.raises(UserError, match=r"is neither read nor written\. Download"):
        given_path(path, name="the image")


def test_a_bucket_is_refused_where_files_must_be_local():
    with pytest.raises(UserError, match=r"^--out gs://b/x\.mp4: only local files work"):
        given_path("gs://b/x.mp4", name="--out", local=True)
    assert str(given_path("x.mp4", name="--out", local=True)) == "x.mp4"

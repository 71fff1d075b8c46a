"""Names of outputs, and what is refused of them before any work."""

import os

import pytest
from etils import epath

from facecycle_jax.commands import outputs
from facecycle_jax.errors import UserError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
        (["Ann", "ann"], ["Ann", "ann_2"]),
    ],
)
def test_repeated_names_are_numbered(names, expected):
    assert outputs.unique(names) == expected


def test_outputs_are_named_after_their_inputs_apart_by_folder_or_number():
    def names(*paths):
        return outputs.output_names([epath.Path(path) for path in paths])

    assert names("/x/a.png", "/x/b.png") == ["a", "b"]
    assert names("/x/a.png", "/y/a.png") == ["x_a", "y_a"]
    assert names("/a.png", "/y/a.png") == ["a", "y_a"]
    # No folder distinguishes these.
    assert names("/x/a.png", "/x/a.jpg") == ["a", "a_2"]
    # A name of underscores alone stays a name.
    assert names("/x/__.png", "/x/_a.png") == ["__", "_a"]


def check_free(path, **options):
    outputs.check_free([path], overwrite=True, **options)


CHECKS = {
    "folder": outputs.check_folder,
    "images": outputs.check_folder_name,
    "new": outputs.check_new_output,
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_paths_are_as_users_write_them(check, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check("~/out") == epath.Path(tmp_path / "out")
    with pytest.raises(UserError, match=r"^--out is empty"):
        check("")
    with pytest.raises(UserError, match="http:// is neither read nor written"):
        check("http://a.org/out")


@pytest.mark.parametrize("check", [*CHECKS.values(), check_free], ids=[*CHECKS, "free"])
def test_what_may_not_be_written_is_refused_before_any_work(
    check, tmp_path, monkeypatch
):
    closed = tmp_path / "closed"
    closed.mkdir()
    access = os.access

    # Root may write everywhere.
    def closed_one(path, mode):
        return os.fspath(path) != str(closed) and access(path, mode)

    monkeypatch.setattr(os, "access", closed_one)
    check(epath.Path(tmp_path / "open"))
    sentence = "may not be written: choose another folder or change its permissions"
    with pytest.raises(UserError, match=sentence):
        check(epath.Path(closed / "a" / "b"))


def test_a_folder_below_a_file_is_refused(tmp_path):
    file = epath.Path(tmp_path / "a.txt")
    file.write_text("")
    with pytest.raises(UserError, match=r"because .*/a\.txt is a file: choose another"):
        outputs.check_folder(file)
    with pytest.raises(UserError, match=r"/b cannot be made, because .*/a\.txt"):
        outputs.check_folder(file / "b")
    with pytest.raises(UserError, match=r"because .*/a\.txt is a file"):
        outputs.check_new_output(file / "b" / "c")
    with pytest.raises(UserError, match=r"because .*/a\.txt is a file: choose another"):
        check_free(file / "codes.npz")


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "codes.npz").mkdir()
    with pytest.raises(UserError, match="is a folder, and a file is written"):
        check_free(epath.Path(tmp_path / "codes.npz"))

"""Evaluation sets in their published layouts, and one sentence for each error."""

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data.labelled.fer2013 import CLASSES, read_fer2013
from facecycle_jax.data.labelled.images import load_images
from facecycle_jax.data.labelled.lfw_pairs import read_cplfw_pairs, read_lfw_pairs
from facecycle_jax.data.labelled.raf_db import read_raf_db
from facecycle_jax.errors import UserError


def face(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (48, 48), value).save(path)


def row(emotion, usage, value=7):
    return f"{emotion},{' '.join([str(value)] * 2304)},{usage}"


def write_csv(path, *rows):
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")


def test_fer2013_csv_is_read(tmp_path):
    rows = [row(3, "Training", 5), row(0, "PublicTest"), row(6, "Training", 9)]
    write_csv(tmp_path / "fer2013.csv", *rows)
    split = read_fer2013(str(tmp_path), split="Training")
    assert [split.classes[label] for label in split.labels] == ["happy", "neutral"]
    assert split.images.shape == (2, 48, 48)
    assert split.images[:, 0, 0].tolist() == [5, 9]
    assert load_images(split.images, size=64).shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("9," + "1 " * 2304 + ",Training", "row 3: emotion must be 0 to 6, got '9'"),
        ("1,1 2 3,Training", "row 3: expected 2304 pixels, got 3"),
        ("1," + "300 " * 2304 + ",Training", "row 3: pixels must be 0 to 255, got 300"),
        ("1,a b,Training", "row 3: pixels must be whole numbers"),
        ("1,1 2", "row 3: expected 3 columns, got 2"),
        ("1,1,Other", "row 3: Usage must be one of"),
        ("1," + "1_0 " * 2304 + ",Training", "row 3: pixels must be whole numbers"),
        ("1," + "+1 " * 2304 + ",Training", "row 3: pixels must be whole numbers"),
        ("1," + "9" * 5000 + ",Training", "row 3: pixels must be whole numbers"),
        ("1," + "1" * 200_000 + ",Training", "row 3: field larger than field limit"),
        (
            '1,"' + "1 " * 2304 + ",Training\n" * 100_000,
            "row 3: field larger than field limit",
        ),
        ('1,"1 2 3,Training', "row 3: expected 3 columns, got 2"),
        ("1,caf\u00e9,Training", "row 3: it holds other characters than ASCII"),
    ],
)
def test_corrupt_rows_of_fer2013_are_named(tmp_path, bad, words):
    write_csv(tmp_path / "fer2013.csv", row(3, "Training"), bad)
    with pytest.raises(ValueError, match=words):
        read_fer2013(str(tmp_path), split="Training")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\xff\xfee\0m\0o\0", "row 1: it holds other characters than ASCII"),
        (b"", "row 1: expected the columns emotion, pixels and Usage, got ''"),
        (
            b"a," * 1000,
            r"row 1: expected the columns emotion, pixels and Usage, got .{1,90}\.$",
        ),
    ],
)
def test_files_that_are_no_csv_of_fer2013_are_refused(tmp_path, start, words):
    (tmp_path / "fer2013.csv").write_bytes(start)
    with pytest.raises(UserError, match=words):
        read_fer2013(str(tmp_path), split="Training")


def test_fer2013_csv_may_have_a_byte_order_mark(tmp_path):
    write_csv(tmp_path / "fer2013.csv", row(3, "Training", 5))
    path = tmp_path / "fer2013.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_fer2013(str(tmp_path), split="Training")) == 1


def test_lists_that_are_not_utf8_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"1\nRen\xe9\t1\t2\nann\t1\tbob\t1\n")
    with pytest.raises(FileNotFoundError, match=r"line 2: there is no image Ren"):
        read_lfw_pairs(str(tmp_path))
    (tmp_path / "pairs.txt").write_text("9" * 5000 + "\n")
    with pytest.raises(UserError, match="line 1: expected"):
        read_lfw_pairs(str(tmp_path))


def test_folders_of_fer2013_are_read(tmp_path):
    for number, name in enumerate(CLASSES):
        face(tmp_path / "Training" / name / f"{number}.jpg")

    split = read_fer2013(str(tmp_path), split="Training")
    assert sorted(split.labels.tolist()) == list(range(7))
    assert all(
        f"/{CLASSES[label]}/" in p
        for p, label in zip(split.images, split.labels, strict=True)
    )
    with pytest.raises(
        FileNotFoundError, match=r"neither fer2013\.csv nor a folder PublicTest"
    ):
        read_fer2013(str(tmp_path), split="PublicTest")

    (tmp_path / "Training" / "bored").mkdir()
    with pytest.raises(ValueError, match=r"unknown: \['bored'\]"):
        read_fer2013(str(tmp_path), split="Training")


def raf(tmp_path, *lines):
    (tmp_path / "basic" / "EmoLabel").mkdir(parents=True)
    (tmp_path / "basic" / "EmoLabel" / "list_patition_label.txt").write_text(
        "\n".join(lines) + "\n"
    )
    for line in lines:
        face(
            tmp_path
            / "basic"
            / "Image"
            / "aligned"
            / f"{line.split()[0][:-4]}_aligned.jpg"
        )

    return str(tmp_path)


def test_raf_db_is_read(tmp_path):
    path = raf(tmp_path, "train_00001.jpg 5", "test_0001.jpg 7", "train_00002.jpg 1")
    train, test = (read_raf_db(path, split=split) for split in ("train", "test"))
    assert [train.classes[label] for label in train.labels] == ["sadness", "surprise"]
    assert test.images[0].endswith("test_0001_aligned.jpg")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train_00002.jpg 8", "line 2: the label must be 1 to 7, got '8'"),
        ("train_00002.jpg", "line 2: expected 'train_00001.jpg 5'"),
        ("other.jpg 3", "line 2: expected 'train_00001.jpg 5'"),
    ],
)
def test_invalid_lines_of_raf_db_are_named(tmp_path, line, words):
    with pytest.raises(ValueError, match=words):
        read_raf_db(raf(tmp_path, "train_00001.jpg 5", line), split="train")


def test_a_missing_image_of_raf_db_is_named(tmp_path):
    path = raf(tmp_path, "train_00001.jpg 5")
    (tmp_path / "basic" / "Image" / "aligned" / "train_00001_aligned.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="train_00001_aligned"):
        read_raf_db(path, split="train")


def lfw(tmp_path, name, header, lines):
    for person in ("Ann", "Bob", "Cy"):
        for number in (1, 2, 3):
            face(tmp_path / "lfw" / person / f"{person}_{number:04d}.jpg")
    (tmp_path / name).write_text("\n".join([header, *lines]) + "\n")
    return str(tmp_path)


def test_lfw_view_1_is_read(tmp_path):
    lines = ["Ann\t1\t2", "Bob\t1\t3", "Ann\t1\tBob\t2", "Bob\t3\tCy\t1"]
    pairs = read_lfw_pairs(
        lfw(tmp_path, "pairsDevTest.txt", "2", lines), name="pairsDevTest.txt"
    )
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.people[3] == ("Bob", "Cy")
    assert pairs.files[pairs.left[0]].endswith("lfw/Ann/Ann_0001.jpg")
    assert pairs.files[pairs.right[3]].endswith("Cy/Cy_0001.jpg")
    assert set(pairs.fold) == {0}
    # Each image once.
    assert len(set(pairs.files)) == len(pairs.files) == 6
    kept = pairs.without(frozenset({"Cy"}))
    assert len(kept) == 3
    assert pairs.strangers(["Dee", "Cy", "Eve"]) == ["Dee", "Eve"]
    with pytest.raises(ValueError, match="both are needed"):
        pairs.without(frozenset({"Bob"}))


def test_lfw_view_2_is_read_with_its_folds(tmp_path):
    lines = ["Ann\t1\t2", "Ann\t1\tBob\t2", "Bob\t1\t2", "Bob\t3\tCy\t1"]
    pairs = read_lfw_pairs(lfw(tmp_path, "pairs.txt", "2\t1", lines))
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert pairs.same.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("header", "lines", "words"),
    [
        ("2", ["Ann\t1\t2"], "declares 1 x 2 x 2 pairs and has 1"),
        ("pairs", ["Ann\t1\t2"], "line 1: expected"),
        ("1", ["Ann\t1", "Ann\t1\tBob\t2"], "line 2: expected name, number, number"),
        (
            "1",
            ["Ann\t1\t2", "Ann\t1\tAnn\t2"],
            "line 3: a pair of different people names 'Ann' twice",
        ),
        (
            "1",
            ["Ann\t0\t2", "Ann\t1\tBob\t2"],
            "line 2: an image's number must be 1 or more",
        ),
    ],
)
def test_invalid_lines_of_lfw_are_named(tmp_path, header, lines, words):
    with pytest.raises(ValueError, match=words):
        read_lfw_pairs(lfw(tmp_path, "pairs.txt", header, lines))


def test_a_missing_image_of_lfw_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"line 2: there is no image Ann/Ann_0009\.jpg"
    ):
        read_lfw_pairs(lfw(tmp_path, "pairs.txt", "1", ["Ann\t1\t9", "Ann\t1\tBob\t2"]))


def test_cplfw_is_read_with_folds(tmp_path):
    for name in ("Ann_1", "Ann_2", "Bob_1"):
        face(tmp_path / "aligned images" / f"{name}.jpg")

    lines = ["Ann_1.jpg 1", "Ann_2.jpg 1", "Ann_1.jpg 0", "Bob_1.jpg 0"]
    (tmp_path / "pairs_CPLFW.txt").write_text("\n".join(lines) + "\n")
    pairs = read_cplfw_pairs(str(tmp_path), folds=1)
    assert pairs.same.tolist() == [True, False]
    assert pairs.people[1] == ("Ann", "Bob")
    (tmp_path / "pairs_CPLFW.txt").write_text("Ann_1.jpg 1\nAnn_2.jpg 0\n")
    with pytest.raises(
        ValueError, match="line 1: both lines of a pair must have one answer"
    ):
        read_cplfw_pairs(str(tmp_path))


def test_cropping_keeps_the_middle():
    image = np.zeros((1, 10, 10, 3), np.uint8)
    image[:, 2:8, 2:8] = 255
    assert load_images(image, size=6, crop=0.6).min() == 255
    with pytest.raises(ValueError, match="crop must be above 0 and at most 1"):
        load_images(image, size=6, crop=1.2)


def test_one_name_is_not_taken_for_a_list_of_letters():
    with pytest.raises(UserError, match=r"takes a list of files, got 'ann\.jpg'"):
        load_images("ann.jpg", size=8)

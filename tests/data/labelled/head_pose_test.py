"""Head pose sets in their published layouts, and one sentence for each error."""

import numpy as np
import pose_files
import pytest
from PIL import Image

from facecycle_jax.data.labelled.head_pose import OFFICIAL, read_300w_lp, read_aflw2000
from facecycle_jax.data.labelled.images import CroppedFile, load_images

pytest.importorskip("scipy")


def test_folders_of_jpg_and_mat_are_read(tmp_path):
    path = pose_files.write_folders(tmp_path, photographs=2)
    train, test = read_300w_lp(path), read_aflw2000(path)
    assert len(train) == 8 * 6
    assert len(test) == 12
    # Yaw comes first here and second in the file; mirrored images have mirrored yaw
    # and roll.
    np.testing.assert_allclose(train.angles[:6], pose_files.angles(6, 0), atol=1e-3)
    np.testing.assert_allclose(
        train.angles[6:12], train.angles[:6] * [-1, 1, -1], atol=1e-3
    )
    assert test.within_limit().tolist() == [False] + [True] * 11
    # All renderings of a photograph, mirrored or not, are of one group.
    assert train.group[:12].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert len(set(train.group)) == 8
    assert train.without_landmarks == 0


def test_the_landmarks_surroundings_are_cut_out(tmp_path):
    array = np.zeros((64, 64, 3), np.uint8)
    array[20:44, 24:40] = 255
    Image.fromarray(array).save(tmp_path / "a.png")
    whole = load_images([CroppedFile(str(tmp_path / "a.png"), None)], size=8)
    part = load_images([CroppedFile(str(tmp_path / "a.png"), (24, 20, 40, 44))], size=8)
    assert whole.min() == 0
    assert part.min() == 255
    # The square reaches the image's edge and no further.
    assert load_images(
        [CroppedFile(str(tmp_path / "a.png"), (-9, -9, 90, 90))], size=8
    ).shape == (
        1,
        8,
        8,
        3,
    )
    with pytest.raises(
        ValueError, match=r"a\.png: the landmarks lie outside the image"
    ):
        load_images([CroppedFile(str(tmp_path / "a.png"), (70, 70, 90, 90))], size=8)


def test_boxes_have_a_margin_and_ignore_points_that_are_not_seen(tmp_path):
    pose_files.write_folders(tmp_path, photographs=1, renderings=1, tests=1)
    train, test = read_300w_lp(str(tmp_path)), read_aflw2000(str(tmp_path))
    assert train.images[0].box == (-14, -14, 74, 80)
    assert test.images[0].box == train.images[0].box
    pose_files.write_mat(tmp_path / "AFLW2000" / "image00002.mat", 1, 2, 3, points="")
    test = read_aflw2000(str(tmp_path))
    assert test.images[0].box is None
    assert test.without_landmarks == 1


def test_npz_files_are_read(tmp_path):
    path = pose_files.write_npz(tmp_path)
    train, test = read_300w_lp(path), read_aflw2000(path)
    assert train.images.shape == (8 * 24, 64, 64, 3)
    np.testing.assert_allclose(train.angles[:24], pose_files.angles(24, 0))
    np.testing.assert_array_equal(
        train.images[0], pose_files.head_image(train.angles[0, 0], seed=0)
    )
    assert len(test) == 12
    # Neighbours in the file, and their mirror images, stay together.
    assert train.group[0] == train.group[15] == train.group[24] != train.group[16]


def test_official_counts_are_the_published_ones():
    assert OFFICIAL == {"train": 122_450, "test": 2_000, "test within limit": 1_969}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no such thing", "image00002.mat cannot be read as a .mat file"),
        ({"Pose": np.zeros((1, 7))}, "image00002.mat has no Pose_Para"),
        ({"Pose_Para": np.zeros((1, 2))}, "must start with three finite angles"),
        (
            {"Pose_Para": np.array([[np.nan, 0, 0]])},
            "must start with three finite angles",
        ),
        ({"Pose_Para": np.array([[10.0, 45, 0]])}, "must be in radians"),
        (
            {"Pose_Para": np.zeros((1, 7)), "pt2d": np.zeros((4, 68))},
            r"pt2d must be \[2 or 3, points\]",
        ),
    ],
)
def test_damaged_labels_are_refused(tmp_path, content, words):
    from scipy.io import savemat

    pose_files.write_folders(tmp_path, photographs=1, renderings=1, tests=1)
    file = tmp_path / "AFLW2000" / "image00002.mat"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        savemat(file, content)

    with pytest.raises(ValueError, match=words):
        read_aflw2000(str(tmp_path))


@pytest.mark.parametrize(
    ("gone", "words"), [("mat", r"jpg but no .*mat"), ("jpg", r"mat but no .*jpg")]
)
def test_an_image_without_label_or_a_label_without_image_is_named(
    tmp_path, gone, words
):
    pose_files.write_folders(tmp_path, photographs=1, renderings=1, tests=2)
    (tmp_path / "AFLW2000" / f"image00003.{gone}").unlink()
    with pytest.raises(FileNotFoundError, match=words):
        read_aflw2000(str(tmp_path))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((2, 8, 8, 3), np.uint8)}, "lacks the array pose"),
        (
            {"image": np.zeros((2, 8, 8, 3)), "pose": np.zeros((2, 3))},
            "expected image uint8",
        ),
        (
            {"image": np.zeros((2, 8, 8, 3), np.uint8), "pose": np.zeros((1, 3))},
            "expected image uint8",
        ),
        (
            {
                "image": np.zeros((2, 8, 8, 3), np.uint8),
                "pose": np.array([[0, 0, 0], [0, np.inf, 0]]),
            },
            "row 1: yaw, pitch and roll must be degrees",
        ),
        (
            {"image": np.array([None]), "pose": np.zeros((1, 3))},
            "cannot be read as .npz",
        ),
    ],
)
def test_damaged_npz_files_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "AFLW2000.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        read_aflw2000(str(tmp_path))


def test_a_folder_without_the_sets_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="none of the sets AFW, HELEN, IBUG, LFPW"
    ):
        read_300w_lp(str(tmp_path))

    with pytest.raises(
        FileNotFoundError,
        match=r"neither a folder AFLW2000 of \.jpg and \.mat nor AFLW2000\.npz",
    ):
        read_aflw2000(str(tmp_path))

    (tmp_path / "AFLW2000.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"cannot be read as \.npz"):
        read_aflw2000(str(tmp_path))

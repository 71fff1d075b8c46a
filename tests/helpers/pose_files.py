"""Small head pose sets in the published layouts: .jpg and .mat, and FSA-Net's .npz."""

import numpy as np
from PIL import Image

SETS = ("AFW", "HELEN", "IBUG", "LFPW")


def head_image(yaw, *, size=64, seed=0):
    """A bright bar whose place says the yaw, RGB."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 60, (size, size, 3))
    place = int((yaw + 100) / 200 * (size - 8))
    array[:, place : place + 8] += np.array([180, 120, 60])
    return array.astype(np.uint8)


def write_mat(path, yaw, pitch, roll, *, points="pt2d", box=(10, 12, 50, 54)):
    """What 300W-LP's and AFLW2000's label files hold of use here, angles in degrees."""
    from scipy.io import savemat

    pose = np.deg2rad([[pitch, yaw, roll]])
    content = {
        "Pose_Para": np.concatenate([pose, [[1.0, 2.0, 3.0, 4e-4]]], axis=1).astype(
            np.float32
        )
    }
    if points:
        corners = np.array(
            [[box[0], box[2], box[0], box[2]], [box[1], box[1], box[3], box[3]]], float
        )
        if points == "pt3d_68":
            content["pt2d"] = np.full((2, 21), -1.0)
            corners = np.concatenate([corners, np.zeros((1, 4))])
        content[points] = corners
    savemat(path, content)


def angles(count, seed):
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            rng.uniform(-80, 80, count),
            rng.uniform(-20, 20, count),
            rng.uniform(-9, 9, count),
        ],
        1,
    )


def write_folders(root, *, photographs=8, renderings=3, tests=12):
    """Writes 300W_LP/<set>[_Flip]/<set>_<photograph>_<view>.jpg and AFLW2000/*.jpg."""
    for number, name in enumerate(SETS):
        for flip in ("", "_Flip"):
            folder = root / "300W_LP" / (name + flip)
            folder.mkdir(parents=True)
            values = angles(photographs * renderings, number)
            for index, (yaw, pitch, roll) in enumerate(values):
                sign = -1 if flip else 1
                stem = folder / f"{name}_{index // renderings:04d}_{index % renderings}"
                Image.fromarray(head_image(sign * yaw, seed=index)).save(f"{stem}.jpg")
                write_mat(f"{stem}.mat", sign * yaw, pitch, sign * roll)
    folder = root / "AFLW2000"
    folder.mkdir()
    for index, (yaw, pitch, roll) in enumerate(angles(tests, 77)):
        stem = folder / f"image{index + 2:05d}"
        # The first is beyond the limit.
        pitch = 120.0 if index == 0 else pitch
        Image.fromarray(head_image(yaw, seed=index)).save(f"{stem}.jpg")
        write_mat(f"{stem}.mat", yaw, pitch, roll, points="pt3d_68")
    return str(root)


def write_npz(root, *, count=24, tests=12):
    """Writes FSA-Net's type1/<set>[_Flip].npz and AFLW2000.npz.

    Channels are blue, green, red. Angles are yaw, pitch, roll in degrees.
    """
    (root / "type1").mkdir(parents=True)
    files = [(name + flip, count) for name in SETS for flip in ("", "_Flip")] + [
        ("AFLW2000", tests)
    ]
    for number, (name, size) in enumerate(files):
        pose = angles(size, number)
        image = np.stack(
            [head_image(yaw, seed=i)[..., ::-1] for i, (yaw, _, _) in enumerate(pose)]
        )
        np.savez(root / "type1" / f"{name}.npz", image=image, pose=pose, img_size=64)
    return str(root)

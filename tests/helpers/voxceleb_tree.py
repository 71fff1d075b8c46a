"""Trees in VoxCeleb's layouts, made from tracks of images.

As a program: python tests/helpers/voxceleb_tree.py TRACKS OUT [PEOPLE], where TRACKS is
<person>/<track>/*.jpg, writes OUT/voxceleb1/<identity>/1.6/<youtube id>/<track>/*.jpg
and OUT/voxceleb2/<identity>/<youtube id>/*.mp4, videos of 224x224 at 25 frames a second
that show each image for a fifth of a second.
"""

import hashlib
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

HOLD = 5  # frames of a video for which a image is shown: 25 / 5 = 5 images a second


def youtube_id(text):
    """Eleven characters that stand for a video."""
    return hashlib.sha256(text.encode()).hexdigest()[:11]


def make_voxceleb1(out, tracks):
    """Writes tracks {(person, track): [image files]} as VoxCeleb1's dense frames."""
    for (person, track), files in tracks.items():
        folder = (
            pathlib.Path(out) / person / "1.6" / youtube_id(f"{person}/{track}") / "1"
        )
        folder.mkdir(parents=True)
        for number, file in enumerate(files):
            shutil.copyfile(file, folder / f"{number:07}{pathlib.Path(file).suffix}")


def make_voxceleb2(out, tracks, *, side=224):
    """Writes tracks {(person, track): [image files]} as VoxCeleb2's videos."""
    from facecycle_jax.data.images.video import write_video

    for (person, track), files in tracks.items():
        path = (
            pathlib.Path(out) / person / youtube_id(f"{person}/{track}") / "00001.mp4"
        )
        images = [
            np.asarray(Image.open(f).convert("RGB").resize((side, side))) for f in files
        ]
        write_video(path, (image for image in images for _ in range(HOLD)), fps=25)


def main(source, out, people="20"):
    from facecycle_jax.data import scan_folder

    found = scan_folder(source, min_frames=4)
    wanted = sorted(set(found.identities))[: int(people)]
    numbers = {person: f"id{10001 + place}" for place, person in enumerate(wanted)}
    tracks = {
        (numbers[person], name): list(frames)
        for person, name, frames in zip(
            found.identities, found.names, found.frames, strict=True
        )
        if person in numbers
    }
    make_voxceleb1(pathlib.Path(out) / "voxceleb1", tracks)
    make_voxceleb2(pathlib.Path(out) / "voxceleb2", tracks)
    print(f"{len(tracks)} tracks of {len(wanted)} people in {out}")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    main(*sys.argv[1:])

"""A small LFW, view 1 or 2, in the published layout."""

import numpy as np
from PIL import Image


def lfw(tmp_path, *, name="pairs.txt", header="2\t4", seed=0):
    """Two folds of four pairs of each kind; a person is a colour."""
    rng = np.random.default_rng(seed)
    people = [f"P{n}" for n in range(8)]
    for number, person in enumerate(people):
        (tmp_path / "lfw" / person).mkdir(parents=True, exist_ok=True)
        colour = np.random.default_rng(number).integers(0, 256, (4, 4, 3))
        for image in (1, 2):
            noisy = np.kron(colour, np.ones((16, 16, 1))) + rng.normal(
                0, 20, (64, 64, 3)
            )
            file = tmp_path / "lfw" / person / f"{person}_{image:04d}.jpg"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file)
    lines = []
    for fold in range(2 if "\t" in header else 1):
        own = people[4 * fold : 4 * fold + 4]
        lines += [f"{p}\t1\t2" for p in own]
        lines += [
            f"{p}\t1\t{q}\t2" for p, q in zip(own, own[1:] + own[:1], strict=True)
        ]
    (tmp_path / name).write_text("\n".join([header, *lines]) + "\n")
    return str(tmp_path)

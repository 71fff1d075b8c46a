"""Damages the files of a checkpoint in the ways that storage does."""


def damage(workdir, step, kind):
    folder = workdir / "checkpoints" / str(step)
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
    assert files
    if kind == "manifest":
        (folder / "state" / "manifest.ocdbt").unlink()
    for path in files:
        content = path.read_bytes()
        if kind == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif kind == "missing":
            path.unlink()
        elif kind == "flipped":
            path.write_bytes(
                bytes(b ^ (i == len(content) // 2) for i, b in enumerate(content))
            )

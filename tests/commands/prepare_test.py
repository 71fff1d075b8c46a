"""`facecycle prepare` and `verify`: from a raw tree to batches by one command each."""

import itertools
import os
import sys
import unittest.mock

import fake_bucket
import numpy as np
import pytest
from PIL import Image
from voxceleb_tree import make_voxceleb1

from facecycle_jax import cli
from facecycle_jax.commands import prepare
from facecycle_jax.data import make_loader
from facecycle_jax.data.prepare import workers as prepare_work
from facecycle_jax.data.prepare.lock import locked
from facecycle_jax.data.sources.record_index import LEFT_OUT, read_index
from facecycle_jax.data.sources.records import find_set
from facecycle_jax.data.sources.tracks import make_tracks, split_people

pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def raw(tmp_path):
    """VoxCeleb1's layout.

    Five people, two tracks each, of four images in one colour a person.
    """
    tracks = {}
    for person in range(5):
        for track in range(2):
            files = [tmp_path / f"{person}-{track}-{frame}.png" for frame in range(4)]
            for frame, file in enumerate(files):
                Image.new("RGB", (16, 16), (person * 40, track * 40, frame * 40)).save(
                    file
                )
            tracks[f"id1000{person}", str(track)] = files
    make_voxceleb1(tmp_path / "raw", tracks)
    return tmp_path / "raw"


def run(name, *arguments):
    workers = ("--workers", "1") if "workers" in prepare.SETS[name].options else ()
    return cli.main(["prepare", name, *map(str, arguments), *workers])


def options(path, **data):
    base = {
        "source": "records",
        "path": str(path),
        "backend": "threads",
        "memory_gb": 1.0,
        "min_frames": 4,
        "identity_depth": 1,
        "max_tracks": 0,
        "decode_size": 16,
        "eval_fraction": 0.4,
    }
    return {"method": "motion_cycle", "batch_size": 4, "seed": 0, "data": base | data}


def test_prepared_images_come_back_in_batches(raw, tmp_path, capsys):
    assert (
        run(
            "voxceleb1",
            "--data",
            raw,
            "--out",
            tmp_path / "out",
            "--eval-fraction",
            0.4,
        )
        == 0
    )
    assert "10 tracks of 5 people, 40 frames" in capsys.readouterr().out
    assert find_set(str(tmp_path / "out")).parts[-3:] == (
        "facecycle_voxceleb1",
        "eval0.4",
        "1.0.0",
    )
    for split in ("train", "eval"):
        made, tree = (
            make_loader(options(path, source=source), split=split)
            for path, source in ((tmp_path / "out", "records"), (raw, "folder"))
        )
        assert made.tracks.identities == tree.tracks.identities
        for one, two in zip(
            itertools.islice(made.batches(7), 3), tree.batches(7), strict=False
        ):
            np.testing.assert_array_equal(one["frames"], two["frames"])
    # The splits of TFDS are those of the loader.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(find_set(str(tmp_path / "out"))))
    held = {
        example["identity"].decode()
        for example in tfds.as_numpy(builder.as_dataset(split="eval"))
    }
    assert held == set(
        make_loader(options(tmp_path / "out"), split="eval").tracks.identities
    )
    # The same command again finds it complete; its checksums hold.
    assert (
        run(
            "voxceleb1",
            "--data",
            raw,
            "--out",
            tmp_path / "out",
            "--eval-fraction",
            0.4,
        )
        == 2
    )
    assert "is complete" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "out")]) == 0
    shard = next(find_set(str(tmp_path / "out")).glob("*tfrecord*"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert cli.main(["verify", str(tmp_path / "out")]) == 2
    assert "has changed" in capsys.readouterr().out


def stopping_after(count):
    """A `prepare_track` that is interrupted after so many tracks."""
    done = []
    prepare_track = prepare_work.prepare_track

    def stopping(source, given):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(source)
        return prepare_track(source, given)

    return stopping


def test_left_out_files_are_listed_and_a_stopped_run_goes_on(raw, tmp_path, capsys):
    broken = next(raw.rglob("0000001.png"))
    broken.write_bytes(b"no image")
    arguments = (
        "tracks",
        "--data",
        raw,
        "--out",
        tmp_path / "out",
        "--size",
        12,
        "--eval-fraction",
        0,
    )
    with unittest.mock.patch.object(prepare_work, "prepare_track", stopping_after(6)):
        assert run(*arguments) == 130
    with pytest.raises(FileNotFoundError, match="holds no prepared set"):
        find_set(str(tmp_path / "out"))
    with unittest.mock.patch.object(
        prepare_work, "prepare_track", wraps=prepare_work.prepare_track
    ) as called:
        assert run(*arguments) == 1
    assert called.call_count == 4
    folder = find_set(str(tmp_path / "out"))
    content, frames = read_index(folder)
    assert content["counts"]["left_out"] == 1
    assert len(frames) == 39
    assert str(broken) in (folder / LEFT_OUT).read_text()
    assert "lines about what was left out" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["facecycle_tracks"]


def test_an_index_that_was_not_finished_is_made_alone(raw, tmp_path):
    arguments = (
        "voxceleb1",
        "--data",
        raw,
        "--out",
        tmp_path / "out",
        "--eval-fraction",
        0,
    )
    assert run(*arguments) == 0
    folder = find_set(str(tmp_path / "out"))
    before = (folder / "tracks.json").read_bytes()
    (folder / "tracks.json").unlink()
    with unittest.mock.patch.object(prepare_work, "prepare_track") as called:
        assert run(*arguments) == 0
    assert not called.called
    assert (folder / "tracks.json").read_bytes() == before


def test_frames_npy_that_is_missing_is_made_again(raw, tmp_path):
    next(raw.rglob("0000001.png")).write_bytes(b"no image")
    arguments = ("voxceleb1", "--data", raw, "--out", tmp_path / "out")
    assert run(*arguments) == 1
    folder = find_set(str(tmp_path / "out"))
    names = ("frames.npy", "tracks.json", LEFT_OUT)
    before = [(folder / name).read_bytes() for name in names]
    (folder / "frames.npy").unlink()
    with unittest.mock.patch.object(prepare_work, "prepare_track") as called:
        assert run(*arguments) == 1
    assert not called.called
    # The lines about what was left out are kept, too.
    assert [(folder / name).read_bytes() for name in names] == before


def test_finished_configurations_leave_others_alone(raw, tmp_path):
    """One is stopped, another is finished, then the first continues."""
    arguments = ("tracks", "--data", raw, "--out", tmp_path / "out", "--size")
    with unittest.mock.patch.object(prepare_work, "prepare_track", stopping_after(6)):
        assert run(*arguments, 12) == 130
    unfinished = [
        tmp_path / "out/facecycle_tracks" / name / "incomplete.ABCDEF_1.0.0"
        for name in ("size12", "size8")
    ]
    for folder in unfinished:
        folder.mkdir(parents=True)

    assert run(*arguments, 8) == 0
    assert [folder.exists() for folder in unfinished] == [True, False]
    with unittest.mock.patch.object(
        prepare_work, "prepare_track", wraps=prepare_work.prepare_track
    ) as called:
        assert run(*arguments, 12) == 0
    assert called.call_count == 4
    assert not unfinished[0].exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["facecycle_tracks"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("tracks", "facecycle_tracks/size8"), ("fer2013", "facecycle_fer2013")],
)
def test_a_second_run_into_one_configuration_is_refused(
    raw, tmp_path, capsys, name, folder
):
    size = ("--size", 8) if name == "tracks" else ()
    arguments = (name, "--data", raw, "--out", tmp_path / "out")
    with locked(tmp_path / "out" / folder):
        assert run(*arguments, *size) == 2
        assert "is being prepared by another run (process" in capsys.readouterr().err

        # Other configurations are free.
        if size:
            assert run(*arguments, "--size", 12) == 0


def test_an_image_of_a_labelled_set_that_cannot_be_read_is_named(tmp_path, capsys):
    classes = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    for name in classes:
        (tmp_path / "raw/Training" / name).mkdir(parents=True)
        Image.new("L", (48, 48)).save(tmp_path / "raw/Training" / name / "0.jpg")
    file = tmp_path / "raw/Training/fear/1.jpg"
    arguments = ("fer2013", "--data", tmp_path / "raw", "--out", tmp_path / "out")
    file.write_text("no image")
    assert run(*arguments) == 2
    message = f"facecycle: {file} cannot be read as an image"
    assert message in capsys.readouterr().err
    Image.new("L", (48, 48)).save(file, "WEBP")
    assert run(*arguments) == 2
    assert f"{file} is an image of the format WEBP" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.tfrecord*"))
    Image.new("L", (48, 48)).save(file)
    assert run(*arguments) == 0
    assert "8 in Training" in capsys.readouterr().out


def test_tracks_below_min_frames_are_listed_and_single_images_kept(tmp_path):
    raw = tmp_path / "raw"
    for name in ("ann/0.png", "ann/1.png", "bob/0.png", "cy.png"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(raw / name)
    arguments = ("tracks", "--data", raw, "--min-frames", 2, "--eval-fraction", 0)
    assert run(*arguments, "--out", tmp_path / "out") == 1
    folder = find_set(str(tmp_path / "out"))
    content, _ = read_index(folder)
    assert content["track"] == ["ann", "cy.png"]
    assert (folder / LEFT_OUT).read_text() == (
        f"{raw / 'bob'}: the track has fewer frames that can be read (1) than "
        "--min-frames (2).\n"
    )


def test_names_of_folders_tell_numbers_apart(tmp_path):
    for seed in ("1234567", "1234568"):
        arguments = ["--seed", seed, "--eval-fraction", "0.5", "--out", str(tmp_path)]
        parsed = cli._parser().parse_args(["prepare", "synthetic", *arguments])
        assert (
            prepare._builder(parsed, str(tmp_path)).builder_config.name
            == f"eval0.5-seed{seed}"
        )

    # Names of usual numbers are short.
    numbers = (0.5, 3.0, 25, 0.02, 0.1234567, 0.1234568)
    words = ["0.5", "3", "25", "0.02", "0.1234567", "0.1234568"]
    assert [prepare._number(number) for number in numbers] == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fer2013", "--size", 48), "--size does not apply to fer2013"),
        (("cplfw", "--crop"), "--crop does not apply to cplfw"),
        (("raf-db", "--workers", 2), "--workers does not apply to raf-db"),
        (("aflw2000", "--beam=--runner=DirectRunner"), "--beam does not apply to"),
        (("synthetic", "--cut=0,0,1"), "it has --size, --eval-fraction, --identities"),
        (("synthetic", "--data", "{raw}"), "--data does not apply to synthetic"),
        (("tracks", "--data", "{raw}", "--fps", 5), "--fps does not apply to tracks"),
        (("voxceleb1", "--identity-depth", 2), "--identity-depth does not apply to"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    raw, tmp_path, capsys, arguments, words
):
    filled = [str(part).format(raw=raw) for part in arguments]
    assert cli.main(["prepare", *filled, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1"])
def test_counts_are_checked_before_tensorflow_is_imported(
    tmp_path, capsys, monkeypatch, value
):
    monkeypatch.setattr(prepare, "_builder", lambda *arguments: 1 / 0)
    for option in ("--identities", "--frames-per-track"):
        assert run("synthetic", "--out", tmp_path / "out", f"{option}={value}") == 2
        error = capsys.readouterr().err
        assert error == f"facecycle: {option} must be at least 1, got {value}.\n"


def test_prepared_synthetic_faces_are_those_of_the_source(tmp_path):
    sizes = ("--identities", 6, "--frames-per-track", 3, "--size", 16)
    assert run("synthetic", "--out", tmp_path / "out", *sizes) == 0
    made = make_loader(
        options(tmp_path / "out", min_frames=3, eval_fraction=0), split="train"
    )
    synthetic = options(
        "",
        source="synthetic",
        backend="memory",
        identities=6,
        frames_per_track=3,
        eval_fraction=0,
    )
    drawn = make_loader(synthetic, split="train")
    for one, two in zip(
        itertools.islice(made.batches(0), 3), drawn.batches(0), strict=False
    ):
        np.testing.assert_array_equal(one["frames"], two["frames"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("voxceleb1",), "--data is missing: name the folder of the raw data"),
        (("tracks", "--data", "{empty}"), "is empty; docs/records.md has"),
        (("voxceleb1", "--data", "{raw}/none"), "there is no folder"),
        (("voxceleb2", "--data", "{raw}"), "holds no videos <identity>/<video>/*.mp4"),
        (
            ("voxceleb1", "--data", "{raw}/id10000"),
            "must hold <identity>/1.6/<youtube id>/<track>/*.jpg",
        ),
        (("voxceleb2", "--data", "{raw}", "--fps", "0"), "fps must be above 0"),
        (
            ("tracks", "--data", "{raw}", "--eval-fraction", "0.9"),
            "too few to hold out the share --eval-fraction 0.9",
        ),
        (
            ("tracks", "--data", "{raw}", "--eval-fraction", "1"),
            "--eval-fraction must be from 0 to below 1, got 1.0",
        ),
        (
            ("tracks", "--data", "{raw}", "--identity-depth", "0"),
            "--identity-depth must",
        ),
        (
            ("tracks", "--data", "{raw}", "--min-frames", "-1"),
            "--min-frames must be at",
        ),
        (("synthetic", "--identities", "0"), "--identities must be at least 1"),
        (
            ("tracks", "--data", "{raw}", "--max-frames", "2", "--min-frames", "3"),
            "--max-frames 2 leaves fewer frames of a track than --min-frames 3",
        ),
        (("fer2013", "--data", "{raw}"), "holds neither fer2013.csv nor a folder"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_leave_nothing(
    raw, tmp_path, capsys, arguments, words
):
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [part.format(raw=raw, empty=empty) for part in arguments]
    assert run(*filled, "--out", tmp_path / "out") == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.tfrecord*"))


@pytest.mark.parametrize("name", ["synthetic", "fer2013"])
def test_records_in_a_bucket_are_refused_before_any_work(
    raw, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    data = () if name == "synthetic" else ("--data", raw)
    with fake_bucket.bucket(tmp_path / "cloud"):
        assert run(name, *data, "--out", "gs://bucket/out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Records cannot be prepared in gs://bucket/out" in error
    assert "in a local --out, then copy that folder there." in error
    assert not (tmp_path / "gs:").exists()
    assert not list((tmp_path / "cloud").rglob("*.tfrecord*"))


def test_beam_that_is_not_installed_is_named(raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    assert (
        run(
            "tracks",
            "--data",
            raw,
            "--out",
            tmp_path / "out",
            "--beam=--runner=DirectRunner",
        )
        == 2
    )
    assert "facecycle_jax[beam]" in capsys.readouterr().err


def test_a_split_without_tracks_is_left_out_and_reported(tmp_path, capsys):
    """The held-out people have one image each, the others three."""
    raw = tmp_path / "raw"
    people = [f"p{number}" for number in range(8)]
    tracks = make_tracks(
        [(person, person, ["x"]) for person in people], origin="the test"
    )
    held = set(split_people(tracks, eval_fraction=0.25)[1].identities)
    for person in people:
        (raw / person).mkdir(parents=True)
        for frame in range(1 if person in held else 3):
            Image.new("RGB", (16, 16)).save(raw / person / f"{frame}.png")
    arguments = ("tracks", "--data", raw, "--min-frames", 2, "--eval-fraction", 0.25)
    assert run(*arguments, "--out", tmp_path / "out") == 1
    output = capsys.readouterr().out
    assert "6 tracks of 6 people, 18 frames" in output
    assert "There is no split eval" in output
    loader = make_loader(options(tmp_path / "out", min_frames=2), split="train")
    assert len(loader.tracks) == 4

    # Of nothing at all there is no set.
    assert run(*arguments[:-4], "--min-frames", 9, "--out", tmp_path / "none") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "no track of the train or the eval split has 9 or more frames that can be read"
        in error
    )
    assert not list((tmp_path / "none").rglob("*.tfrecord*"))


def test_names_that_are_not_utf8_are_prepared(tmp_path):
    raw = tmp_path / "raw"
    names = [os.fsdecode(b"Ren\xe9"), "Zo\u00eb", "ann", "bob", "cy"]
    for number, name in enumerate(names):
        os.makedirs(raw / name)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(raw / name / "0.png")
    # One of each is left out, with its name.
    (raw / names[0] / "1.png").write_bytes(b"no image")
    assert run("tracks", "--data", raw, "--out", tmp_path / "out") == 1
    made, tree = (
        make_loader(options(path, source=source, min_frames=1), split="train").tracks
        for path, source in ((tmp_path / "out", "records"), (raw, "folder"))
    )
    assert made.identities == tree.identities
    assert cli.main(["verify", str(tmp_path / "out")]) == 0


def test_a_fixed_cut_is_part_of_the_set_s_name(raw, tmp_path):
    cut = ("--out", tmp_path / "out", "--cut", "0.25,0.25,0.5")
    assert run("voxceleb1", "--data", raw, *cut) == 0
    folder = find_set(str(tmp_path / "out"))
    assert folder.parent.name == "cut0.25_0.25_0.5"
    made = make_loader(options(tmp_path / "out"), split="train")
    assert next(iter(made.batches(0)))["frames"].shape[-3:] == (16, 16, 3)
    minus = ("--out", tmp_path / "minus", "--cut", "-0.1,-.1,1.2")
    assert run("voxceleb1", "--data", raw, *minus) == 0
    assert find_set(str(tmp_path / "minus")).parent.name == "cut-0.1_-0.1_1.2"
    wrong = ("--out", tmp_path / "other", "--cut", "1,2")
    assert run("voxceleb1", "--data", raw, *wrong) == 2

"""Frames by number, as Grain and PyTorch read them."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from facecycle_jax.data import FrameSource, Tracks, open_records, scan_folder
from facecycle_jax.errors import UserError

# Colours of the frames of each track.
TRACKS = {"ann/1": [10, 20], "ann/2": [30], "bob/1": [40, 50, 60]}
SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for name, colours in TRACKS.items():
        (root / name).mkdir(parents=True)
        for number, colour in enumerate(colours):
            image = Image.fromarray(np.full((SIZE, SIZE, 3), colour, np.uint8))
            image.save(root / name / f"{number}.png")
    return FrameSource(scan_folder(str(root)), size=SIZE)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    pytest.importorskip("tensorflow", reason="writes records")
    import record_files

    root = tmp_path_factory.mktemp("records") / "set"
    encoded = {}
    for name, colours in TRACKS.items():
        person = name.split("/")[0]
        encoded[person, name] = [record_files.png(colour) for colour in colours]
    record_files.write_set(pathlib.Path(root), encoded)
    tracks, reader = open_records(str(root))
    return FrameSource(tracks, records=reader, size=SIZE)


@pytest.fixture(params=["folder", "records"])
def source(request):
    return request.getfixturevalue(request.param)


def colours(batches):
    return np.concatenate([np.asarray(batch)[:, 0, 0, 0] for batch in batches])


def test_every_frame_has_its_number_track_and_person(source):
    frames = [source[number] for number in range(len(source))]
    assert [frame["image"][0, 0, 0] for frame in frames] == [10, 20, 30, 40, 50, 60]
    assert frames[0]["image"].shape == (SIZE, SIZE, 3)
    assert [frame["track"] for frame in frames] == [0, 0, 1, 2, 2, 2]
    assert [frame["person"] for frame in frames] == [0, 0, 0, 1, 1, 1]

    # Iteration ends, as it does for a list.
    assert len(list(source)) == 6
    with pytest.raises(IndexError, match="no frame -1 of 6"):
        source[-1]


class FromFront(list):
    """A list of frames that counts from its front only."""

    def __getitem__(self, place):
        assert place >= 0
        return super().__getitem__(place)


def test_frames_of_a_track_are_counted_from_its_front(folder):
    found = folder._tracks
    tracks = Tracks(
        frames=[FromFront(frames) for frames in found.frames],
        identities=found.identities,
        names=found.names,
        origin=found.origin,
    )
    frames = [FrameSource(tracks, size=SIZE)[number] for number in range(6)]
    assert [frame["image"][0, 0, 0] for frame in frames] == [10, 20, 30, 40, 50, 60]


def test_a_pickled_source_reads_the_same(source):
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source)
    np.testing.assert_array_equal(copy[4]["image"], source[4]["image"])


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "0.png").write_bytes(b"no image")
    source = FrameSource(scan_folder(str(tmp_path)), size=SIZE)
    with pytest.raises(UserError, match=r"ann/0\.png cannot be read"):
        source[0]


def test_grain_reads_batches(source):
    grain = pytest.importorskip("grain", reason="Grain is not a dependency")
    dataset = grain.MapDataset.source(source).shuffle(seed=0).batch(3)
    batches = [dataset[number]["image"] for number in range(len(dataset))]
    assert sorted(colours(batches)) == [10, 20, 30, 40, 50, 60]


def test_pytorch_reads_batches_in_worker_processes(source):
    data = pytest.importorskip("torch.utils.data", reason="PyTorch is not a dependency")
    loader = data.DataLoader(
        source, batch_size=3, num_workers=1, multiprocessing_context="spawn"
    )
    batches = [batch["image"] for batch in loader]
    assert list(colours(batches)) == [10, 20, 30, 40, 50, 60]

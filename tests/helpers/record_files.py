"""Prepared sets as TFDS writes them, made without its machinery."""

import io

import numpy as np
from PIL import Image

from facecycle_jax.data.sources.record_index import write_index


def png(colour, side=8):
    """A image of one colour, encoded."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), colour, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, tracks):
    """Writes {(identity, name): [encoded frames]} as one TFRecord file."""
    import tensorflow as tf

    def strings(*values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for (identity, name), frames in tracks.items():
            feature = {
                "identity": strings(identity.encode()),
                "track": strings(name.encode()),
                "frames": strings(*frames),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def write_set(folder, tracks, *, shards=2):
    """Writes a prepared set, its tracks dealt to shards out of order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"set-train.tfrecord-{n:05}-of-{shards:05}" for n in range(shards)]
    items = sorted(tracks.items(), reverse=True)
    for number, name in enumerate(names):
        write_shard(folder / name, dict(items[number::shards]))
    return write_index(folder, names)

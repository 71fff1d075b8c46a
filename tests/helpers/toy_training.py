"""A method of a few numbers and a source of noise, on the real training loop.

A run takes milliseconds instead of seconds.

As a program: python tests/helpers/toy_training.py WORKDIR [field=value ...], with these
environment variables: TOY_NAN=3,4 makes the batches of those steps (from 1) not finite,
TOY_KILL=N dies of SIGKILL while step N is drawn, TOY_TERM=N sends itself SIGTERM there,
TOY_BLOCK=tensorflow makes that import fail. TOY_WHO=1 has that process alone do so;
TOY_PAUSE=0.3 lets every step take so many seconds; TOY_DEVICES=4 gives the process so
many devices; TOY_FAIL=N has it fail in step N; TOY_FLAGS holds more flags of the
program; TOY_FIELD=field=value sets a field in that process alone; TOY_DATA=1 reads the
data that the fields name; TOY_SLICES=1 has each process stand for a slice.
"""

import ast
import functools
import os
import signal
import sys
import time
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

SIZE = 8


def toy_method(*, noise: float = 0.1):
    from facecycle_jax.methods import Aux, Method
    from facecycle_jax.methods.base import Views

    def init(key):
        keys = jax.random.split(key, 3)
        params = {
            "motion_encoder": {
                "kernel": jax.random.normal(keys[0], (SIZE * SIZE * 3, 128)) * 0.01
            },
            "flow_decoder": {"kernel": jax.random.normal(keys[1], (128, 128)) * 0.1},
            "generator": {
                "kernel": jax.random.normal(keys[2], (128, SIZE * SIZE * 3)) * 0.1
            },
        }
        return params, {"vgg": {"bias": jnp.ones((4,))}}

    def loss(params, frozen, images, key):
        x = images.reshape(-1, SIZE, SIZE, 3)
        flat = x.reshape(len(x), -1)
        hidden = jnp.tanh(flat @ params["motion_encoder"]["kernel"])
        hidden = hidden @ params["flow_decoder"]["kernel"] * frozen["vgg"]["bias"][0]
        if key is not None:
            hidden = hidden + noise * jax.random.normal(key, hidden.shape)
        y = hidden @ params["generator"]["kernel"]
        error = jnp.mean((y - flat) ** 2)
        return 2 * error, Aux(
            {"l2": error, "total": 2 * error},
            {
                "input": x,
                "neutral": y.reshape(x.shape),
                "flow": x[..., :2],
                "code": hidden,
            },
        )

    views = Views(
        augment=lambda key, batch: augment_pairs(key, batch, size=SIZE),
        deterministic=lambda batch: plain_pairs(batch, size=SIZE),
    )
    return Method(init, loss, views=views)


class ToyLoader:
    num_tracks = 64
    unreadable = {}  # noqa: RUF012

    def __init__(self, batch_size, seed):
        self._batch_size, self._seed = batch_size, seed

    def fingerprint(self):
        return {}

    def on_devices(self, mesh):
        return None

    def batches(self, start):
        def asked(name):
            return [int(n) for n in os.environ.get(name, "").split(",") if n]

        step = start
        while True:
            rng = np.random.default_rng((self._seed, step))
            shape = (self._batch_size, 2, SIZE, SIZE, 3)
            frames = rng.integers(0, 255, shape, dtype=np.uint8)
            step += 1
            part = self._batch_size // jax.process_count()
            begin = part * jax.process_index()
            if self._seed == 0:
                time.sleep(float(os.environ.get("TOY_PAUSE", "0")))
            if self._seed == 0 and os.environ.get(
                "TOY_WHO", str(jax.process_index())
            ) == str(jax.process_index()):
                if step in asked("TOY_NAN"):
                    frames[:] = 255
                if step in asked("TOY_FAIL"):
                    from facecycle_jax.errors import UserError

                    raise UserError(f"the batch of step {step} cannot be read")
                if step in asked("TOY_KILL"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if step in asked("TOY_TERM"):
                    os.kill(os.getpid(), signal.SIGTERM)
            yield {"frames": frames[begin : begin + part]}


def make_loader(config, *, split):
    return ToyLoader(config["batch_size"], {"train": 0, "eval": 1}[split])


def plain_pairs(batch, *, size):
    del size
    frames = batch["frames"]
    # A batch of nothing but 255 stands for a broken one.
    return jnp.where(jnp.all(frames == 255), jnp.nan, frames / 255.0)


def augment_pairs(key, batch, *, size, **options):
    del options
    images = plain_pairs(batch, size=size)
    return images + 0.01 * jax.random.normal(key, images.shape)


def toy_config(**overrides):
    from facecycle_jax.configs import debug

    config = debug.get_config()
    config.batch_size = 8
    # The report on synthetic faces is for faces.
    config.data.source = "folder"
    config.model.image_size = 64
    config.optimiser.schedule_rates = (1e-3, 2e-3, 1e-3)
    config.optimiser.schedule_epochs = (0, 1, 2)
    for name, value in overrides.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def seams(*, toy_data=True):
    """The toy's method and source of batches, as the loop accepts them."""
    return {
        "method": lambda config: toy_method(),
        "loader": make_loader if toy_data else None,
    }


def train(workdir, *, toy_data=True, **overrides):
    from facecycle_jax.training import loop

    return loop.train_and_evaluate(
        toy_config(**overrides), workdir, **seams(toy_data=toy_data)
    )


class _Without:
    """A finder of modules that does not find some: as if they were not installed."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["TOY_BLOCK"].split(","):
            return None
        return self._finder.find_spec(name, path, target)


if __name__ == "__main__":
    if os.environ.get("TOY_BLOCK"):
        sys.meta_path[:] = [_Without(finder) for finder in sys.meta_path]
    sys.path.insert(0, os.getcwd())
    if os.environ.get("TOY_DEVICES"):
        jax.config.update("jax_num_cpu_devices", int(os.environ["TOY_DEVICES"]))
    from facecycle_jax import main
    from facecycle_jax.devices import mesh

    if os.environ.get("TOY_SLICES"):
        mesh.slice_of = lambda device: device.process_index

    def value(text):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    given = dict(pair.split("=", 1) for pair in sys.argv[2:])
    if os.environ.get("TOY_FIELD") and os.environ.get("TOY_WHO") == os.environ.get(
        "JAX_PROCESS_ID"
    ):
        given |= dict([os.environ["TOY_FIELD"].split("=", 1)])
    # All other flags are the program's own.
    flags.FLAGS(
        [
            sys.argv[0],
            f"--workdir={sys.argv[1]}",
            *os.environ.get("TOY_FLAGS", "").split(),
        ]
    )
    config = toy_config(**{name: value(text) for name, text in given.items()})
    toy_loop = functools.partial(
        main.loop.train_and_evaluate, **seams(toy_data=not os.environ.get("TOY_DATA"))
    )
    with (
        unittest.mock.patch.object(main, "_CONFIG", unittest.mock.Mock(value=config)),
        unittest.mock.patch.object(main.loop, "train_and_evaluate", toy_loop),
    ):
        sys.exit(main.main(sys.argv[:1]))

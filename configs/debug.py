"""The shortest run of the whole program, with tiny networks and few synthetic faces.

Command:
  python -m facecycle_jax.main --config=configs/debug.py --workdir=/tmp/debug
Hardware: anything.
Expect: it ends without an error. Nearly all the time is compilation, and nothing is
  learned.
Stage 2: add --config.method=identity_cycle --config.init_from=/tmp/debug and another
  workdir.
"""

import ml_collections

from facecycle_jax.configs import identity_cycle, motion_cycle


def get_config() -> ml_collections.ConfigDict:
    config = identity_cycle.get_config()
    # One config for both stages: the fields of stage 1 alone join those of stage 2.
    with config.unlocked():
        for name, value in motion_cycle.get_config().loss.items():
            if name not in config.loss:
                config.loss[name] = value

    config.method = "motion_cycle"  # or 'identity_cycle'
    config.model.width = 0.0625  # multiplier on all channels
    config.model.code_dim = 16  # numbers in a code
    config.model.trunk = "learned"  # no VGG-19
    config.loss.perceptual = "none"  # no VGG-19
    config.data.source = "synthetic"  # made when the run starts
    config.data.backend = "memory"  # no tensorflow
    config.data.eval_fraction = 0.25  # of the people
    config.data.identities = 8  # people
    config.data.frames_per_track = 2  # images of each
    config.batch_size = 2  # pairs of images
    config.num_steps = 6  # steps
    config.log_every = 2  # steps
    config.eval_every = 4  # steps
    config.eval_batches = 1  # batches
    config.panel_every = 4  # steps
    config.panel_rows = 2  # faces
    config.checkpoint_every = 2  # steps
    config.keep_last = 2  # checkpoints
    config.max_nonfinite = 3  # updates
    config.tensorboard = False  # metrics.jsonl only
    return config

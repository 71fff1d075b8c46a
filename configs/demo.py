"""Both stages at a small width, on synthetic faces: nothing to download.

Command: make demo, which is
  python -m facecycle_jax.main --config=configs/demo.py --workdir=runs/demo
Hardware: two CPU cores, 7 minutes.
Expect: neutral faces that differ less between two frames of a person (0.044, mean absolute difference in
  parts of 1) than the frames do (0.073); blurred, and far from converged. Panels are in
  runs/demo/motion/panels and runs/demo/identity/panels, the comparison with the truth in truth.png.
What differs from the paper: eighth width, a learned trunk in place of VGG-19, no perceptual loss,
higher learning rates, drawn faces.
"""

import ml_collections

from configs import identity_cycle, motion_cycle


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.stages = ("motion", "identity")  # run in this order, each from the one before
    config.motion = _small(motion_cycle.get_config())
    config.motion.num_steps = 320  # steps
    config.identity = _small(identity_cycle.get_config())
    config.identity.num_steps = 200  # steps
    config.lock()
    return config


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The changes that both stages share."""
    config.model.width = 0.125  # 1
    config.model.trunk = "learned"  # instead of VGG-19, which would have to be downloaded
    config.loss.perceptual = "none"  # without VGG-19 there is none
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (1e-3,)  # learning rate of each piece
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.data.source = "synthetic"  # drawn faces
    config.data.backend = "memory"  # no tensorflow
    config.data.eval_fraction = 0.1  # of the people
    config.data.identities = 128  # people
    config.data.frames_per_track = 16  # pictures of each
    config.batch_size = 8  # pairs of pictures
    config.log_every = 25  # steps
    config.eval_every = 100  # steps
    config.eval_batches = 2  # batches
    config.panel_every = 100  # steps
    config.panel_rows = 6  # faces
    config.checkpoint_every = 100  # steps
    config.keep_last = 2  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

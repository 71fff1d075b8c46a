"""The model that comes with the package, `facecycle-small`: both stages on video frames, on two CPU cores.

Command:
  python -m facecycle_jax.main --config=configs/small.py --workdir=runs/small \
    --config.motion.data.path=VIDEO_FRAMES,PICTURES --config.identity.data.path=VIDEO_FRAMES,PICTURES
Data: VIDEO_FRAMES are `<person>/<video>/*.jpg` as face crops (YouTube Faces), PICTURES `<person>/*.jpg` as
  the same crops (CelebA). Years, light and hair differ between the pictures of PICTURES, so each is paired
  with its mirror image alone and no name is used.
Hardware: two CPU cores, two to three hours.
What differs from the paper: generator and normaliser of an eighth of the width, encoders of half, a
  learned trunk in place of VGG-19 and no perceptual loss, so that the weights hold nothing of
  ImageNet's; a higher learning rate, clipped gradients, averaged weights.
"""

import ml_collections

from configs import identity_cycle, motion_cycle


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.stages = ("motion", "identity")  # run in this order, each from the one before
    config.motion = _small(motion_cycle.get_config())
    config.motion.num_steps = 4000  # steps
    config.identity = _small(identity_cycle.get_config())
    config.identity.num_steps = 2000  # steps
    config.identity.loss.margin_hinge = True  # cut at 0 as the paper describes
    config.lock()
    return config


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The changes that both stages share."""
    config.model.width = 0.125  # 1
    config.model.encoder_width = 0.5  # 1
    config.model.trunk = "learned"  # instead of VGG-19
    config.loss.perceptual = "none"  # without VGG-19 there is none
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (1e-3,)  # learning rate of each piece
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.998  # decay of the weight average
    config.data.backend = "memory"  # no tensorflow
    config.data.mirror_pair_probability = (0.25, 1.0)  # of VIDEO_FRAMES, of PICTURES
    config.data.eval_fraction = 0.05  # of the people
    config.batch_size = 8  # pairs of pictures
    config.log_every = 50  # steps
    config.eval_every = 400  # steps
    config.eval_batches = 8  # batches
    config.panel_every = 400  # steps
    config.checkpoint_every = 200  # steps
    config.keep_last = 2  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

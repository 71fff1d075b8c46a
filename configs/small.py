"""The model that comes with the package, `facecycle-small`: trained on real faces, on two CPU cores.

Command:
  python -m facecycle_jax.main --config=configs/small.py --workdir=runs/small \
    --config.motion.data.path=VIDEOS --config.everyone.data.path=VIDEOS,PHOTOS,GRAY \
    --config.identity.data.path=VIDEOS,PHOTOS,GRAY \
    --config.motion_refined.data.path=VIDEOS,PHOTOS,GRAY \
    --config.identity_refined.data.path=VIDEOS,PHOTOS,GRAY
Data: VIDEOS are `<person>/<video>/*.jpg`, crops of YouTube Faces; PHOTOS `<person>/*.jpg`, crops of CelebA;
  GRAY FER-2013's training pictures, shuffled and dealt into 480 folders without their labels. Years, light
  and hair differ between one person's photographs, and a folder of GRAY is many people: there a picture is
  paired with its mirror image alone.
Hardware: two CPU cores, five and a half hours.
What differs from the paper: generator and normaliser of an eighth of the width, encoders of half; a learned
  trunk and no perceptual loss, so that the weights hold nothing of ImageNet's; no noise in the generator;
  higher learning rates, clipped gradients, averaged weights; videos alone at first. Both cycles go on after
  the first time, on warped pictures and with codes kept from saturating, which was found to be missing only
  then. docs/model_card.md says what was tried.
"""

import ml_collections

from facecycle_jax.configs import identity_cycle, motion_cycle

VIDEOS_ALONE = (0.5,)  # of pairing with the mirror image
VIDEOS_PHOTOS_GRAY = (0.5, 1.0, 1.0)


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # Run in this order, each from those before.
    config.stages = (
        "motion",
        "everyone",
        "identity",
        "motion_refined",
        "identity_refined",
    )
    config.motion = _small(motion_cycle.get_config())
    config.motion.num_steps = 640  # steps
    config.motion.data.mirror_pair_probability = VIDEOS_ALONE
    config.everyone = _small(motion_cycle.get_config())
    config.everyone.num_steps = 6800  # steps
    config.everyone.loss.folding_weight = (
        2.0  # without it flows come to be one fold, the same for all
    )
    config.everyone.optimiser.schedule_epochs = (0, 22, 28)  # first epoch of each piece
    config.everyone.optimiser.schedule_rates = (
        2e-4,
        1e-4,
        5e-5,
    )  # learning rate of each piece
    config.identity = _small(identity_cycle.get_config())
    config.identity.batch_size = 16  # pairs: the mean face is one of a batch
    config.identity.num_steps = 24000  # steps
    # With four more starts at a higher rate, as below.
    config.identity.optimiser.schedule_epochs = (  # first epoch of each piece
        (0, 16) + (22, 32) + (43, 70, 80) + (87, 114, 124) + (130, 184, 204)
    )
    config.identity.optimiser.schedule_rates = (  # learning rate of each piece
        (1e-3, 3e-4) + (7e-4, 1e-4) + 3 * (7e-4, 2e-4, 5e-5)
    )
    config.identity.augment.warp = (
        0.04  # largest deviation of a random warp, parts of the side
    )
    config.identity.loss.margin_hinge = True  # cut at 0 as the paper describes
    config.motion_refined = _small(motion_cycle.get_config())
    config.motion_refined.num_steps = 9500  # steps
    config.motion_refined.augment.warp = (
        0.04  # largest deviation of a random warp, parts of the side
    )
    config.motion_refined.loss.folding_weight = 2.0
    config.motion_refined.loss.saturation_weight = (
        0.05  # keeps the codes' tanh out of its flat parts
    )
    # With a second start at a higher rate, which went on where the first had come to rest.
    config.motion_refined.optimiser.schedule_epochs = (
        0,
        10,
        15,
        18,
        31,
        37,
    )  # first epoch of each piece
    config.motion_refined.optimiser.schedule_rates = (
        2e-4,
        1e-4,
        5e-5,
        3e-4,
        1e-4,
        3e-5,
    )  # learning rates
    config.identity_refined = _small(identity_cycle.get_config())
    config.identity_refined.freeze = (
        "identity_encoder",
    )  # with this stage 1 its codes got worse
    config.identity_refined.batch_size = 16  # pairs
    config.identity_refined.num_steps = 900  # steps
    config.identity_refined.optimiser.schedule_epochs = (
        0,
        6,
    )  # first epoch of each piece
    config.identity_refined.optimiser.schedule_rates = (
        5e-4,
        1e-4,
    )  # learning rate of each piece
    config.identity_refined.loss.margin_hinge = True
    config.lock()
    return config


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The changes that all stages share."""
    config.model.width = 0.125  # 1
    config.model.encoder_width = 0.5  # 1
    config.model.trunk = "learned"  # instead of VGG-19
    config.loss.perceptual = "none"  # without VGG-19 there is none
    config.loss.noise = False  # large beside the maps of a learned trunk
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (3e-4,)  # learning rate of each piece
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.998  # decay of the weight average
    config.data.backend = "memory"  # no tensorflow
    config.data.mirror_pair_probability = VIDEOS_PHOTOS_GRAY
    config.data.eval_fraction = 0.05  # of the people
    config.batch_size = 8  # pairs of pictures
    config.log_every = 50  # steps
    config.eval_every = 600  # steps
    config.eval_batches = 8  # batches
    config.panel_every = 600  # steps
    config.checkpoint_every = 200  # steps
    config.keep_last = 2  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

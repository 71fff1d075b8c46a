"""The bundled model, `facecycle-small`, trained on real faces on two CPU cores.

Command:
  python -m facecycle_jax.main --config=configs/small.py --workdir=runs/small \
    --config.motion.data.path=VIDEOS --config.everyone.data.path=VIDEOS,PHOTOS,GRAY \
    --config.identity.data.path=VIDEOS,PHOTOS,GRAY \
    --config.motion_refined.data.path=VIDEOS,PHOTOS,GRAY \
    --config.identity_refined.data.path=VIDEOS,PHOTOS,GRAY
Data: VIDEOS are `<person>/<video>/*.jpg`, crops of YouTube Faces. PHOTOS are
  `<person>/*.jpg`, crops of CelebA. GRAY are FER-2013's training images, shuffled and
  dealt into 480 folders without their labels. One person's photographs differ in age,
  lighting and hair, and a folder of GRAY holds many people. In PHOTOS and GRAY an image
  is therefore paired only with its mirror image.
Hardware: two CPU cores, five and a half hours.
What differs from the paper:
  - generator and normaliser of an eighth of the width, encoders of half;
  - a learned trunk and no perceptual loss, so that no weights come from ImageNet;
  - no noise in the generator;
  - higher learning rates, clipped gradients, averaged weights;
  - videos alone at first;
  - a second part of both cycles, with warped images and codes kept from saturating.
  docs/model_card.md describes the model.
"""

import ml_collections

from facecycle_jax.configs import identity_cycle, motion_cycle

# Probability of pairing an image with its mirror image, one number for each root.
VIDEOS_ALONE = (0.5,)
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
    # without it all flows become one fold, the same for every face
    config.everyone.loss.folding_weight = 2.0
    config.everyone.optimiser.schedule_epochs = (0, 22, 28)
    config.everyone.optimiser.schedule_rates = (2e-4, 1e-4, 5e-5)

    config.identity = _small(identity_cycle.get_config())
    config.identity.batch_size = 16  # pairs; the mean face is that of a batch
    config.identity.num_steps = 24000  # steps
    # four restarts at a higher rate
    config.identity.optimiser.schedule_epochs = (
        (0, 16) + (22, 32) + (43, 70, 80) + (87, 114, 124) + (130, 184, 204)
    )
    config.identity.optimiser.schedule_rates = (
        (1e-3, 3e-4) + (7e-4, 1e-4) + 3 * (7e-4, 2e-4, 5e-5)
    )
    # largest standard deviation of a random warp, fraction of the side
    config.identity.augment.warp = 0.04
    config.identity.loss.margin_hinge = True  # cut at 0 as the paper describes

    config.motion_refined = _small(motion_cycle.get_config())
    config.motion_refined.num_steps = 9500  # steps
    # largest standard deviation of a random warp, fraction of the side
    config.motion_refined.augment.warp = 0.04
    config.motion_refined.loss.folding_weight = 2.0
    # keeps the codes' tanh out of its flat parts
    config.motion_refined.loss.saturation_weight = 0.05
    # one restart at a higher rate, which went on where the first part had stalled
    config.motion_refined.optimiser.schedule_epochs = (0, 10, 15) + (18, 31, 37)
    config.motion_refined.optimiser.schedule_rates = (2e-4, 1e-4, 5e-5) + (
        3e-4,
        1e-4,
        3e-5,
    )

    config.identity_refined = _small(identity_cycle.get_config())
    # with the refined stage 1 its codes got worse
    config.identity_refined.freeze = ("identity_encoder",)
    config.identity_refined.batch_size = 16  # pairs
    config.identity_refined.num_steps = 900  # steps
    config.identity_refined.optimiser.schedule_epochs = (0, 6)
    config.identity_refined.optimiser.schedule_rates = (5e-4, 1e-4)
    config.identity_refined.loss.margin_hinge = True

    config.lock()
    return config


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Makes the changes that all stages share."""
    config.model.width = 0.125  # multiplier on all channels
    config.model.encoder_width = 0.5  # multiplier on the encoders' channels
    config.model.trunk = "learned"  # instead of VGG-19
    config.loss.perceptual = "none"  # there is no VGG-19 to compute it with
    config.loss.noise = False  # it is large compared with the maps of a learned trunk

    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (3e-4,)  # learning rate of each piece
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.998  # decay of the weight average

    config.data.backend = "memory"  # no tensorflow
    config.data.mirror_pair_probability = VIDEOS_PHOTOS_GRAY
    config.data.eval_fraction = 0.05  # of the people

    config.batch_size = 8  # pairs of images
    config.log_every = 50  # steps
    config.eval_every = 600  # steps
    config.eval_batches = 8  # batches
    config.panel_every = 600  # steps
    config.checkpoint_every = 200  # steps
    config.keep_last = 2  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

"""The bundled model, `facecycle-base`: sharp neutral faces, on two CPU cores.

Command:
  facecycle train facecycle_base --workdir runs/facecycle_base \
    --set data.path=VIDEOS,PHOTOS --set loss.vgg=VGG.npz \
    --set features.data.path=VIDEOS,PHOTOS,SINGLE,GRAY \
    --set "features.data.mirror_pair_probability=(0.5,1.0,1.0,1.0)" \
    --set identity.data.path=VIDEOS,PHOTOS,SINGLE \
    --set "identity.data.mirror_pair_probability=(0.5,1.0,1.0)" \
    --set identity_sharp.data.path=VIDEOS,PHOTOS,SINGLE \
    --set "identity_sharp.data.mirror_pair_probability=(0.5,1.0,1.0)"
Data: VIDEOS are `<person>/<video>/*.jpg`, YouTube Faces. PHOTOS are `<person>/*.jpg`,
  CelebA, and SINGLE likewise, All-Age-Faces. These are cut to the framing of
  docs/framing.md by `facecycle frame`. GRAY are FER-2013's training images, `*.jpg`
  without their labels.
Hardware: two CPU cores, four and a half hours.
What differs from the paper:
  - motion encoder and flow decoder go on from facecycle-small, alone at first, with a
    loss that keeps flows smooth, then with heads that a warp has turned;
  - histograms of gradients can be read from the motion encoder's last map;
  - the generator adds to the warped image, and learns to bring images back from their
    own neutral faces, with flows that stay as they are;
  - a learned trunk; in stage 1 a Gram loss sixty times as strong, on ImageNet's
    VGG-19, in stage 2 a weak one at the end. No network sees the VGG-19, so the model
    holds nothing of it;
  - the identity encoder is trained by contrast between people, then kept; neutral faces
    are warped onto the mean face before it is compared with them, without a margin;
  - no noise in the generator, clipped gradients, averaged weights, folding penalised.
  docs/model_card.md describes the model.

`facecycle_base:paper` is its sibling of the paper's width, for minutes on one GPU.
launch/ten_minutes trains it (docs/scale.md); that has not been done yet. It differs in
  - the paper's width everywhere, in bfloat16, from random weights;
  - larger batches, and stages that end by the clock;
  - images that lie in the memory of the device.
"""

import ml_collections

from facecycle_jax.configs import base, identity_cycle, motion_cycle

# Probability of pairing an image with its mirror image, one number for each root.
VIDEOS_PHOTOS = (0.5, 1.0)
# Multiplier on the channels of what draws, in the model that results.
WIDTH = 0.25


def get_config(size: str = "bundled") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # Run in this order, each from those before.
    config.stages = (
        "flow",
        "flow_refined",
        "flow_turned",
        "flow_frontal",
        "features",
        "motion",
        "contrast",
        "light",
        "identity",
        "identity_sharp",
    )

    # Flows alone, which cost little: smooth ones in place of facecycle-small's.
    config.flow = _flow()
    config.flow.init_from = "facecycle-small"
    config.flow.loss.bending_weight = 10.0
    config.flow.num_steps = 600  # steps

    # Less smooth ones turn heads farther.
    config.flow_refined = _flow()
    config.flow_refined.loss.bending_weight = 5.0
    config.flow_refined.num_steps = 450  # steps

    # Turned heads, which the cycle alone turns by a half: first heads that a warp has
    # turned, then those of photographs.
    config.flow_turned = _turned()
    config.flow_turned.loss.turn_weight = 10.0

    config.flow_frontal = _turned()
    config.flow_frontal.loss.turn_weight = 5.0
    config.flow_frontal.loss.frontal_weight = 10.0

    # A last map that tells more than the flows: histograms of gradients can be read
    # from it, and flows stay. Its epochs are of 47,600 tracks, most of them one image.
    config.features = _without_cycle()
    config.features.loss.bending_weight = 0.0
    config.features.loss.folding_weight = 0.0
    config.features.loss.histogram_weight = 10.0
    config.features.loss.keep_weight = 5.0
    config.features.augment.brightness = 0.3
    config.features.augment.contrast = 0.3
    config.features.augment.two_views = True
    config.features.batch_size = 16  # pairs of images
    config.features.num_steps = 3750  # steps
    config.features.optimiser.schedule_epochs = (0, 0.8, 1.1)
    config.features.optimiser.schedule_rates = (1e-3, 3e-4, 1e-4)

    # The generator, which adds to what these flows warp.
    config.motion = _shared(motion_cycle.get_config())
    config.motion.init_widen = True
    config.motion.model.width = WIDTH
    config.motion.model.image_skip = True
    config.motion.loss.autoencoding = False  # no task with the skip
    config.motion.batch_size = 4  # pairs of images
    config.motion.num_steps = 600  # steps
    config.motion.optimiser.schedule_epochs = (0, 0.25)
    config.motion.optimiser.schedule_rates = (3e-4, 1e-4)

    # The identity encoder alone, which draws nothing: large batches.
    config.contrast = _contrast()
    config.contrast.init_from = "facecycle-small"
    config.contrast.num_steps = 750  # steps

    # Light from the side, which the photographs of one person do not show.
    config.light = _contrast()
    config.light.augment.side_light = 85.0  # degrees
    config.light.augment.saturation = 1.0
    config.light.num_steps = 150  # steps

    config.identity = _identity()
    config.identity.loss.perceptual = "none"
    config.identity.num_steps = 2500  # steps
    config.identity.optimiser.schedule_epochs = (0, 0.85, 0.95)
    config.identity.optimiser.schedule_rates = (1e-3, 3e-4, 1e-4)

    # Restored faces with a little of the Gram loss, which costs three times as much. A
    # weight of 0.3 makes them harsh.
    config.identity_sharp = _identity()
    config.identity_sharp.loss.perceptual_weight = 0.05
    config.identity_sharp.num_steps = 400  # steps
    config.identity_sharp.optimiser.schedule_epochs = (0, 0.1)
    config.identity_sharp.optimiser.schedule_rates = (5e-4, 1e-4)

    if base.choose(size, ("bundled", "paper")) == "paper":
        _enlarge(config)
    else:
        _keep_flows(config.motion)
    config.lock()
    return config


def _keep_flows(motion: ml_collections.ConfigDict) -> None:
    """Trains the generator alone, to bring each image back from its neutral face."""
    motion.freeze = ("motion_encoder", "flow_decoder")
    motion.loss.exchange_motion = False
    motion.loss.warped_weight = 0.25
    motion.loss.symmetry_weight = 0.5
    motion.loss.perceptual_weight = 0.6  # sharper than with 0.3


def _enlarge(config: ml_collections.ConfigDict) -> None:
    """Makes the changes of the sibling of the paper's width."""
    # Stage 1 in one part, and contrast too: a second one would be compiled anew.
    kept = ("motion", "contrast", "identity")
    for stage in set(config.stages) - set(kept):
        del config[stage]
    config.stages = kept
    config.motion.loss.warped_weight = 1.0
    config.motion.loss.agreement_weight = 1.0
    config.motion.loss.bending_weight = 5.0
    _penalise(config.motion)
    config.contrast.augment.side_light = 85.0  # degrees
    config.motion.max_minutes = 3.0
    config.contrast.max_minutes = 0.6
    config.identity.max_minutes = 2.4

    config.contrast.batch_size = 256  # pairs of images
    for stage in (config.motion, config.identity):
        stage.batch_size = 32  # pairs of images
        stage.optimiser.schedule_epochs = (0,)
        stage.optimiser.schedule_rates = (2e-4,)

    for stage in (config.motion, config.contrast, config.identity):
        stage.init_from = ""
        stage.init_widen = False
        stage.model.width = 1.0  # multiplier on all channels
        stage.model.encoder_width = 0.0  # width
        stage.model.dtype = "bfloat16"
        stage.optimiser.ema_decay = 0.999  # decay of the weight average
        stage.data.backend = "device"
        stage.num_steps = 1_000_000  # steps; max_minutes ends the stage

        # Once, at the end.
        stage.eval_every = 1_000_000  # steps
        stage.panel_every = 1_000_000  # steps
        stage.checkpoint_every = 1000  # steps
        stage.keep_last = 1  # checkpoints


def _flow() -> ml_collections.ConfigDict:
    """Makes a part of stage 1 that only warps."""
    config = _shared(motion_cycle.get_config())
    config.loss.generator = False
    config.batch_size = 8  # pairs of images
    _penalise(config)
    config.optimiser.schedule_rates = (3e-4,)
    return config


def _turned() -> ml_collections.ConfigDict:
    """Makes a part of stage 1 that teaches the flows of turned heads, and no more."""
    config = _without_cycle()
    # The feature map stays as it is.
    config.loss.keep_features = True
    config.loss.bending_weight = 0.3
    config.loss.saturation_weight = 0.0
    config.num_steps = 800  # steps
    config.optimiser.schedule_epochs = (0, 0.65)
    config.optimiser.schedule_rates = (1e-3, 2e-4)
    return config


def _without_cycle() -> ml_collections.ConfigDict:
    """Makes a part of stage 1 that only warps, with other terms than the cycle's."""
    config = _flow()
    config.loss.pixel_weight = 0.0
    config.loss.ssim_weight = 0.0
    config.loss.symmetry_weight = 0.0
    return config


def _penalise(config: ml_collections.ConfigDict) -> None:
    """Penalises flows that fold and codes that saturate."""
    config.loss.folding_weight = 2.0
    config.loss.saturation_weight = 0.05


def _contrast() -> ml_collections.ConfigDict:
    """Makes a part of stage 2 that compares the identity codes of photographs."""
    config = _shared(identity_cycle.get_config())
    config.loss.generator = False
    config.loss.contrast_weight = 1.0
    config.loss.contrast_temperature = 0.1  # divisor of cosines
    config.loss.perceptual = "none"
    config.batch_size = 64  # pairs of images
    config.optimiser.schedule_rates = (3e-4,)

    # Photographs of one person that differ; a mirror image would be too easy.
    config.data.min_frames = 2
    config.data.mirror_pair_probability = (0.0, 0.0)

    # Strong changes of light and colour, each image by itself.
    config.augment.scale = (0.7, 1.0)  # area of the crop
    config.augment.brightness = 0.4
    config.augment.contrast = 0.4
    config.augment.saturation = 0.4
    config.augment.hue = 0.03  # turns
    return config


def _identity() -> ml_collections.ConfigDict:
    """Makes a part of stage 2 that draws, with the identity encoder as it is."""
    config = _shared(identity_cycle.get_config())
    config.model.width = WIDTH
    config.model.image_skip = True
    config.freeze = ("identity_encoder",)
    config.loss.align_mean = True
    config.loss.margin = 0.0  # a margin leaves room for stripes in the mean face
    config.loss.margin_weight = 12.0
    config.loss.consensus_weight = 2.0
    config.loss.mean_detail_weight = 0.3
    config.batch_size = 8  # pairs; the mean face is that of a batch
    return config


def _shared(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Makes the changes that all stages share."""
    config.model.width = 0.125  # multiplier on all channels
    config.model.encoder_width = 0.5  # multiplier on the encoders' channels
    config.model.trunk = "learned"  # instead of VGG-19

    # The VGG-19 of the loss: ImageNet's, to be set to its file.
    config.loss.perceptual_weight = 0.3
    config.loss.noise = False

    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.b1 = 0.9
    config.optimiser.b2 = 0.999
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.99  # decay of the weight average

    config.data.backend = "memory"  # no tensorflow
    config.data.min_frames = 1  # single photographs pair with their mirror images
    config.data.mirror_pair_probability = VIDEOS_PHOTOS
    config.data.eval_fraction = 0.02  # of the people

    config.log_every = 20  # steps
    config.eval_every = 400  # steps
    config.eval_batches = 4  # batches
    config.panel_every = 200  # steps
    config.checkpoint_every = 50  # steps
    config.keep_last = 2  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

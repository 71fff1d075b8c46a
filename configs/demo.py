"""FaceCycle from random weights in minutes, on synthetic faces: nothing to download.

Command: make demo, which is
  python -m facecycle_jax.main --config=configs/demo.py --workdir=runs/demo
Hardware: two CPU cores; docs/train.md has the time of each stage.
Expect: a table of errors against the true faces of people not trained on, and an image
  of these people, runs/demo/identity/truth.png. Panels of held-out people are in
  runs/demo/STAGE/panels.
What differs from the paper:
  - two stages before the first that train flows alone, on small images, then on whole;
  - networks that add to an image instead of drawing anew: the generator to the warped
    image, the normaliser to a learned one;
  - generator and normaliser of an eighth of the width, as are the encoders; a learned
    trunk in place of VGG-19; no perceptual loss, no noise, SSIM for whole flows alone;
  - losses that keep flows smooth, two neutral faces of a person alike and neutral
    faces as sharp as the inputs, and other weights of the paper's;
  - stage 2 compares the mean face with neutral faces that are warped onto it, and
    restored faces with the neutral faces alone;
  - higher learning rates, clipped gradients, averaged weights;
  - synthetic faces whose heads turn by 31 degrees at most, in one scene each, with
    light and background that differ little; no changes of colour, no crops.
"""

import ml_collections

from facecycle_jax.configs import identity_cycle, motion_cycle


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # The first line of the log.
    config.about = (
        "Trains FaceCycle from random weights on synthetic faces, in four stages: "
        "8 to 9 minutes on two idle CPU cores, 2 of them to render faces and to "
        "compile. A table and an image follow."
    )
    # Run in this order, each from those before.
    config.stages = ("flow", "flow_fine", "motion", "identity")

    # Warped images alone: a tenth of the cost of images with the generator.
    config.flow = _flow()
    config.flow.loss.flow_side = 32  # pixels of the images that are compared
    config.flow.loss.bending_weight = 2.0
    config.flow.num_steps = 3600  # steps
    config.flow.log_every = 100  # steps
    config.flow.checkpoint_every = 1200  # steps
    # first epoch of each piece
    config.flow.optimiser.schedule_epochs = (0, 6, 130, 175)
    # learning rate of each piece
    config.flow.optimiser.schedule_rates = (1e-3, 3e-3, 1e-3, 3e-4)

    # On whole images, where eyes, noses and mouths count as much as outlines.
    config.flow_fine = _flow()
    config.flow_fine.loss.ssim_weight = 3.0
    config.flow_fine.loss.bending_weight = 6.0
    config.flow_fine.num_steps = 400  # steps
    # first epoch of each piece
    config.flow_fine.optimiser.schedule_epochs = (0, 1, 13, 18)
    # learning rate of each piece
    config.flow_fine.optimiser.schedule_rates = (6e-4, 2e-3, 6e-4, 2e-4)

    # The generator alone, with these flows.
    config.motion = _small(motion_cycle.get_config())
    config.motion.freeze = ("motion_encoder", "flow_decoder")
    config.motion.loss.autoencoding = False
    config.motion.loss.pixel_weight = 3.0
    config.motion.loss.agreement_weight = 3.0
    config.motion.loss.warped_weight = 3.0  # keeps eyes and lips as dark as they are
    config.motion.num_steps = 80  # steps
    config.motion.optimiser.schedule_epochs = (0, 1)  # first epoch of each piece
    config.motion.optimiser.schedule_rates = (2e-3, 5e-4)  # learning rate of each piece

    config.identity = _small(identity_cycle.get_config())
    config.identity.loss.pixel_weight = 3.0
    # draws the mean face towards everyone's neutral face
    config.identity.loss.margin_weight = 6.0
    config.identity.loss.consensus_weight = 3.0  # keeps mean faces alike
    config.identity.loss.align_mean = True  # gives the mean face eyes and a mouth
    config.identity.loss.restore_motion = False  # half the time of a step
    config.identity.num_steps = 300  # steps
    # decay of the weight average; the stage is short
    config.identity.optimiser.ema_decay = 0.95
    config.identity.optimiser.b2 = 0.999  # decay of the second moment
    config.identity.optimiser.schedule_epochs = (0, 1, 6)  # first epoch of each piece
    # learning rate of each piece
    config.identity.optimiser.schedule_rates = (2e-3, 5e-3, 1e-3)
    config.lock()
    return config


def _flow() -> ml_collections.ConfigDict:
    """Makes what the two stages of flows share."""
    config = _small(motion_cycle.get_config())
    config.loss.generator = False
    config.loss.pixel_weight = 5.0
    config.loss.symmetry_weight = 5.0
    config.loss.agreement_weight = 4.0
    config.loss.mean_flow_weight = 3.0
    config.loss.folding_weight = 2.0  # keeps flows invertible
    config.loss.saturation_weight = 0.003  # keeps codes inside (-1, 1)
    config.batch_size = 8  # pairs of images
    return config


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The changes that all stages share."""
    config.model.width = 0.125  # multiplier on all channels
    config.model.code_init = 0.07  # standard deviation
    config.model.image_skip = True  # networks add to an image
    # instead of VGG-19, which would have to be downloaded
    config.model.trunk = "learned"
    config.loss.perceptual = "none"  # without VGG-19 there is none
    config.loss.ssim_weight = 0.0  # costs time
    config.loss.noise = False  # large beside the maps of a learned trunk
    config.optimiser.b1 = 0.9  # decay of the first moment
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.99  # decay of the weight average

    config.data.source = "synthetic"  # rendered when the run starts
    config.data.backend = "memory"  # no tensorflow
    config.data.decode_size = 64  # pixels; no crops need more
    config.data.mirror_pair_probability = (0.3,)
    config.data.eval_fraction = 0.1  # of the people
    config.data.identities = 160  # people
    config.data.frames_per_track = 8  # images of each
    # of light and background, which are not what is learned
    config.data.scene_variation = 0.25
    config.data.motion_variation = 0.7  # of poses and expressions: yaw up to 31 degrees

    # Colours and framing of synthetic faces do not differ by chance.
    config.augment.scale = (1.0, 1.0)  # area of the crop
    config.augment.ratio = (1.0, 1.0)  # width of the crop over its height
    config.augment.jitter_probability = 0.0  # of any change of colours

    config.compile_quickly = True  # the run is short
    config.batch_size = 4  # pairs of images
    config.log_every = 20  # steps
    config.eval_every = 10_000  # steps; once, at the end
    config.eval_batches = 1  # batches
    config.panel_every = 10_000  # steps; once, at the end
    config.panel_rows = 6  # faces
    config.checkpoint_every = 200  # steps
    config.keep_last = 1  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

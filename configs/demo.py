"""FaceCycle from random weights in minutes, on synthetic faces: nothing to download.

Command: make demo, which is
  python -m facecycle_jax.main --config=configs/demo.py --workdir=runs/demo
Hardware: two CPU cores; docs/train.md has the time of each stage.
Expect: a table of errors against the true faces of people not trained on, and an image
  of these people, runs/demo/identity/truth.png. Panels of held-out people are in
  runs/demo/STAGE/panels.
What differs from the paper: a stage before the first that trains flows alone; generator
  and normaliser of an eighth of the width, encoders of a quarter; a learned trunk in
  place of VGG-19 and no perceptual loss; no noise; folding, saturation and consensus
  losses, and other weights of the paper's; higher learning rates, clipped gradients,
  averaged weights; synthetic faces whose light and background differ little.
"""

import ml_collections

from facecycle_jax.configs import identity_cycle, motion_cycle


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # The first line of the log.
    config.about = (
        "Trains FaceCycle from random weights on synthetic faces, in three stages: "
        "about 7 minutes on two idle CPU cores, 2 of them to render faces and to "
        "compile. A table and an image follow."
    )
    # Run in this order, each from those before.
    config.stages = ("flow", "motion", "identity")

    # Warped images alone: a sixth of the cost of an image with the generator.
    config.flow = _small(motion_cycle.get_config())
    config.flow.loss.generator = False
    config.flow.loss.folding_weight = 2.0  # keeps flows invertible
    config.flow.loss.saturation_weight = (
        0.02  # keeps the codes' tanh out of its flat parts
    )
    config.flow.batch_size = 8  # pairs of images
    config.flow.num_steps = 1200  # steps
    config.flow.optimiser.schedule_epochs = (0, 3, 60)  # first epoch of each piece
    config.flow.optimiser.schedule_rates = (
        3e-4,
        1e-3,
        3e-4,
    )  # learning rate of each piece

    # The generator alone, with these flows.
    config.motion = _small(motion_cycle.get_config())
    config.motion.freeze = ("motion_encoder", "flow_decoder")
    config.motion.loss.pixel_weight = (
        3.0  # with the paper's weights SSIM counts seven times as much
    )
    config.motion.loss.ssim_weight = 1.5
    config.motion.loss.symmetry_weight = 3.0
    config.motion.num_steps = 500  # steps
    config.motion.optimiser.schedule_epochs = (0, 1, 12)  # first epoch of each piece
    config.motion.optimiser.schedule_rates = (
        1e-3,
        2e-3,
        5e-4,
    )  # learning rate of each piece

    config.identity = _small(identity_cycle.get_config())
    config.identity.loss.pixel_weight = 3.0
    config.identity.loss.ssim_weight = 1.5
    config.identity.loss.margin_weight = (
        6.0  # draws the mean face towards everyone's neutral face
    )
    config.identity.loss.consensus_weight = 3.0  # keeps mean faces alike
    config.identity.num_steps = 340  # steps
    config.identity.optimiser.ema_decay = (
        0.95  # decay of the weight average; the stage is short
    )
    config.identity.optimiser.b2 = 0.999  # decay of the second moment
    config.identity.optimiser.schedule_epochs = (0, 1, 8)  # first epoch of each piece
    config.identity.optimiser.schedule_rates = (
        1e-3,
        3e-3,
        1e-3,
    )  # learning rate of each piece
    config.lock()
    return config


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The changes that all stages share."""
    config.model.width = 0.125  # 1
    config.model.encoder_width = 0.25  # 1
    config.model.trunk = (
        "learned"  # instead of VGG-19, which would have to be downloaded
    )
    config.loss.perceptual = "none"  # without VGG-19 there is none
    config.loss.noise = False  # large beside the maps of a learned trunk
    config.optimiser.b1 = 0.9  # decay of the first moment
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.99  # decay of the weight average

    config.data.source = "synthetic"  # rendered when the run starts
    config.data.backend = "memory"  # no tensorflow
    config.data.eval_fraction = 0.1  # of the people
    config.data.identities = 160  # people
    config.data.frames_per_track = 8  # images of each
    config.data.scene_variation = (
        0.25  # of light and background, which are not what is learned
    )

    config.compile_quickly = True  # the run is short
    config.batch_size = 4  # pairs of images
    config.log_every = 20  # steps
    config.eval_every = 1000  # steps; once, at the end
    config.eval_batches = 1  # batches
    config.panel_every = 1000  # steps; once, at the end
    config.panel_rows = 6  # faces
    config.checkpoint_every = 200  # steps
    config.keep_last = 1  # checkpoints
    config.tensorboard = False  # metrics.jsonl only
    return config

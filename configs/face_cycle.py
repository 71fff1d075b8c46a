"""Both stages of FaceCycle in one run, for comparisons with other methods.

Reference: Chang, Chen, Chiu, "Learning Facial Representations from the
  Cycle-consistency of Face", ICCV 2021, arXiv 2108.03427; the settings are those of
  configs/motion_cycle.py and configs/identity_cycle.py, but for where stage 2 starts.
Stage 2 starts from the end of stage 1, after its 40 epochs, because the model that
  results is evaluated with the motion encoder of all 40. The paper starts stage 2 after
  20 epochs of stage 1, as `--set motion.num_epochs=20` does here; its motion codes are
  those of the other 20 epochs still.
Command:
  facecycle train face_cycle --workdir runs/face_cycle \
    --set motion.data.path=TRACKS --set identity.data.path=TRACKS \
    --set motion.loss.vgg=weights/vgg19.npz --set identity.loss.vgg=weights/vgg19.npz
  facecycle train face_cycle:small --workdir runs/face_cycle_small
Hardware: any number of devices that divides batch_size; ':small' runs on two cores.
What differs from the paper in ':small': all networks of an eighth of the width, as in
  the small configs of the other methods; a learned trunk and no perceptual loss, so
  that no weights come from ImageNet; no noise; folding, saturation and consensus
  losses, and other weights of the paper's, as in configs/demo.py; a higher learning
  rate, clipped gradients, averaged weights.
"""

import ml_collections

from facecycle_jax.configs import identity_cycle, motion_cycle, peer_base


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # Run in this order, the second from the first.
    config.stages = ("motion", "identity")
    config.motion = motion_cycle.get_config()
    config.identity = identity_cycle.get_config()

    if peer_base.is_small(size):
        for stage in (config.motion, config.identity):
            _make_small(stage)
        config.motion.loss.folding_weight = 2.0  # keeps flows invertible
        config.motion.loss.saturation_weight = 0.02  # keeps codes inside (-1, 1)
        config.identity.loss.margin_weight = 6.0  # draws the mean face to the others
        config.identity.loss.consensus_weight = 3.0  # keeps mean faces alike
        config.identity.optimiser.b2 = 0.999  # decay of the second moment

    config.lock()
    return config


def _make_small(config: ml_collections.ConfigDict) -> None:
    """Shrinks a stage as the configs of the other methods are shrunk."""
    peer_base.make_small(config)
    config.model.trunk = "learned"  # instead of VGG-19
    config.loss.perceptual = "none"  # there is no VGG-19 to compute it with
    config.loss.noise = False  # it is large compared with the maps of a learned trunk
    config.loss.pixel_weight = 3.0  # with the paper's weights SSIM counts more
    config.loss.ssim_weight = 1.5
    config.loss.symmetry_weight = 3.0
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (1e-3,)  # learning rate of each piece
    config.optimiser.b1 = 0.9  # decay of the first moment
    config.optimiser.clip_norm = 1.0  # largest global norm of gradients
    config.optimiser.ema_decay = 0.99  # decay of the weight average

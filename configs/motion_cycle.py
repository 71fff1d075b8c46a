"""Stage 1 of FaceCycle, the motion cycle, as in the paper.

Reference: Chang, Chen, Chiu, "Learning Facial Representations from the
  Cycle-consistency of Face", ICCV 2021, arXiv 2108.03427, section 3.1.
Command:
  python -m facecycle_jax.main --config=configs/motion_cycle.py --workdir=runs/motion \
    --config.data.path=/data/voxceleb/dense_frames --config.loss.vgg=weights/vgg19.npz
Hardware: any number of devices that divides batch_size.
Expect: the paper trains 40 epochs on VoxCeleb. Panels of held-out people are in
  runs/motion/panels, losses in runs/motion/metrics.jsonl.
Continue: the same command. Next: configs/identity_cycle.py.
"""

import ml_collections

from facecycle_jax.configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.method = "motion_cycle"

    # Not in the paper.
    config.loss.folding_weight = 0.0  # above 0 keeps flows invertible
    config.loss.bending_weight = 0.0  # above 0 keeps flows smooth
    config.loss.warped_weight = 0.0  # above 0 keeps neutral faces sharp
    config.loss.saturation_weight = 0.0  # above 0 keeps codes inside (-1, 1)
    # above 0 keeps faces where they are on average
    config.loss.mean_flow_weight = 0.0
    # above 0 compares the neutral faces of the two images of a pair
    config.loss.agreement_weight = 0.0
    # The next six are for generator=False, which trains flows alone.
    # above 0 teaches flows by heads that a warp has turned
    config.loss.turn_weight = 0.0
    # above 0 teaches flows by how symmetric faces become
    config.loss.frontal_weight = 0.0
    # above 0 has the encoder's last map predict histograms of gradients
    config.loss.histogram_weight = 0.0
    # above 0 keeps flows as they were at the start
    config.loss.keep_weight = 0.0
    # True: train the two dense layers of the encoder only, not its convolutions
    config.loss.keep_features = False
    # side in pixels of the images that are warped and compared; 0: as they are
    config.loss.flow_side = 0
    config.loss.autoencoding = True  # False: no terms of images made of their own maps
    config.loss.generator = True  # False: train flows alone, on warped images
    # False: restore an image from its own neutral face; for flows that are kept
    config.loss.exchange_motion = True

    config.optimiser.schedule_epochs = (0, 1, 20)  # first epoch of each piece
    config.optimiser.schedule_rates = (1e-5, 5e-5, 1e-5)  # learning rate of each piece
    config.num_epochs = 40  # epochs
    config.lock()
    return config

"""Stage 2 of FaceCycle, the identity cycle, as in the paper.

Reference: Chang, Chen, Chiu, "Learning Facial Representations from the
  Cycle-consistency of Face", ICCV 2021, arXiv 2108.03427, section 3.2.
Command:
  python -m facecycle_jax.main --config=configs/identity_cycle.py \
    --workdir=runs/identity --config.init_from=runs/motion \
    --config.data.path=/data/voxceleb/dense_frames \
    --config.loss.vgg=weights/vgg19.npz
Hardware: any number of devices that divides batch_size.
Expect: the paper trains 20 epochs, from stage 1 after 20. `model` must be that of
  stage 1, whose networks stay as they are.
Continue: the same command.
"""

import ml_collections

from facecycle_jax.configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.method = "identity_cycle"
    # runs of stage 1, checkpoints or models, separated by commas; required
    config.init_from = ""

    config.loss.margin_weight = 1.0  # weight of the margin
    # above 0 keeps mean faces alike; not in the paper
    config.loss.consensus_weight = 0.0
    # above 0 keeps stripes out of the mean face; not in the paper
    config.loss.mean_detail_weight = 0.0
    # True compares the mean face with neutral faces that are warped onto it, which
    # makes it sharp; not in the paper
    config.loss.align_mean = False
    # above 0 pulls the codes of two images of one track together and pushes those of
    # others away; items are then pairs of one track; not in the paper
    config.loss.contrast_weight = 0.0
    config.loss.contrast_temperature = 0.1  # divisor of cosines
    config.loss.generator = True  # False: train the encoder alone, by contrast
    config.loss.margin = 0.1  # between mean face and neutral faces, normalised units
    config.loss.margin_hinge = False  # cut the margin at 0, as the paper describes
    # False compares restored faces with the neutral faces alone, at a lower cost
    config.loss.restore_motion = True
    # pairs of one track, each image restored from the other's code; not in the paper
    config.loss.exchange_identity = False

    config.optimiser.schedule_epochs = (0, 1, 10)  # first epoch of each piece
    config.optimiser.schedule_rates = (5e-5, 1e-4, 1e-5)  # learning rate of each piece
    config.optimiser.b2 = 0.9  # decay of the second moment
    config.num_epochs = 20  # epochs
    config.lock()
    return config

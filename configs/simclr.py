"""SimCLR on FaceCycle's encoder: the contrastive baseline.

Reference: Chen, Kornblith, Norouzi, Hinton, "A simple framework for contrastive
  learning of visual representations", ICML 2020. Nobody published these settings for
  this encoder.
Command:
  facecycle train simclr --workdir runs/simclr --set data.path=TRACKS
  facecycle train simclr:small --workdir runs/simclr_small
Hardware: any number of devices that divides batch_size; ':small' runs on two cores.
"""

import ml_collections

from facecycle_jax.configs import peer_base


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    config = peer_base.get_config()
    config.method = "simclr"
    config.model.image_size = 64  # pixels: 64, 128 or 256
    config.loss.temperature = 0.07
    config.augment.scale = (0.2, 1.0)  # area of the crop, as a fraction of the image
    config.augment.mirror_probability = 0.5  # of mirroring
    config.augment.strength = (
        0.8  # largest change of brightness, contrast and saturation
    )
    config.augment.hue = 0.2  # largest change, turns
    config.augment.jitter_probability = 0.8  # of changing colours
    config.augment.grey_probability = 0.2  # of dropping them
    config.augment.blur_probability = 0.5  # of a blur
    config.augment.edge_probability = 0.0  # of a gradient map in place of the image
    config.optimiser.kind = "adam"
    config.optimiser.schedule_rates = (3e-4,)  # learning rate
    config.data.item_frames = 1  # one image, seen twice
    config.data.min_frames = 1  # frames
    config.data.decode_size = 112  # pixels
    config.batch_size = 256  # items
    config.num_epochs = 300  # epochs
    if peer_base.is_small(size):
        peer_base.make_small(config)
        config.batch_size = 64  # items; each is contrasted with the others
        config.optimiser.schedule_rates = (1e-3,)  # learning rate
    config.lock()
    return config

"""Temporal consistency: embeddings whose distance to an anchor frame grows with time.

Reference: Lu, Tavabi, Soleymani, "Self-supervised learning for facial action unit
  recognition through temporal consistency", BMVC 2020; the settings are those of the
  published program.
Command:
  facecycle train temporal_consistency --workdir runs/temporal --set data.path=TRACKS
  facecycle train temporal_consistency:small --workdir runs/temporal_small
Hardware: any number of devices that divides batch_size; ':small' runs on two cores.
Expect: 50 epochs. The original starts from ImageNet's weights; loss.resnet is a .npz of
  torchvision's state dict. Synthetic tracks are not ordered in time, so ':small' shows
  that the program runs, no more.
"""

import ml_collections

from facecycle_jax.configs import peer_base


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    config = peer_base.get_config()
    config.method = "temporal_consistency"
    config.model.image_size = 256  # pixels
    config.model.code_dim = 256  # numbers in an embedding
    config.loss.resnet = "random"  # .npz of torchvision's ResNet-18, or 'random'
    config.loss.margin = 0.03  # squared distance
    config.augment.left = 16  # region of crops, 256ths of the side
    config.augment.top = 16  # 256ths
    config.augment.side = 224  # 256ths
    config.augment.smallest = 200  # side of crops, 256ths
    config.augment.largest = 223  # 256ths
    config.optimiser.schedule_rates = (1e-3,)  # learning rate
    config.data.item_frames = 12  # anchor, sibling, ten followers
    config.data.item_order = "ordered"
    config.data.min_frames = 12  # frames
    config.data.decode_size = 256  # pixels
    config.batch_size = 48  # items
    config.num_epochs = 50  # epochs
    if peer_base.is_small(size):
        peer_base.make_small(config)
        config.model.image_size = 64  # pixels
        config.model.code_dim = 64  # numbers
        config.data.item_frames = 5  # frames
    config.lock()
    return config

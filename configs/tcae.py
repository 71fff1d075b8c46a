"""TCAE: codes of expression and pose from the change between two frames.

Reference: Li, Zeng, Shan, Chen, "Self-supervised representation learning from videos
  for facial action unit detection", CVPR 2019; the settings are those of the published
  program.
Command:
  facecycle train tcae --workdir runs/tcae --set data.path=TRACKS
  facecycle train tcae:small --workdir runs/tcae_small
Hardware: any number of devices that divides batch_size; ':small' runs on two cores.
Expect: 132,000 steps, which are the original's 2,000 epochs of one draw an identity,
  counted for VoxCeleb2 as in configs/fab_net.py. An epoch is one draw a track here, so
  the length is in steps. An evaluation counts as an epoch for the curriculum. On other
  data set eval_every to the number of identities by batch_size, and num_steps to 2,000
  times that. There are no trained weights of this implementation.
"""

import ml_collections

from facecycle_jax.configs import peer_base


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    config = peer_base.get_config()
    config.method = "tcae"
    config.model.image_size = 256  # pixels: 32, 64, 128 or 256
    config.model.code_dim = 256  # numbers in a code
    config.model.align_corners = False  # of the decoders' bilinear doubling
    config.loss.window = (
        "each"  # 'each' term by its own ranks, 'common' (reconstruction's) or 'none'
    )
    config.augment.left = 16  # region of crops, 256ths of the side
    config.augment.top = 16  # 256ths
    config.augment.side = 224  # 256ths
    config.augment.smallest = 200  # side of crops, 256ths
    config.augment.largest = 223  # 256ths
    config.optimiser.schedule_rates = (1e-3,)  # learning rate
    config.data.decode_size = 256  # pixels
    config.batch_size = 64  # items
    config.eval_every = 66  # steps: as many items as in an epoch of FAb-Net's original
    # steps: 2000 epochs of the original, which are of identities and not of tracks
    config.num_steps = 2000 * config.eval_every
    if peer_base.is_small(size):
        peer_base.make_small(config)
        config.model.image_size = 64  # pixels
        config.model.code_dim = 64  # numbers
    config.lock()
    return config

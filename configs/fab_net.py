"""FAb-Net: a face embedding from warping one frame of a track into another.

Reference: Wiles, Koepke, Zisserman, "Self-supervised learning of a facial attribute
  embedding from video", BMVC 2018; the settings are those of the published program.
Command:
  facecycle train fab_net --workdir runs/fab_net --set data.path=TRACKS
  facecycle train fab_net:small --workdir runs/fab_net_small
Hardware: any number of devices that divides batch_size; ':small' runs on two cores.
Expect: 99,000 steps, which are the original's 3,000 epochs of one draw an identity of
  VoxCeleb2. An epoch is one draw a track here, so the length is in steps. An evaluation
  counts as an epoch for the curriculum. On other data set eval_every to the number of
  identities by batch_size, and num_steps to 3,000 times that. There are no trained
  weights of this implementation.
Several sources: a second run with data.item_frames=4 and init_from=runs/fab_net
  and freeze="('flow_decoder',)".
"""

import ml_collections

from facecycle_jax.configs import peer_base


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    config = peer_base.get_config()
    config.method = "fab_net"
    config.model.image_size = 256  # pixels: 32, 64, 128 or 256
    config.model.code_dim = 256  # numbers in an embedding
    config.model.align_corners = (
        False  # of the decoders' bilinear doubling; the original's is not known
    )
    config.loss.curriculum = (
        True  # average a window of ranks that moves, see docs/peers.md
    )
    config.augment.left = 33  # region of crops, 256ths of the side
    config.augment.top = 8  # 256ths
    config.augment.side = 190  # 256ths
    config.augment.smallest = 170  # side of crops, 256ths
    config.augment.largest = 189  # 256ths
    config.optimiser.schedule_rates = (1e-4,)  # learning rate
    config.data.decode_size = 256  # pixels
    config.batch_size = 128  # items
    # steps: an epoch of the original, one draw for each identity of VoxCeleb2 that it
    # trains on
    config.eval_every = 33
    # steps: 3000 epochs of the original, which are of identities and not of tracks
    config.num_steps = 3000 * config.eval_every
    if peer_base.is_small(size):
        peer_base.make_small(config)
        config.model.image_size = 64  # pixels
        config.model.code_dim = 64  # numbers
        config.optimiser.schedule_rates = (1e-2,)  # learning rate
    config.lock()
    return config

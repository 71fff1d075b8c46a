"""PCL: contrasts of faces and of poses, on features that reconstruction takes apart.

Reference: Liu, Wang, Zhan, Feng, Liu, Chen, "Pose-disentangled contrastive learning for
  self-supervised facial representation", CVPR 2023.
Command:
  facecycle train pcl --workdir runs/pcl --set data.path=TRACKS
  facecycle train pcl:small --workdir runs/pcl_small
Hardware: one device, or any number that divides batch_size; ':small' runs on two cores.
Expect: each update is three gradient steps. Set loss.epoch_steps to the steps of an
  epoch.
What differs from the published program:
  - loss.grouping compares a pose with views of its own mirror image, as intended;
  - augment.wrapped_edges leaves the steepest edges of gradient maps bright;
  - num_epochs is 800 of 6,000, because the evaluation of the authors' next program
    loads a model of epoch 801. cosine_epochs stays 6,000, so the learning rate has
    fallen by 4 % at the end;
  - an item is three frames of one track, one for each step; the program draws three
    lists independently;
  - an epoch draws every track once, the program one image of every entry of its list;
  - loss.epoch_steps is a number of steps, not the length of an epoch;
  - float32 instead of mixed precision (model.dtype).
  docs/peers.md has what differs in all methods.
"""

import ml_collections

from facecycle_jax.configs import peer_base


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    config = peer_base.get_config()
    config.method = "pcl"
    config.model.image_size = 64  # pixels
    config.loss.noise = (
        0.4  # standard deviation, on images that are to be reconstructed
    )
    config.loss.temperature = 0.07  # of both contrasts
    config.loss.mix = 1.6  # of the Beta distribution that mixes negatives; 0: not mixed
    config.loss.grouping = (
        "own"  # of pose negatives: 'own' (intended) or 'published' (of the program)
    )
    config.loss.epoch_steps = (
        1000  # steps that dynamic weights count as an epoch; 0: weights of 1
    )
    config.augment.pose_items = 10  # items contrasted as poses
    config.augment.pose_negatives = 100  # mirrored views of each
    config.augment.strength = (
        0.8  # largest change of brightness, contrast and saturation
    )
    config.augment.hue = 0.2  # largest change, turns
    config.augment.jitter_probability = 0.8  # of changing colours
    config.augment.grey_probability = 0.2  # of dropping them
    config.augment.blur_probability = 0.8  # of a blur
    config.augment.edge_probability = 0.6  # of a gradient map in place of the image
    config.augment.wrapped_edges = (
        False  # steepest edges dark, as the published program has them
    )
    config.optimiser.kind = "adam_by_network"
    config.optimiser.schedule_rates = (1e-4,)  # learning rate
    config.optimiser.weight_decay = 1e-3  # added to gradients
    config.optimiser.cosine_epochs = 6000  # epochs
    config.data.item_frames = 3  # one for each step, of one track
    config.data.min_frames = 1  # frames
    config.data.decode_size = 112  # pixels
    config.batch_size = 256  # items
    config.num_epochs = 800  # epochs
    if peer_base.is_small(size):
        peer_base.make_small(config)
        config.batch_size = 32  # items; each is contrasted with the others
        config.loss.epoch_steps = 50  # steps
        config.augment.pose_items = 4  # items
        config.augment.pose_negatives = 8  # views
        config.optimiser.cosine_epochs = 0  # none
        config.optimiser.schedule_rates = (1e-3,)  # learning rate
    config.lock()
    return config

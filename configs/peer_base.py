"""What the configs of the methods that FaceCycle is compared with share."""

import ml_collections

from facecycle_jax.configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.unlock()
    config.method = ""  # 'fab_net', 'tcae', 'temporal_consistency', 'pcl' or 'simclr'

    config.num_epochs = 40  # epochs, as for FaceCycle, where a method states no length

    # Networks.
    config.model = ml_collections.ConfigDict()
    config.model.width = 1.0  # multiplier on all channels; 1 is the published network
    config.model.image_size = 64  # pixels
    config.model.dtype = "float32"  # of computation: 'float32' or 'bfloat16'

    # Each method's own.
    config.loss = ml_collections.ConfigDict()
    config.augment = ml_collections.ConfigDict()

    # Optimiser.
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.kind = "sgd"  # 'sgd', 'adam' or 'adam_by_network'
    config.optimiser.momentum = 0.9  # of 'sgd'
    config.optimiser.weight_decay = 0.0  # times the weights, added to gradients
    config.optimiser.cosine_epochs = 0  # epochs of a cosine from the rate to 0; 0: none
    config.optimiser.skip_unused = (
        False  # 'adam_by_network': leave networks alone that a step does not use
    )
    config.optimiser.b1 = 0.9  # decay of the first moment
    config.optimiser.b2 = 0.999  # decay of the second moment

    # Items of a batch: frames of one track.
    config.data.item_frames = 2  # frames in an item
    config.data.item_order = "unordered"  # 'unordered' or 'ordered' (in time)
    config.data.item_spacing = 1  # frames from one to the next, of 'ordered'
    config.data.min_frames = 2  # frames; shorter tracks are left out
    # Of FaceCycle's pairs alone.
    del config.data.mirror_pair_probability
    return config


def is_small(size: str) -> bool:
    """Whether a config is asked for in its small size; any other name is refused."""
    return base.choose(size, ("published", "small")) == "small"


def make_small(config: ml_collections.ConfigDict) -> None:
    """Shrinks a config to what two cores train in minutes."""
    config.model.width = 0.125  # multiplier on all channels
    config.data.source = "synthetic"  # synthetic faces
    config.data.backend = "memory"  # no tensorflow
    config.data.eval_fraction = 0.25  # of the people
    config.data.identities = 32  # people
    config.data.frames_per_track = 16  # images of each
    config.data.min_frames = 1  # frames
    config.data.decode_size = 64  # pixels
    config.batch_size = 8  # items
    config.num_steps = 200  # steps
    config.log_every = 20  # steps
    config.eval_every = 100  # steps
    config.eval_batches = 2  # batches
    config.panel_every = 100  # steps
    config.panel_rows = 4  # faces
    config.checkpoint_every = 100  # steps
    config.tensorboard = False  # metrics.jsonl only

"""The fields that all methods share, with meaning, unit and default of each.

Every config starts from here. Values are the paper's where it states them. On the
command line a field is set with `--set data.path=FRAMES` for `facecycle train`, and
with `--config.data.path=FRAMES` for `python -m facecycle_jax.main`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # the training method: a name in methods.METHODS or methods.PEERS
    config.method = ""
    # runs, checkpoints or models to copy networks from by name, separated by commas;
    # '': none
    config.init_from = ""
    # widen networks of init_from that are narrower than these, without a change of
    # what they compute
    config.init_widen = False
    config.seed = 0  # of parameters, order, augmentation and noise
    # networks to keep as init_from has them, of those that the stage trains
    config.freeze = ()

    # Networks.
    config.model = ml_collections.ConfigDict()
    config.model.width = 1.0  # multiplier on all channels; 1 is the paper's
    config.model.encoder_width = 0.0  # multiplier on the encoders' channels; 0: width
    # generator adds to the warped image, normaliser to a learned one; not in the paper
    config.model.image_skip = False
    config.model.image_size = 64  # pixels: 64, 128 or 256
    config.model.code_dim = 256  # numbers in a code
    # standard deviation of the initial weights of the dense layers of the encoders
    config.model.code_init = 0.01
    config.model.dtype = "float32"  # of computation: 'float32' or 'bfloat16'
    # features of generator and normaliser: frozen 'vgg', or 'learned'
    config.model.trunk = "vgg"

    # Losses. The weights are the paper's, the switches those of its program.
    config.loss = ml_collections.ConfigDict()
    # path of a .npz with VGG-19 weights, or 'random' (no download)
    config.loss.vgg = "random"
    # channel multiplier of VGG-19; 0: 1 for a file, else model.width
    config.loss.vgg_width = 0.0
    # 'gram', 'feature' (compares maps position by position) or 'none'
    config.loss.perceptual = "gram"
    config.loss.perceptual_weight = 0.01  # meant for torchvision's VGG-19
    config.loss.pixel_weight = 1.0  # weight of the L1 terms
    config.loss.symmetry_weight = 1.5  # weight of the symmetry terms
    config.loss.ssim_weight = 5.0  # weight of the SSIM terms
    config.loss.ssim_range = 1.0  # L of the SSIM constants, normalised units
    config.loss.gram_normalise = False  # divide Gram matrices by the channels too
    config.loss.noise = True  # noise in the generator while training

    # Adam and its schedule.
    config.optimiser = ml_collections.ConfigDict()
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (5e-5,)  # learning rate of each piece
    # length of training that the schedule is made for: a run of another length
    # stretches it; both 0: it is not stretched
    config.optimiser.schedule_length_epochs = 0.0  # epochs
    config.optimiser.schedule_length_steps = 0  # steps
    config.optimiser.b1 = 0.5  # decay of the first moment
    config.optimiser.b2 = 0.999  # decay of the second moment
    config.optimiser.clip_norm = 0.0  # largest global norm of gradients; 0: none
    # micro-batches in a batch; what is not a mean over items is that of a micro-batch:
    # the batch's mean face, contrasts, batch statistics and the terms of
    # mean_flow_weight, turn_weight, histogram_weight and keep_weight
    config.optimiser.accumulate = 1
    config.optimiser.ema_decay = 0.0  # decay of the weight average; 0: none

    # Data: <path>/<identity>/[<video>/]<track>/*.jpg and more, see docs/data.md.
    config.data = ml_collections.ConfigDict()
    # kind of source: 'folder', 'list', 'records' (prepared) or 'synthetic'
    config.data.source = "folder"
    config.data.path = ""  # where the data are
    # 'threads' and 'tf' read while training, 'memory' and 'device' before it
    config.data.backend = "threads"
    # 'pillow', or 'opencv': faster, with slightly different pixels (extra `fast`)
    config.data.decoder = "pillow"
    # gigabytes of decoded images that 'memory' and 'device' may take
    config.data.memory_gb = 8.0
    config.data.min_frames = 4  # frames; shorter tracks are left out
    config.data.decode_size = 72  # pixels decoded to; leaves room for random crops
    # of pairing an image with its mirror image; one number, or one for each root
    config.data.mirror_pair_probability = (0.5,)
    config.data.eval_fraction = 0.02  # of the people, held out
    config.data.identity_depth = 1  # folders below path that name a person
    config.data.max_tracks = 0  # tracks used; 0: all
    config.data.identities = 0  # people of the synthetic source
    config.data.frames_per_track = 0  # images of each person of the synthetic source
    # of lighting and background of synthetic faces; 0: all the same
    config.data.scene_variation = 1.0
    # of poses and expressions of synthetic faces; 1: yaw up to 44 degrees
    config.data.motion_variation = 1.0

    # Augmentation, on the device.
    config.augment = ml_collections.ConfigDict()
    config.augment.scale = (0.95, 1.05)  # area of the crop, fraction of the image
    config.augment.ratio = (0.95, 1.05)  # width of the crop over its height
    config.augment.brightness = 0.05  # largest change, as a fraction
    config.augment.contrast = 0.05  # largest change, as a fraction
    config.augment.saturation = 0.05  # largest change, as a fraction
    config.augment.hue = 0.01  # largest change, turns
    config.augment.jitter_probability = 0.8  # of any change of colours
    config.augment.mirror_probability = 0.5  # of mirroring
    # largest standard deviation of the displacements of a random smooth warp, fraction
    # of the side; not the paper's
    config.augment.warp = 0.0
    # largest angle of a light from the side, on half of the images, degrees; 0: none
    config.augment.side_light = 0.0
    # augment an image paired with itself twice instead of mirroring it; not the paper's
    config.augment.two_views = False

    # Length and size.
    config.batch_size = 16  # pairs of images, over all devices
    config.num_epochs = 1  # epochs
    config.num_steps = 0  # steps; 0: from num_epochs
    # minutes of wall time, over all starts, after which it ends earlier; 0: no limit
    config.max_minutes = 0.0
    # split parameters and optimiser state over devices, for large widths
    config.fsdp = False
    config.compile_quickly = False  # on CPUs: optimise programs less, for short runs
    # recompute activations in the backward pass: less memory, slower
    config.remat = False

    # Logs, evaluations and checkpoints.
    config.log_every = 100  # steps
    config.eval_every = 2000  # steps
    config.eval_batches = 8  # batches of held-out people
    config.panel_every = 2000  # steps
    config.panel_rows = 8  # faces in a panel
    config.checkpoint_every = 2000  # steps
    config.keep_last = 3  # checkpoints, in addition to the best
    config.max_nonfinite = 50  # updates skipped in a row before the run stops
    config.tensorboard = True  # write event files too, if tensorflow is installed
    # first and last step of a trace in workdir/profile; (): none
    config.profile_steps = ()

    # Evaluation of the features on small sets, whenever held-out people are evaluated:
    # docs/evaluate.md.
    config.probe = ml_collections.ConfigDict()
    config.probe.task = ""  # 'lfw', 'fer2013', 'pose', 'synthetic', ...; '': none
    config.probe.path = ""  # the data set as published
    # images or pairs of each split; of 'synthetic' people, at most 64
    config.probe.limit = 1000
    return config


def choose(size: str, sizes: tuple[str, ...]) -> str:
    """Returns the size that a config is asked for, as in 'fab_net:small'.

    Raises:
      ValueError: If the config has no such size.
    """
    if size not in sizes:
        raise ValueError(
            f"this config comes as {' or '.join(repr(name) for name in sizes)}, "
            f"not {size!r}: look for it after the ':' in the config's name."
        )
    return size

"""Every field that all methods share, with its meaning, unit and default; each config starts from here.

Values are the paper's where it states them. On the command line a field is set with `--set data.path=FRAMES`
for `facecycle train`, and with `--config.data.path=FRAMES` for `python -m facecycle_jax.main`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.method = (
        ""  # the training method: a name of methods.METHODS or methods.PEERS
    )
    config.init_from = (
        ""  # runs, checkpoints, models to copy networks from by name; '': none
    )
    config.seed = 0  # of parameters, order, augmentation and noise
    # networks to keep as init_from has them, of those that the stage trains
    config.freeze = ()

    # Networks.
    config.model = ml_collections.ConfigDict()
    config.model.width = 1.0  # multiplier on all channels; 1 is the paper's
    config.model.encoder_width = 0.0  # the same of the encoders alone; 0: width
    config.model.image_size = 64  # pixels: 64, 128 or 256
    config.model.code_dim = 256  # numbers in a code
    config.model.dtype = "float32"  # of computation: 'float32' or 'bfloat16'
    config.model.trunk = (
        "vgg"  # features of generator and normaliser: frozen 'vgg', or 'learned'
    )

    # Losses; the weights are the paper's, the switches its program's.
    config.loss = ml_collections.ConfigDict()
    config.loss.vgg = (
        "random"  # path of a .npz with VGG-19 weights, or 'random' (no download)
    )
    config.loss.vgg_width = (
        0.0  # channel multiplier of VGG-19; 0: 1 for a file, else model.width
    )
    config.loss.perceptual = "gram"  # 'gram', 'feature' (place by place) or 'none'
    config.loss.perceptual_weight = 0.01  # 1; belongs to torchvision's VGG-19
    config.loss.pixel_weight = 1.0  # 1
    config.loss.symmetry_weight = 1.5  # 1
    config.loss.ssim_weight = 5.0  # 1
    config.loss.ssim_range = 1.0  # L of the SSIM constants, normalised units
    config.loss.gram_normalise = False  # divide Gram matrices by the channels too
    config.loss.noise = True  # the generator's noise while training

    # Adam and its schedule.
    config.optimiser = ml_collections.ConfigDict()
    config.optimiser.schedule_epochs = (0,)  # first epoch of each piece
    config.optimiser.schedule_rates = (5e-5,)  # learning rate of each piece
    config.optimiser.b1 = 0.5  # decay of the first moment
    config.optimiser.b2 = 0.999  # decay of the second moment
    config.optimiser.clip_norm = 0.0  # largest global norm of gradients; 0: none
    config.optimiser.accumulate = 1  # micro-batches in a batch
    config.optimiser.ema_decay = 0.0  # decay of the weight average; 0: none

    # Data: <path>/<identity>/[<video>/]<track>/*.jpg and more, see README.md.
    config.data = ml_collections.ConfigDict()
    # kind of source: 'folder', 'list', 'records' (prepared) or 'synthetic'
    config.data.source = "folder"
    config.data.path = ""  # where it is
    # 'threads' or 'tf' read while training, 'memory' or 'device' before it
    config.data.backend = "threads"
    config.data.decoder = (
        "pillow"  # 'pillow', or 'opencv': faster, slightly other pixels (extra `fast`)
    )
    config.data.memory_gb = (
        8.0  # gigabytes of decoded pictures that 'memory' and 'device' may take
    )
    config.data.min_frames = 4  # frames; shorter tracks are left out
    config.data.decode_size = 72  # pixels decoded to; room for crops of image_size
    config.data.mirror_pair_probability = (
        0.5,
    )  # of pairing with the mirror image; or one a root
    config.data.eval_fraction = 0.02  # of the people, held out
    config.data.identity_depth = 1  # folders below path that name a person
    config.data.max_tracks = 0  # tracks used; 0: all
    config.data.identities = 0  # people drawn by the synthetic source
    config.data.frames_per_track = 0  # pictures of each by the synthetic source
    config.data.scene_variation = (
        1.0  # of light and background of synthetic faces; 0: all the same
    )

    # Augmentation, on the device.
    config.augment = ml_collections.ConfigDict()
    config.augment.scale = (0.95, 1.05)  # area of the crop, parts of the picture
    config.augment.ratio = (0.95, 1.05)  # width of the crop over its height
    config.augment.brightness = 0.05  # largest change, parts of 1
    config.augment.contrast = 0.05  # largest change, parts of 1
    config.augment.saturation = 0.05  # largest change, parts of 1
    config.augment.hue = 0.01  # largest change, turns
    config.augment.jitter_probability = 0.8  # of any change of colours
    config.augment.mirror_probability = 0.5  # of mirroring
    # largest deviation of a random smooth warp, parts of the side; not the paper's
    config.augment.warp = 0.0

    # Length and size.
    config.batch_size = 16  # pairs of pictures, over all devices
    config.num_epochs = 1  # epochs
    config.num_steps = 0  # steps; 0: from num_epochs
    config.fsdp = (
        False  # split parameters and optimiser state over devices, for large widths
    )
    config.compile_quickly = False  # on CPUs: optimise programs less, for short runs
    config.remat = (
        False  # compute activations again in the backward pass: less memory, slower
    )

    # Watching and keeping.
    config.log_every = 100  # steps
    config.eval_every = 2000  # steps
    config.eval_batches = 8  # batches of held-out people
    config.panel_every = 2000  # steps
    config.panel_rows = 8  # faces in a panel
    config.checkpoint_every = 2000  # steps
    config.keep_last = 3  # checkpoints, beside the best
    config.max_nonfinite = 50  # updates skipped in a row before the run stops
    config.tensorboard = True  # write event files too, where tensorflow is installed

    # Evaluation of the features at every evaluation of held-out people, on small sets: docs/evaluate.md.
    config.probe = ml_collections.ConfigDict()
    config.probe.task = ""  # 'lfw', 'fer2013', 'pose', 'synthetic', ...; '': none
    config.probe.path = ""  # the data set as published
    config.probe.limit = (
        1000  # pictures or pairs of each split; of 'synthetic' people, at most 64
    )
    return config

"""PCL: pose-disentangled contrastive learning, three gradient steps an update.

The steps are reconstruction of an image and its mirror image, contrast of faces, and
contrast of poses. Images are in 0..1; what a batch holds is in `PclViews`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.losses import (
    contrast_accuracy,
    contrastive_logits,
    contrastive_logits_of_sets,
    info_nce,
    orthogonality,
)
from facecycle_jax.methods.base import (
    BATCH_STATS,
    SCHEDULE,
    Aux,
    Loss,
    Method,
    Objective,
    Views,
    apply_plain,
    apply_with_stats,
    carried_stats,
    flatten_pairs,
    init_with_stats,
    record_from,
)
from facecycle_jax.methods.peer_base import Config, Peer, network_options, random_views
from facecycle_jax.networks import Pcl, Tree, build_pcl
from facecycle_jax.ops import at_least_float32, normalise, pixels_to_unit
from facecycle_jax.ops.views import (
    ColourOptions,
    distant_views,
    recoloured_views,
    spread_views,
    whole_frames,
)

GROUPINGS = ("own", "published")

# The contrasts of an update, in the order of their dynamic weights.
_CONTRASTS = ("face", "pose")
# Networks that each step uses, and with that the only ones it has gradients for.
_USED = {
    "reconstruction": ("trunk", "face_head", "pose_head", "decoder"),
    "face": ("trunk", "face_head", "face_projector"),
    "pose": ("trunk", "pose_head", "pose_projector"),
}


class PclOptions(NamedTuple):
    """Switches and weights of the losses.

    Attributes:
      noise: standard deviation of what is added to images before they are encoded to be
        reconstructed.
      temperature: of both contrasts.
      mix: parameter of the symmetric Beta distribution that negatives are mixed by; 0:
        they are not mixed.
      grouping: 'own' compares each item with its own mirrored views, as the paper
        intends; 'published' with the block of views that the published program takes,
        ten views of every item of the batch.
      epoch_steps: steps that count as an epoch for the dynamic weights of the
        contrasts; 0: both weights stay 1.
    """

    noise: float = 0.4
    temperature: float = 0.07
    mix: float = 1.6
    grouping: str = "own"
    epoch_steps: int = 0


class PclViews(NamedTuple):
    """What a batch holds; float32 in 0..1, gradient maps up to about 1.2.

    Attributes:
      reconstruction: [B, H, W, 3], of the first step.
      face: [B, 2, H, W, 3], two views of each of B images.
      pose: [P, 2, H, W, 3], two views of each of P images.
      pose_negatives: [B, R, H, W, 3], K views of the mirror image of each of the same P
        images, spread over the batch: in order of rows, the first P K are those of the
        first image, then those of the second, and so on. What is left is not used. See
        `ops.views.spread_views`.
    """

    reconstruction: jax.Array
    face: jax.Array
    pose: jax.Array
    pose_negatives: jax.Array


class Mixing(NamedTuple):
    """How negatives are mixed with each other.

    Attributes:
      share: of the negative itself, in 0..1, [anchors, negatives].
      permutation: int [negatives], of the others.
    """

    share: jax.Array
    permutation: jax.Array


class Reconstruction(NamedTuple):
    """What the first step computes, of images x and their mirror images f.

    Maps [B, h, w, C].

    Attributes:
      terms: six scalars by name; their sum is the loss.
      trunk: maps of the trunk, x and f.
      face: maps of the face head, x and f.
      pose: maps of the pose head, x and f.
      decoded: images by name, the face of the first and the pose of the second.
    """

    terms: dict[str, jax.Array]
    trunk: tuple[jax.Array, jax.Array]
    face: tuple[jax.Array, jax.Array]
    pose: tuple[jax.Array, jax.Array]
    decoded: dict[str, jax.Array]


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


def _head(networks: Pcl, name: str, trees: Tree, images: jax.Array) -> jax.Array:
    """Computes a head's maps of images."""
    trunk = apply_plain(networks.trunk, trees["trunk"], images)
    return apply_plain(networks.head, trees[name], trunk)


def pcl_reconstruction(
    networks: Pcl,
    trees: Tree,
    stats: Tree,
    images: jax.Array,
    noise: tuple[jax.Array, jax.Array] | None,
    *,
    train: bool,
) -> tuple[Reconstruction, Tree]:
    """Reconstructs images and mirror images, each from the other's pose.

    Args:
      networks: the modules.
      trees: parameters by network name.
      stats: running statistics by network name.
      images: x, [B, H, W, 3] in 0..1.
      noise: what is added to x and to f before encoding, or None.
      train: whether batch statistics are used and the running ones moved.

    Returns:
      What was computed, and the statistics after it.
    """
    mirrored = jnp.flip(images, axis=2)

    def encode(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        trunk = apply_plain(networks.trunk, trees["trunk"], x)
        face = apply_plain(networks.head, trees["face_head"], trunk)
        pose = apply_plain(networks.head, trees["pose_head"], trunk)
        return trunk, face, pose

    trunk_x, face_x, pose_x = encode(images if noise is None else images + noise[0])
    trunk_f, face_f, pose_f = encode(mirrored if noise is None else mirrored + noise[1])

    # Four passes of the decoder, in the published program's order: running statistics
    # depend on it.
    decoded: dict[str, jax.Array] = {}
    for name, features in {
        "face_x_pose_f": face_x + pose_f,
        "face_f_pose_x": face_f + pose_x,
        "face_x_pose_x": face_x + pose_x,
        "face_f_pose_f": face_f + pose_f,
    }.items():
        image, stats = apply_with_stats(
            networks.decoder, "decoder", trees, stats, features, train=train
        )
        decoded[name] = image.astype(jnp.float32)

    def error(name: str, target: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(decoded[name] - target))

    terms = {
        "l1/face_of_mirrored": error("face_f_pose_x", images),
        "l1/pose_of_mirrored": error("face_x_pose_f", mirrored),
        "l1/own": error("face_x_pose_x", images),
        "l1/own_of_mirrored": error("face_f_pose_f", mirrored),
        "orthogonality/own": orthogonality(_flat(face_x), _flat(pose_x)),
        "orthogonality/of_mirrored": orthogonality(_flat(face_f), _flat(pose_f)),
    }
    found = Reconstruction(
        terms=terms,
        trunk=(trunk_x, trunk_f),
        face=(face_x, face_f),
        pose=(pose_x, pose_f),
        decoded=decoded,
    )
    return found, stats


def pcl_face_logits(
    networks: Pcl,
    trees: Tree,
    stats: Tree,
    views: jax.Array,
    mixing: Mixing | None,
    *,
    temperature: float,
    train: bool,
) -> tuple[jax.Array, Tree]:
    """Compares faces with each other.

    Args:
      networks: the modules.
      trees: parameters by network name.
      stats: running statistics by network name.
      views: [B, 2, H, W, 3] in 0..1.
      mixing: of the [2 B, 2 B - 2] negatives, or None.
      temperature: what cosines are divided by.
      train: whether batch statistics are used and the running ones moved.

    Returns:
      Logits [2 B, 2 B - 1], the positive first, rows of first views before those of
      second ones; and the statistics after it.
    """
    images = jnp.concatenate([views[:, 0], views[:, 1]])
    head = _head(networks, "face_head", trees, images)
    projected, stats = apply_with_stats(
        networks.projector, "face_projector", trees, stats, _flat(head), train=train
    )
    logits = contrastive_logits(
        at_least_float32(projected),
        temperature=temperature,
        mix=None if mixing is None else mixing.share,
        permutation=None if mixing is None else mixing.permutation,
    )
    return logits, stats


def _negatives_of_each(negatives: jax.Array, items: int) -> int:
    """Returns how many of all negatives [.., .., H, W, 3] each of some items has."""
    return negatives.shape[0] * negatives.shape[1] // items


def pcl_pose_logits(
    networks: Pcl,
    trees: Tree,
    stats: Tree,
    views: jax.Array,
    negatives: jax.Array,
    mixing: Mixing | None,
    *,
    temperature: float,
    grouping: str,
    count: int | None = None,
    train: bool,
) -> tuple[jax.Array, Tree]:
    """Compares poses with those of mirror images.

    Positives and negatives pass the projector separately: each is a batch of its own to
    the normalisation.

    Trunk and head, which are nearly all of the cost, see the negatives as the batch
    holds them, so that each device computes its share.

    Args:
      networks: the modules.
      trees: parameters by network name.
      stats: running statistics by network name.
      views: [P, 2, H, W, 3] in 0..1.
      negatives: views of the mirror images, [P, K, H, W, 3] or spread over a batch as
        in `PclViews`.
      mixing: of the [P, K] negatives, or None.
      temperature: what cosines are divided by.
      grouping: see `PclOptions`.
      count: K; None: `negatives` holds no others.
      train: whether batch statistics are used and the running ones moved.

    Returns:
      Logits [2 P, 1 + K], the positive first; and the statistics after it.
    """
    items = len(views)
    count = _negatives_of_each(negatives, items) if count is None else count

    def encode(images: jax.Array) -> jax.Array:
        return _flat(_head(networks, "pose_head", trees, images))

    def project(head: jax.Array, stats: Tree) -> tuple[jax.Array, Tree]:
        projected, stats = apply_with_stats(
            networks.projector, "pose_projector", trees, stats, head, train=train
        )
        return at_least_float32(projected), stats

    views = jnp.concatenate([views[:, 0], views[:, 1]])
    positive, stats = project(encode(views), stats)

    # [B R, D] item by item, of which the first P K rows are views.
    encoded = encode(flatten_pairs(negatives))[: items * count]
    projected, stats = project(encoded, stats)
    sets = projected.reshape(items, count, -1)
    if grouping == "published":
        # The published program lays the rows out view by view, [K, P, D], and takes
        # each K of them for one item's.
        sets = sets.swapaxes(0, 1).reshape(items, count, -1)

    logits = contrastive_logits_of_sets(
        positive,
        sets,
        temperature=temperature,
        mix=None if mixing is None else mixing.share,
        permutation=None if mixing is None else mixing.permutation,
    )
    return logits, stats


def fresh_weights() -> dict[str, jax.Array]:
    """Returns the dynamic weights' state before the first step.

    Of face and pose, in this order.
    """
    return {
        "sums": jnp.zeros(2, jnp.float32),
        "steps": jnp.zeros((), jnp.int32),
        "epochs": jnp.zeros((), jnp.int32),
        "last": jnp.ones(2, jnp.float32),
        "before": jnp.ones(2, jnp.float32),
    }


def dynamic_weights(state: Mapping[str, jax.Array]) -> jax.Array:
    """Computes both contrasts' weights [2] from the last two epochs' mean losses.

    References:
      Liu, Johns and Davison, "End-to-end multi-task learning with attention", CVPR
      2019, equation 7, with a temperature of 2.
    """
    ratio = state["last"] / state["before"]
    weights = 2.0 * jax.nn.softmax(ratio / 2.0)
    return jnp.where(state["epochs"] >= 2, weights, jnp.ones(2))


def count_losses(
    state: Mapping[str, jax.Array],
    losses: jax.Array,
    *,
    ends_step: bool,
    epoch_steps: int,
) -> dict[str, jax.Array]:
    """Adds losses to the sums of an epoch, and starts a new epoch after the last step.

    Args:
      state: the dynamic weights' state, as `fresh_weights` returns it.
      losses: [2], of face and pose; 0 for the contrast that is not counted now.
      ends_step: whether this is the last contrast of a step.
      epoch_steps: steps of an epoch. After so many, the epoch's mean losses become
        'last', those of the epoch before become 'before', and the sums begin at 0.

    Returns:
      The state after it.
    """
    sums = state["sums"] + losses
    steps = state["steps"] + int(ends_step)
    ends = steps == max(epoch_steps, 1)
    return {
        "sums": jnp.where(ends, jnp.zeros(2), sums),
        "steps": jnp.where(ends, 0, steps).astype(jnp.int32),
        "epochs": state["epochs"] + ends.astype(jnp.int32),
        "last": jnp.where(ends, sums / max(epoch_steps, 1), state["last"]),
        "before": jnp.where(ends, state["last"], state["before"]),
    }


def _init(networks: Pcl, key: jax.Array) -> tuple[Tree, Tree]:
    """Draws parameters; the second tree holds running statistics and the schedule."""
    keys = jax.random.split(key, 4)
    image = jnp.zeros((1, 64, 64, 3))
    trunk = networks.trunk.init(keys[0], image)["params"]
    maps = jnp.zeros_like(apply_plain(networks.trunk, trunk, image))

    params: Tree = {
        "trunk": trunk,
        "face_head": networks.head.init(keys[1], maps)["params"],
        "pose_head": networks.head.init(keys[2], maps)["params"],
    }
    normed, stats = init_with_stats(
        {
            "face_projector": (networks.projector, _flat(maps)),
            "pose_projector": (networks.projector, _flat(maps)),
            "decoder": (networks.decoder, maps),
        },
        keys[3],
    )
    return {**params, **normed}, {BATCH_STATS: stats, SCHEDULE: fresh_weights()}


def _draw_mixing(
    key: jax.Array | None, rows: int, count: int, *, mix: float
) -> Mixing | None:
    """Draws how [rows, count] negatives are mixed; None without a key or `mix`."""
    if key is None or not mix:
        return None
    keys = jax.random.split(key)
    return Mixing(
        share=jax.random.beta(keys[0], mix, mix, (rows, count)),
        permutation=jax.random.permutation(keys[1], count),
    )


# The losses of the three steps, `loss(params, frozen, views, key) -> (total, aux)` with
# networks and options bound; see `methods.base.Loss`.


def _reconstruction_loss(
    networks: Pcl,
    options: PclOptions,
    params: Tree,
    frozen: Tree,
    views: Any,
    key: jax.Array | None,
) -> tuple[jax.Array, Aux]:
    """Reconstructs images and mirror images."""
    train = key is not None
    images = views.reconstruction
    noise = None
    if key is not None and options.noise:
        drawn = options.noise * jax.random.normal(key, (2, *images.shape))
        noise = (drawn[0], drawn[1])

    found, stats = pcl_reconstruction(
        networks,
        {**frozen, **params},
        frozen[BATCH_STATS],
        images,
        noise,
        train=train,
    )
    total = sum(found.terms.values(), start=jnp.zeros(()))

    shown = {"input": normalise(images)}
    for name, image in found.decoded.items():
        shown[name] = normalise(jnp.clip(image, 0.0, 1.0))

    carried = carried_stats(stats, train=train)
    return total, Aux({**found.terms, "total": total}, shown, carried)


def _face_loss(
    networks: Pcl,
    options: PclOptions,
    params: Tree,
    frozen: Tree,
    views: Any,
    key: jax.Array | None,
) -> tuple[jax.Array, Aux]:
    """Contrasts faces."""
    train = key is not None
    rows = 2 * len(views.face)
    logits, stats = pcl_face_logits(
        networks,
        {**frozen, **params},
        frozen[BATCH_STATS],
        views.face,
        _draw_mixing(key, rows, rows - 2, mix=options.mix),
        temperature=options.temperature,
        train=train,
    )
    return _contrast_result("face", options, frozen, logits, stats, train=train)


def _pose_loss(
    networks: Pcl,
    options: PclOptions,
    count: int | None,
    params: Tree,
    frozen: Tree,
    views: Any,
    key: jax.Array | None,
) -> tuple[jax.Array, Aux]:
    """Contrasts poses, each with `count` views; None: with all that there are."""
    train = key is not None
    items = len(views.pose)
    if count is None:
        count = _negatives_of_each(views.pose_negatives, items)
    logits, stats = pcl_pose_logits(
        networks,
        {**frozen, **params},
        frozen[BATCH_STATS],
        views.pose,
        views.pose_negatives,
        _draw_mixing(key, items, count, mix=options.mix),
        temperature=options.temperature,
        grouping=options.grouping,
        count=count,
        train=train,
    )
    return _contrast_result("pose", options, frozen, logits, stats, train=train)


def _contrast_result(
    name: str,
    options: PclOptions,
    frozen: Tree,
    logits: jax.Array,
    stats: Tree,
    *,
    train: bool,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of one of `_CONTRASTS`, times its dynamic weight."""
    nce = jnp.mean(info_nce(logits))
    terms = {"nce": nce, "accuracy": jnp.mean(contrast_accuracy(logits))}

    total = nce
    carried = carried_stats(stats, train=train)
    if train and options.epoch_steps:
        index = _CONTRASTS.index(name)
        weight = dynamic_weights(frozen[SCHEDULE])[index]
        total = weight * nce
        terms["weight"] = weight
        losses = jnp.zeros(2).at[index].set(jax.lax.stop_gradient(nce))
        carried[SCHEDULE] = count_losses(
            frozen[SCHEDULE],
            losses,
            ends_step=name == _CONTRASTS[-1],
            epoch_steps=options.epoch_steps,
        )
    return total, Aux({**terms, "total": total}, {}, carried)


def _sum_of_losses(
    objectives: Sequence[Objective],
    params: Tree,
    frozen: Tree,
    views: Any,
    key: jax.Array | None,
) -> tuple[jax.Array, Aux]:
    """Adds up the losses of all steps, of the same parameters, without noise.

    Training calls the losses of the steps one by one instead, each with its own key.
    """
    if key is not None:
        raise ValueError("the sum of PCL's losses is for evaluation: it takes no key.")

    total = jnp.zeros(())
    terms: dict[str, jax.Array] = {}
    shown: dict[str, jax.Array] = {}
    for objective in objectives:
        value, aux = objective.loss(params, frozen, views, None)
        total = total + value
        named = {f"{objective.name}/{name}": term for name, term in aux.terms.items()}
        terms |= named
        shown |= aux.images
    return total, Aux({**terms, "total": total}, shown)


def pcl(
    networks: Pcl, options: PclOptions, *, pose_negatives: int | None = None
) -> Method:
    """Builds PCL.

    Args:
      networks: the modules.
      options: switches and weights.
      pose_negatives: number of negatives of each pose; None: all that a batch holds.

    Returns:
      The method; trains trunk, face_head, pose_head, face_projector, pose_projector and
      decoder, in three gradient steps an update. Its batches are `PclViews`.

    Raises:
      UserError: If the grouping is unknown.

    References:
      Liu et al., "Pose-disentangled contrastive learning for self-supervised facial
      representation", CVPR 2023.
    """
    if options.grouping not in GROUPINGS:
        raise UserError(
            f"loss.grouping must be one of {GROUPINGS}, got {options.grouping!r}."
        )

    losses: dict[str, Loss] = {
        "reconstruction": functools.partial(_reconstruction_loss, networks, options),
        "face": functools.partial(_face_loss, networks, options),
        "pose": functools.partial(_pose_loss, networks, options, pose_negatives),
    }
    objectives = tuple(
        Objective(name, loss, _USED[name]) for name, loss in losses.items()
    )
    return Method(
        init=functools.partial(_init, networks),
        loss=functools.partial(_sum_of_losses, objectives),
        objectives=objectives,
    )


def _networks(config: Config) -> Pcl:
    return build_pcl(**network_options(config["model"]))


def _build(config: Config, *, weights: bool) -> Method:
    del weights
    if config["model"].get("image_size", 64) != 64:
        raise UserError(
            f"model.image_size must be 64 for PCL, got {config['model']['image_size']}."
        )
    if config.get("optimiser", {}).get("accumulate", 1) > 1:
        raise UserError(
            "optimiser.accumulate must be 1 for PCL, which contrasts each item with "
            "all others of its batch."
        )
    method = pcl(
        _networks(config),
        record_from(PclOptions, config["loss"]),
        pose_negatives=config["augment"]["pose_negatives"],
    )
    return method._replace(views=_views(config))


def _views(config: Config) -> Views:
    """Views of an item: one to reconstruct, one face and one pose to contrast."""
    options = config["augment"]
    size = config["model"]["image_size"]
    items, count = options["pose_items"], options["pose_negatives"]
    colours = record_from(ColourOptions, options)

    def split(frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        # One frame for each step. Where an item has fewer, its last one serves again.
        last = frames.shape[1] - 1
        return frames[:, 0], frames[:, min(1, last)], frames[:items, min(2, last)]

    def augment(key: jax.Array, batch: Mapping[str, jax.Array]) -> PclViews:
        frames = batch["frames"]
        first, second, third = split(frames)
        keys = jax.random.split(key, 3)
        return PclViews(
            reconstruction=whole_frames(first, size=size),
            face=distant_views(keys[0], second, size=size, colours=colours),
            pose=recoloured_views(keys[1], third, size=size, count=2, colours=colours),
            pose_negatives=spread_views(
                keys[2], third, frames, size=size, count=count, colours=colours
            ),
        )

    return random_views(augment)


def _features(
    config: Config, trees: Tree, images: jax.Array, *, maps: bool
) -> jax.Array:
    """Computes the maps of the trunk."""
    # They are maps already, and flattened where features are requested.
    del maps
    found: jax.Array = apply_plain(
        _networks(config).trunk, trees["trunk"], pixels_to_unit(images)
    )
    return found


PCL = Peer(build=_build, features=_features)

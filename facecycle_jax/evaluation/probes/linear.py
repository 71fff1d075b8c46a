"""The linear protocol of the paper.

One dense layer on frozen features, by SGD with augmentation.

Pictures uint8 [N, S, S, 3]; augmentation, features and updates are one jitted program
per epoch.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.features import Encode
from facecycle_jax.ops import normalise

_GREY = (0.299, 0.587, 0.114)


class LinearOptions(NamedTuple):
    """The schedule; the defaults are the paper's.

    Attributes:
      epochs: over the training set.
      batch: pictures per update; the last, smaller batch of an epoch is left out.
      learning_rate: of the first epochs.
      decay: factor at every `decay_every` epochs.
      decay_every: epochs.
      momentum: of SGD.
      weight_decay: of weights and bias, added to the gradient.
      augment: whether training pictures are augmented.
      jitter: largest change of brightness, contrast and saturation; the paper leaves it
        open.
      hue: largest change of hue, in turns; the paper leaves it open.
    """

    epochs: int = 300
    batch: int = 256
    learning_rate: float = 30.0
    decay: float = 0.1
    decay_every: int = 80
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: bool = True
    jitter: float = 0.4
    hue: float = 0.1


class Linear(NamedTuple):
    """A trained layer.

    Attributes:
      weights: float32 [D, classes].
      bias: float32 [classes].
      losses: mean cross-entropy of every epoch.
    """

    weights: np.ndarray
    bias: np.ndarray
    losses: np.ndarray


def _window(key: jax.Array, images: jax.Array) -> jax.Array:
    """Crops windows of area .8-1.2 and ratio .8-1.2 and resizes them, in 0..1.

    No more than the picture.
    """
    count, size = images.shape[:2]
    keys = jax.random.split(key, 3)
    area = jax.random.uniform(keys[0], (count, 1), minval=0.8, maxval=1.2)
    ratio = jnp.exp(
        jax.random.uniform(
            keys[1], (count, 1), minval=math.log(0.8), maxval=math.log(1.2)
        )
    )
    extent = jnp.minimum(
        jnp.sqrt(area * jnp.concatenate([1 / ratio, ratio], axis=1)), 1.0
    )
    low = jax.random.uniform(keys[2], (count, 2)) * (1 - extent)
    centres = (jnp.arange(size) + 0.5) / size
    position = (low[..., None] + extent[..., None] * centres) * size - 0.5
    position = jnp.clip(position, 0.0, size - 1.0)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position[..., None] - jnp.arange(size)))
    images = jnp.einsum("nij,njwc->niwc", weights[:, 0], images)
    return jnp.einsum("nij,nhjc->nhic", weights[:, 1], images)


def augment(
    key: jax.Array, images: jax.Array, *, jitter: float = 0.4, hue: float = 0.1
) -> jax.Array:
    """Crops, recolours (p .8), greys (p .2) and mirrors (p .5) pictures.

    Args:
      key: random key.
      images: uint8 [N, S, S, 3].
      jitter: largest change of brightness, contrast and saturation.
      hue: largest change of hue, in turns.

    Returns:
      float32 [N, S, S, 3], normalised.

    References:
      FaceCycle (ICCV 2021), emotion recognition.
    """
    keys = jax.random.split(key, 5)
    count = images.shape[0]
    pictures = _window(keys[0], images.astype(jnp.float32) / 255.0)
    grey = jnp.asarray(_GREY)
    change = jax.random.uniform(keys[1], (4, count, 1, 1, 1), minval=-1.0, maxval=1.0)
    brightness, contrast, saturation = 1 + jitter * change[:3]
    changed = jnp.clip(pictures * brightness, 0.0, 1.0)
    mean = jnp.mean(changed @ grey, axis=(1, 2))[:, None, None, None]
    changed = jnp.clip(mean + (changed - mean) * contrast, 0.0, 1.0)
    luma = (changed @ grey)[..., None]
    changed = luma + (changed - luma) * saturation
    changed = jnp.clip(_turn_hue(changed, hue * change[3, :, 0, 0, 0]), 0.0, 1.0)
    pictures = jnp.where(_chance(keys[2], count, 0.8), changed, pictures)
    luma = jnp.broadcast_to((pictures @ grey)[..., None], pictures.shape)
    pictures = jnp.where(_chance(keys[3], count, 0.2), luma, pictures)
    return normalise(
        jnp.where(_chance(keys[4], count, 0.5), pictures[:, :, ::-1], pictures)
    )


def _chance(key: jax.Array, count: int, probability: float) -> jax.Array:
    """Draws a yes or no for every picture, bool [N, 1, 1, 1]."""
    return jax.random.bernoulli(key, probability, (count, 1, 1, 1))


def _turn_hue(pictures: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotates colours about the grey axis: [N, H, W, 3] by [N] turns."""
    cosine, sine = jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns)
    axis = jnp.ones((3, 3)) / 3
    cross = jnp.array(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]
    ) / math.sqrt(3)
    turn = (
        cosine[:, None, None] * jnp.eye(3)
        + (1 - cosine)[:, None, None] * axis
        + sine[:, None, None] * cross
    )
    return jnp.einsum("nij,nhwj->nhwi", turn, pictures)


def fit_linear(
    key: jax.Array,
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    encode: Encode | None = None,
    options: LinearOptions | None = None,
) -> Linear:
    """Trains the layer for the whole schedule.

    The last weights count, nothing is chosen.

    Args:
      key: random key, of weights, order and augmentation.
      inputs: training pictures uint8 [N, S, S, 3], or with `encode` None features [N,
        D], which are neither augmented nor scaled.
      labels: int [N].
      classes: number of classes.
      encode: traceable function from normalised pictures [B, S, S, 3] to features [B,
        D].
      options: None is the paper's schedule.

    Returns:
      The layer.

    Raises:
      ValueError: if there is less than a batch, or training diverged.

    References:
      FaceCycle (ICCV 2021), emotion recognition.
    """
    options = options or LinearOptions()
    labels = np.asarray(labels, np.int32)
    steps = len(inputs) // options.batch
    if steps < 1 or labels.shape != (len(inputs),):
        raise UserError(
            f"the linear protocol needs at least one batch of {options.batch} labelled pictures, got "
            f"{len(inputs)} pictures and {labels.shape} labels."
        )
    data = (jnp.asarray(inputs), jnp.asarray(labels))
    start_key, epoch_key = jax.random.split(key)
    parameters = _start(start_key, data[0][: options.batch], encode, classes)
    solver = _solver(options, steps)
    state = solver.init(parameters)
    epoch = jax.jit(
        functools.partial(
            _epoch, encode=encode, solver=solver, options=options, steps=steps
        )
    )
    losses = []
    for number in range(options.epochs):
        parameters, state, loss = epoch(
            parameters, state, data, jax.random.fold_in(epoch_key, number)
        )
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"the linear protocol diverged in epoch {number} at a learning rate of "
                f"{options.learning_rate}; these features are too large for it, use the logistic probe."
            )
    found = jax.device_get(parameters)
    return Linear(found["weights"], found["bias"], np.array(losses))


def _solver(options: LinearOptions, steps: int) -> optax.GradientTransformation:
    """SGD whose weight decay goes through the momentum and whose steps fall by epochs."""
    drops = range(options.decay_every, options.epochs, options.decay_every)
    rate = optax.piecewise_constant_schedule(
        options.learning_rate, {epoch * steps: options.decay for epoch in drops}
    )
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.sgd(rate, momentum=options.momentum),
    )


def _start(
    key: jax.Array, inputs: jax.Array, encode: Encode | None, classes: int
) -> dict[str, Any]:
    """Draws the layer's first weights, N(0, 0.01)."""
    shape = inputs.shape
    if encode is not None:
        shape = jax.eval_shape(lambda x: encode(normalise(x)), inputs).shape
    return {
        "weights": 0.01 * jax.random.normal(key, (shape[1], classes)),
        "bias": jnp.zeros(classes),
    }


def _epoch(
    parameters: dict[str, jax.Array],
    state: Any,
    data: tuple[jax.Array, jax.Array],
    key: jax.Array,
    *,
    encode: Encode | None,
    solver: optax.GradientTransformation,
    options: LinearOptions,
    steps: int,
) -> tuple[dict[str, jax.Array], Any, jax.Array]:
    """One pass over the training set in random order."""
    inputs, labels = data
    order_key, augment_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(labels))[: steps * options.batch]

    def loss(
        parameters: dict[str, jax.Array], features: jax.Array, labels: jax.Array
    ) -> jax.Array:
        logits = features @ parameters["weights"] + parameters["bias"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        parameters, state = carry
        chosen, number = batch
        features = inputs[chosen]
        if encode is not None:
            key = jax.random.fold_in(augment_key, number)
            pictures = normalise(features)
            if options.augment:
                pictures = augment(
                    key, features, jitter=options.jitter, hue=options.hue
                )
            features = jax.lax.stop_gradient(encode(pictures))
        value, gradient = jax.value_and_grad(loss)(parameters, features, labels[chosen])
        updates, state = solver.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    batches = (order.reshape(steps, options.batch), jnp.arange(steps))
    (parameters, state), losses = jax.lax.scan(step, (parameters, state), batches)
    return parameters, state, jnp.mean(losses)


def predict_linear(
    layer: Linear, inputs: np.ndarray, *, encode: Encode | None = None, batch: int = 256
) -> np.ndarray:
    """Predicts classes, without augmentation.

    Args:
      layer: as `fit_linear` returns it.
      inputs: pictures uint8 [N, S, S, 3], or features [N, D].
      encode: the one trained with.
      batch: pictures at a time.

    Returns:
      int32 [N].
    """

    @jax.jit
    def run(inputs: jax.Array) -> jax.Array:
        features = inputs if encode is None else encode(normalise(inputs))
        return jnp.argmax(features @ layer.weights + layer.bias, axis=1)

    parts = [
        np.asarray(run(inputs[start : start + batch]))
        for start in range(0, len(inputs), batch)
    ]
    return np.concatenate(parts).astype(np.int32)

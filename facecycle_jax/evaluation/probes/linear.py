"""The linear protocol of the paper: one dense layer on frozen features.

It is trained by SGD with augmentation. Images are uint8 [N, S, S, 3]. Augmentation,
features and updates are one jitted program per epoch.
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
from facecycle_jax.ops.augment import jitter_colours
from facecycle_jax.ops.normalisation import LUMA


class LinearOptions(NamedTuple):
    """Options of the schedule; the defaults are the paper's.

    Attributes:
      epochs: passes over the training set.
      batch: images per update. The last, smaller batch of an epoch is left out.
      learning_rate: of the first epochs.
      decay: factor at every `decay_every` epochs.
      decay_every: epochs between two decays.
      momentum: of SGD.
      weight_decay: of weights and bias, added to the gradient.
      augment: whether training images are augmented.
      jitter: largest change of brightness, contrast and saturation, as a fraction. The
        paper does not state it; the original program has this one.
      hue: largest change of hue, in turns; likewise.
    """

    epochs: int = 300
    batch: int = 256
    learning_rate: float = 30.0
    decay: float = 0.1
    decay_every: int = 80
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: bool = True
    jitter: float = 0.05
    hue: float = 0.01

    def shortened(self, epochs: int) -> "LinearOptions":
        """Returns the options for another number of epochs.

        Args:
          epochs: passes over the training set.

        Returns:
          The options, whose learning rate falls at the same fractions of the epochs.
        """
        decay_every = max(1, round(self.decay_every * epochs / self.epochs))
        return self._replace(epochs=epochs, decay_every=decay_every)


class DivergedProbeError(UserError):
    """The linear protocol diverged: its learning rate is too high for the features."""


class Linear(NamedTuple):
    """A trained dense layer.

    Attributes:
      weights: float32 [D, classes].
      bias: float32 [classes].
      losses: float64 [epochs], mean cross-entropy.
    """

    weights: np.ndarray
    bias: np.ndarray
    losses: np.ndarray


def _window(key: jax.Array, images: jax.Array) -> jax.Array:
    """Crops a random window of each image and resizes it to the image's size.

    Windows have an area of 0.8 to 1.2 of the image and a ratio of 0.8 to 1.2, but never
    exceed the image.

    Args:
      key: random key.
      images: float32 [N, S, S, 3], 0 to 1.

    Returns:
      float32 [N, S, S, 3], 0 to 1.
    """
    count, size = images.shape[:2]
    area_key, ratio_key, place_key = jax.random.split(key, 3)

    # Height and width of each window as fractions of the image, [N, 2].
    area = jax.random.uniform(area_key, (count, 1), minval=0.8, maxval=1.2)
    log_ratio = jax.random.uniform(
        ratio_key, (count, 1), minval=math.log(0.8), maxval=math.log(1.2)
    )
    ratio = jnp.exp(log_ratio)
    sides = jnp.sqrt(area * jnp.concatenate([1 / ratio, ratio], axis=1))
    extent = jnp.minimum(sides, 1.0)
    low = jax.random.uniform(place_key, (count, 2)) * (1 - extent)

    # Where the pixels of the result lie in the image, [N, 2, S], in pixels.
    centres = (jnp.arange(size) + 0.5) / size
    position = (low[..., None] + extent[..., None] * centres) * size - 0.5
    position = jnp.clip(position, 0.0, size - 1.0)

    # Bilinear resizing is separable: one matrix [S, S] for rows, one for columns.
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position[..., None] - jnp.arange(size)))
    images = jnp.einsum("nij,njwc->niwc", weights[:, 0], images)
    return jnp.einsum("nij,nhjc->nhic", weights[:, 1], images)


def augment(
    key: jax.Array, images: jax.Array, *, jitter: float = 0.05, hue: float = 0.01
) -> jax.Array:
    """Augments images by cropping, colour jitter, greying and mirroring.

    Every image is cropped. Colours change with probability 0.8, images become grey with
    0.2 and are mirrored with 0.5.

    Args:
      key: random key.
      images: uint8 [N, S, S, 3].
      jitter: largest change of brightness, contrast and saturation, as a fraction.
      hue: largest change of hue, in turns.

    Returns:
      float32 [N, S, S, 3], normalised.

    References:
      FaceCycle (ICCV 2021), emotion recognition.
    """
    keys = jax.random.split(key, 5)
    count = images.shape[0]
    images = _window(keys[0], images.astype(jnp.float32) / 255.0)

    # Each image has a change of its own.
    change = functools.partial(
        jitter_colours, brightness=jitter, contrast=jitter, saturation=jitter, hue=hue
    )
    changed = jax.vmap(change)(jax.random.split(keys[1], count), images)
    images = jnp.where(_chance(keys[2], count, 0.8), changed, images)

    # Grey images keep their three channels.
    luma = jnp.broadcast_to((images @ jnp.asarray(LUMA))[..., None], images.shape)
    images = jnp.where(_chance(keys[3], count, 0.2), luma, images)

    images = jnp.where(_chance(keys[4], count, 0.5), images[:, :, ::-1], images)
    return normalise(images)


def _chance(key: jax.Array, count: int, probability: float) -> jax.Array:
    """Draws a yes or no for every image, bool [N, 1, 1, 1]."""
    return jax.random.bernoulli(key, probability, (count, 1, 1, 1))


def fit_linear(
    key: jax.Array,
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    encode: Encode | None = None,
    options: LinearOptions | None = None,
) -> Linear:
    """Trains the layer for the whole schedule and returns the last weights.

    Args:
      key: random key for weights, order and augmentation.
      inputs: training images uint8 [N, S, S, 3], or with `encode` None features [N, D],
        which are neither augmented nor scaled.
      labels: int [N].
      classes: number of classes.
      encode: traceable function from normalised images [B, S, S, 3] to features [B, D].
      options: None means the paper's schedule.

    Returns:
      The layer.

    Raises:
      UserError: If there is less than a batch.
      DivergedProbeError: If training diverged.

    References:
      FaceCycle (ICCV 2021), emotion recognition.
    """
    options = options or LinearOptions()
    labels = np.asarray(labels, np.int32)
    steps = len(inputs) // options.batch
    if steps < 1 or labels.shape != (len(inputs),):
        raise UserError(
            f"the linear protocol needs at least one batch of {options.batch} labelled "
            f"images, got {len(inputs)} images and {labels.shape} labels."
        )

    data = (jnp.asarray(inputs), jnp.asarray(labels))
    start_key, epoch_key = jax.random.split(key)
    parameters = _start(start_key, data[0][: options.batch], encode, classes)
    solver = _solver(options, steps)
    state = solver.init(parameters)
    run_epoch = functools.partial(
        _epoch, encode=encode, solver=solver, options=options, steps=steps
    )
    epoch = jax.jit(run_epoch)

    losses = []
    for number in range(options.epochs):
        number_key = jax.random.fold_in(epoch_key, number)
        parameters, state, loss = epoch(parameters, state, data, number_key)
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            raise DivergedProbeError(
                f"the linear protocol diverged in epoch {number} at a learning rate of "
                f"{options.learning_rate}; these features are too large for it, "
                "use the logistic probe."
            )

    found = jax.device_get(parameters)
    return Linear(found["weights"], found["bias"], np.array(losses))


def _solver(options: LinearOptions, steps: int) -> optax.GradientTransformation:
    """Builds SGD with weight decay and a learning rate that falls at some epochs."""
    epochs = range(options.decay_every, options.epochs, options.decay_every)
    drops = {epoch * steps: options.decay for epoch in epochs}
    rate = optax.piecewise_constant_schedule(options.learning_rate, drops)

    # Decay comes before the momentum, as in the SGD of PyTorch.
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.sgd(rate, momentum=options.momentum),
    )


def _start(
    key: jax.Array, inputs: jax.Array, encode: Encode | None, classes: int
) -> dict[str, Any]:
    """Draws the initial weights of the layer, with standard deviation 0.01."""
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
    """Trains for one epoch, in random order; see `fit_linear`."""
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
            images = normalise(features)
            if options.augment:
                key = jax.random.fold_in(augment_key, number)
                images = augment(key, features, jitter=options.jitter, hue=options.hue)
            features = jax.lax.stop_gradient(encode(images))

        value, gradient = jax.value_and_grad(loss)(parameters, features, labels[chosen])
        updates, state = solver.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    batches = (order.reshape(steps, options.batch), jnp.arange(steps))
    (parameters, state), losses = jax.lax.scan(step, (parameters, state), batches)
    return parameters, state, jnp.mean(losses)


def predict_linear(
    layer: Linear, inputs: np.ndarray, *, encode: Encode | None = None, batch: int = 256
) -> np.ndarray:
    """Predicts classes without augmentation.

    Args:
      layer: as returned by `fit_linear`.
      inputs: images uint8 [N, S, S, 3], or features [N, D].
      encode: the function that the layer was trained with.
      batch: images at a time.

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

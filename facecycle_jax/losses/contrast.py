"""Contrastive losses with mixed negatives, and the orthogonality of features.

Projections may have any length and are normalised here. Of two views [2 B, D], rows i
and i + B belong together.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from facecycle_jax.ops import at_least_float32, unit_length

# Squared norms below this are those of zero. The derivative of a cosine divides by the
# product of two squared norms, which float32 must hold.
_TINY = 1e-12
# TPUs and GPUs round the factors of a product by default. A cosine is divided by a
# small temperature, which enlarges its error.
_PRECISION = lax.Precision.HIGHEST
_product = functools.partial(jnp.matmul, precision=_PRECISION)


def _lengths(square: jax.Array) -> jax.Array:
    """Computes lengths from their squares, above 0 so that dividing is safe."""
    return jnp.sqrt(jnp.maximum(square, _TINY))


def contrastive_logits(
    projections: jax.Array,
    *,
    temperature: float,
    mix: jax.Array | None = None,
    permutation: jax.Array | None = None,
) -> jax.Array:
    """Compares every view with its partner, and with all other rows as negatives.

    With `mix`, a negative n is replaced by b n + (1 - b) n' before it is normalised,
    where n' is the negative at the permuted index. All products come from one Gram
    matrix, so the mixed negatives [2 B, 2 B - 2, D] are never built.

    Args:
      projections: [2 B, D], first views before second views.
      temperature: divisor of the cosines.
      mix: b, [2 B, 2 B - 2] in 0..1; None does not mix.
      permutation: int [2 B - 2], shared by all rows; None if `mix` is None.

    Returns:
      [2 B, 2 B - 1]: the positive, then the negatives by row number.

    References:
      Liu et al., "Pose-disentangled contrastive learning", CVPR 2023.
    """
    rows = projections.shape[0]
    half = rows // 2

    # All inner products [2 B, 2 B], and the length of every projection.
    gram = _product(projections, projections.T)
    square = jnp.diagonal(gram)
    length = _lengths(square)

    row = jnp.arange(rows)
    partner = (row + half) % rows
    positive = gram[row, partner] / (length * length[partner])

    # Row numbers of the negatives of each row, [2 B, 2 B - 2]: all but itself and its
    # partner. Each number steps over the smaller of the two, then over the larger.
    first = jnp.minimum(row, partner)[:, None]
    second = jnp.maximum(row, partner)[:, None]
    index = jnp.arange(rows - 2)[None, :]
    negative = index + (index >= first)
    negative = negative + (negative >= second)

    dots = gram[row[:, None], negative]
    squares = square[negative]
    if mix is not None:
        other = negative[:, permutation]
        cross = gram[negative, other]

        # The product of b n + (1 - b) n' with the anchor, and its squared length, from
        # the Gram matrix.
        dots = mix * dots + (1 - mix) * gram[row[:, None], other]
        squares = (
            mix**2 * squares
            + (1 - mix) ** 2 * square[other]
            + 2 * mix * (1 - mix) * cross
        )

    negatives = dots / (length[:, None] * _lengths(squares))
    return jnp.concatenate([positive[:, None], negatives], axis=1) / temperature


def contrastive_logits_of_sets(
    projections: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float,
    mix: jax.Array | None = None,
    permutation: jax.Array | None = None,
) -> jax.Array:
    """Compares every view with its partner, and with a set of negatives per item.

    Args:
      projections: [2 B, D], first views before second views.
      negatives: [B, K, D], shared by both views of an item.
      temperature: divisor of the cosines.
      mix: [B, K] in 0..1, see `contrastive_logits`; None does not mix.
      permutation: int [K], shared by all items; None if `mix` is None.

    Returns:
      [2 B, K + 1]: the positive, then the negatives.
    """
    half = projections.shape[0] // 2
    if mix is not None:
        share = mix[..., None]
        negatives = share * negatives + (1 - share) * negatives[:, permutation]

    unit = unit_length(projections)
    negatives = unit_length(negatives)

    # [2 B, 1], then both views against their item's negatives, [2 B, K].
    positive = jnp.sum(unit * jnp.roll(unit, half, axis=0), axis=-1, keepdims=True)
    views = unit.reshape(2, half, -1)
    against = jnp.einsum(
        "vbd,bkd->vbk", views, negatives, precision=_PRECISION
    ).reshape(2 * half, -1)
    return jnp.concatenate([positive, against], axis=1) / temperature


def info_nce(logits: jax.Array) -> jax.Array:
    """Computes the cross-entropy of the positive, the first of each row.

    Args:
      logits: [N, K + 1].

    Returns:
      [N].
    """
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


def contrast_accuracy(logits: jax.Array) -> jax.Array:
    """Checks whether the positive, the first of each row, is above all negatives.

    A positive that equals a negative does not count. Otherwise projections that are all
    the same, which tell nothing apart, would count as all right.

    Args:
      logits: [N, K + 1].

    Returns:
      float32 [N], 1 or 0.
    """
    above = logits[:, :1] > logits[:, 1:]
    return jnp.all(above, axis=1).astype(jnp.float32)


def orthogonality(a: jax.Array, b: jax.Array) -> jax.Array:
    """Measures how far two sets of features vary together.

    Args:
      a: [N, D].
      b: [N, D].

    Returns:
      Scalar, float32 at least, the mean square of A^T B [D, D]. The rows of A and B are
      the centred features, divided by their lengths, which get no gradient.
    """

    def rows(x: jax.Array) -> jax.Array:
        # The mean of many squares below 1 would be lost in bfloat16.
        x = at_least_float32(x)
        x = x - jnp.mean(x, axis=0, keepdims=True)
        # Without the stop, the root's derivative at 0 would be infinite.
        length = jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1, keepdims=True))
        return x / (length + 1e-6)

    a = rows(a)
    b = rows(b)

    # |A^T B|^2 is the inner product of the two [N, N] Gram matrices.
    total = jnp.sum(_product(a, a.T) * _product(b, b.T))
    return total / (a.shape[1] * b.shape[1])

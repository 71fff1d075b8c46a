"""Contrastive losses with mixed negatives, and the orthogonality of two sets of features.

Projections are of any length; they are normalised here. Row i of two views [2 B, D] and
row i + B belong together.
"""

import jax
import jax.numpy as jnp

# Squared norms below this are those of zero.
_TINY = 1e-24


def _lengths(square: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(square, _TINY))


def mixed_logits(
    projections: jax.Array,
    *,
    temperature: float,
    mix: jax.Array | None = None,
    permutation: jax.Array | None = None,
) -> jax.Array:
    """Compares every view with its partner, and with all other rows as negatives.

    A negative n is replaced by b n + (1 - b) n' before it is normalised, with n' the
    negative at the permuted place. All products come from one Gram matrix, so that the
    [2B, 2B - 2, D] mixed negatives are never built.

    Args:
      projections: [2 B, D], first views before second views.
      temperature: what cosines are divided by.
      mix: b, [2 B, 2 B - 2] in 0..1; None: negatives as they are.
      permutation: int [2 B - 2], shared by all rows; None with `mix` None.

    Returns:
      [2 B, 2 B - 1]: the positive, then the negatives by row number.

    References:
      Liu et al., "Pose-disentangled contrastive learning", CVPR 2023.
    """
    rows = projections.shape[0]
    half = rows // 2
    gram = projections @ projections.T
    square = jnp.diagonal(gram)
    length = _lengths(square)

    row = jnp.arange(rows)
    partner = (row + half) % rows
    positive = gram[row, partner] / (length * length[partner])

    # The other rows of each row, by number: skip itself and its partner.
    first = jnp.minimum(row, partner)[:, None]
    second = jnp.maximum(row, partner)[:, None]
    place = jnp.arange(rows - 2)[None, :]
    negative = place + (place >= first)
    negative = negative + (negative >= second)

    dots = gram[row[:, None], negative]
    squares = square[negative]
    if mix is not None:
        other = negative[:, permutation]
        cross = gram[negative, other]
        # |b n + (1 - b) n'|^2 and its product with the anchor, from the Gram matrix.
        dots = mix * dots + (1 - mix) * gram[row[:, None], other]
        squares = (
            mix**2 * squares
            + (1 - mix) ** 2 * square[other]
            + 2 * mix * (1 - mix) * cross
        )

    negatives = dots / (length[:, None] * _lengths(squares))
    return jnp.concatenate([positive[:, None], negatives], axis=1) / temperature


def mixed_logits_of_sets(
    projections: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float,
    mix: jax.Array | None = None,
    permutation: jax.Array | None = None,
) -> jax.Array:
    """Compares every view with its partner, and with a set of negatives that each item has of its own.

    Args:
      projections: [2 B, D], first views before second views.
      negatives: [B, K, D].
      temperature: what cosines are divided by.
      mix: [B, K] in 0..1, see `mixed_logits`; None: negatives as they are.
      permutation: int [K], shared by all items.

    Returns:
      [2 B, K + 1]: the positive, then the negatives.
    """
    half = projections.shape[0] // 2
    if mix is not None:
        negatives = (
            mix[..., None] * negatives
            + (1 - mix[..., None]) * negatives[:, permutation]
        )

    unit = projections / _lengths(
        jnp.sum(jnp.square(projections), axis=-1, keepdims=True)
    )
    negatives = negatives / _lengths(
        jnp.sum(jnp.square(negatives), axis=-1, keepdims=True)
    )

    positive = jnp.sum(unit * jnp.roll(unit, half, axis=0), axis=-1, keepdims=True)
    views = unit.reshape(2, half, -1)
    against = jnp.einsum("vbd,bkd->vbk", views, negatives).reshape(2 * half, -1)
    return jnp.concatenate([positive, against], axis=1) / temperature


def info_nce(logits: jax.Array) -> jax.Array:
    """Computes the cross-entropy of the positive, the first of each row.

    [N, K + 1] to [N].
    """
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


def orthogonality(a: jax.Array, b: jax.Array) -> jax.Array:
    """Measures how far two sets of features vary together.

    Args:
      a: [N, D].
      b: [N, D].

    Returns:
      Scalar, the mean square of A^T B [D, D] of the centred features, each row divided
      by its length, which gets no gradient.
    """

    def rows(x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, axis=0, keepdims=True)
        # The root has no derivative at 0, and none is wanted.
        length = jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1, keepdims=True))
        return x / (length + 1e-6)

    a, b = rows(a), rows(b)
    # |A^T B|^2 is the inner product of the two [N, N] Gram matrices.
    total = jnp.sum((a @ a.T) * (b @ b.T))
    return total / (a.shape[1] * b.shape[1])

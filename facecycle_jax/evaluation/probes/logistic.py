"""Multinomial logistic regression to convergence: a probe without a learning rate.

Features [N, D] of any scale are standardised by their mean and standard deviation on
the training set. The only choice is the strength of the L2 penalty. It is made by
cross-validation on the training set.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from facecycle_jax.errors import UserError
from facecycle_jax.evaluation.probes.penalties import choose_penalty
from facecycle_jax.evaluation.scaling import second_moments, standardising

log = logging.getLogger(__name__)

# The objective is the mean cross-entropy plus strength / 2 |W|^2. The grid grows as
# long as its best value is at an end.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)


class Logistic(NamedTuple):
    """A fitted probe.

    Attributes:
      mean: float32 [D], of the training features.
      scale: float32 [D], 1 over their standard deviation, 0 for constant features.
      weights: float32 [D, classes].
      bias: float32 [classes].
      strength: the chosen L2 penalty.
      validation: cross-validated accuracy by strength, empty if there was no choice.
      at_edge: whether the penalty is at an end of those tried, so that one beyond it
        may be better.
      gradient_norm: norm of the objective's gradient at the solution, in the solver's
        variables.
      iterations: L-BFGS iterations of the last fit.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    strength: float
    validation: dict[float, float]
    at_edge: bool
    gradient_norm: float
    iterations: int

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicts classes int32 [N] of features [N, D]."""
        standard = (np.asarray(features, np.float32) - self.mean) * self.scale
        return np.argmax(standard @ self.weights + self.bias, axis=1).astype(np.int32)


def _preconditioner(
    covariance: np.ndarray, strength: float, *, classes: int
) -> np.ndarray:
    """Computes a preconditioner A [D, D] for the weights.

    A A' is the inverse of the objective's curvature at equally likely classes. In the
    variables v, with weights = A v, the objective is nearly isotropic, so that L-BFGS
    converges in tens of iterations however features are correlated.
    """
    # Imported here because it takes 0.2 s, and no command but a probe needs it.
    import scipy.linalg

    curvature = covariance / classes
    curvature[np.diag_indices_from(curvature)] += strength

    # With the Cholesky factor L of the curvature, A is the transposed inverse of L.
    factor = scipy.linalg.cholesky(
        curvature, lower=True, overwrite_a=True, check_finite=False
    )
    inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
    return np.asarray(inverse.T, np.float32)


def _objective(
    parameters: dict[str, jax.Array],
    preconditioner: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    weight: jax.Array,
    strength: jax.Array,
) -> jax.Array:
    """Computes the weighted mean cross-entropy plus the penalty.

    The bias is not penalised.
    """
    weights = preconditioner @ parameters["weights"]
    logits = features @ weights + parameters["bias"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    penalty = 0.5 * strength * jnp.sum(jnp.square(weights))
    return jnp.sum(losses * weight) / jnp.sum(weight) + penalty


@functools.partial(jax.jit, static_argnames=("classes", "iterations"))
def _minimise(
    preconditioner: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    weight: jax.Array,
    strength: jax.Array,
    *,
    classes: int,
    tolerance: jax.Array,
    iterations: int,
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Minimises the objective by L-BFGS.

    It ends once the norm of the gradient in the solver's variables is at most the
    tolerance, or after the given number of iterations.

    Returns:
      Weights and bias, the norm of the gradient, and the number of iterations.
    """
    loss = functools.partial(
        _objective,
        preconditioner=preconditioner,
        features=features,
        labels=labels,
        weight=weight,
        strength=strength,
    )
    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        parameters, state, _, count = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = solver.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=loss
        )
        parameters = optax.apply_updates(parameters, updates)

        # The line search has computed the gradient at the new point.
        norm = optax.tree.norm(optax.tree.get(state, "grad"))
        return parameters, state, norm, count + 1

    def unfinished(carry: Any) -> jax.Array:
        _, _, norm, count = carry
        return (norm > tolerance) & (count < iterations)

    start = {
        "weights": jnp.zeros((features.shape[1], classes)),
        "bias": jnp.zeros(classes),
    }
    carry = (start, solver.init(start), jnp.float32(jnp.inf), jnp.int32(0))
    parameters, _, norm, count = jax.lax.while_loop(unfinished, step, carry)

    # Back from the solver's variables.
    weights = preconditioner @ parameters["weights"]
    return {**parameters, "weights": weights}, norm, count


def fold_numbers(labels: np.ndarray, *, folds: int, seed: int = 0) -> np.ndarray:
    """Assigns examples to folds with the same fraction of every class.

    Args:
      labels: int [N].
      folds: number of folds, 2 or more.
      seed: of the order within a class.

    Returns:
      int [N], 0 to folds - 1.

    Raises:
      UserError: If there are fewer examples than folds.
    """
    if not 2 <= folds <= len(labels):
        raise UserError(
            f"cross-validation in {folds} folds needs at least {max(folds, 2)} "
            f"examples and 2 folds, got {len(labels)} examples."
        )

    # Examples sorted by class, at random within a class, go to the folds one by one.
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    numbers = np.empty(len(labels), np.int64)
    numbers[order] = np.arange(len(labels)) % folds
    return numbers


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    seed: int = 0,
    tolerance: float = 1e-4,
    iterations: int = 1000,
) -> Logistic:
    """Fits the probe, with a penalty chosen by cross-validation on the training set.

    Args:
      features: [N, D], training set only.
      labels: int [N].
      classes: number of classes.
      strengths: penalties to choose from, above 0. Ten times stronger or weaker ones
        are tried while an end of them is the best. A single one is used without
        cross-validation.
      folds: number of folds of the cross-validation.
      seed: of the folds.
      tolerance: gradient norm at which a fit has converged.
      iterations: most iterations of one fit. A final fit that has not converged by then
        causes a warning in the log.

    Returns:
      The probe, fitted on all training examples.

    Raises:
      UserError: If features are not finite, a label is out of range, or a penalty is 0
        or less.
    """
    features = np.asarray(features, np.float32)
    labels = np.asarray(labels, np.int32)
    if features.ndim != 2 or labels.shape != (len(features),) or not len(labels):
        raise UserError(
            "features [N, D] and labels [N] are needed, "
            f"got {features.shape}, {labels.shape}."
        )
    if not np.isfinite(features).all():
        raise UserError(
            "features have values that are not finite; "
            "the model that made them is broken."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}."
        )

    solve = functools.partial(
        _fit_each,
        labels=labels,
        classes=classes,
        tolerance=tolerance,
        iterations=iterations,
    )

    def accuracies(path: Sequence[float]) -> dict[float, float]:
        """Computes the accuracy over left-out folds for each penalty."""
        fold = fold_numbers(labels, folds=folds, seed=seed)
        hits = dict.fromkeys(path, 0)

        for k in range(folds):
            left_out = fold == k
            for fitted in solve(features, ~left_out, path):
                right = fitted.predict(features[left_out]) == labels[left_out]
                hits[fitted.strength] += int(np.sum(right))

        return {strength: count / len(labels) for strength, count in hits.items()}

    choice = choose_penalty(strengths, accuracies)
    if choice.at_edge:
        log.warning(
            "The penalty chosen, %g, is at an end of those tried.", choice.strength
        )

    every_example = np.ones(len(labels), bool)
    last = solve(features, every_example, [choice.strength])[0]
    if last.gradient_norm > tolerance:
        log.warning(
            "Logistic regression stopped after %d iterations at a gradient norm of "
            "%.1e, above %.1e.",
            last.iterations,
            last.gradient_norm,
            tolerance,
        )
    return last._replace(validation=choice.validation, at_edge=choice.at_edge)


def _fit_each(
    features: np.ndarray,
    chosen: np.ndarray,
    strengths: Sequence[float],
    *,
    labels: np.ndarray,
    classes: int,
    tolerance: float,
    iterations: int,
) -> list[Logistic]:
    """Fits the chosen examples for each penalty."""
    mean, scale = standardising(features[chosen])
    standard = (features - mean) * scale

    inside = standard[chosen]
    covariance = second_moments(inside) / len(inside)

    # Left-out examples stay in place with weight 0, so that all folds have one shape
    # and share one compilation.
    data = (
        jnp.asarray(standard),
        jnp.asarray(labels),
        jnp.asarray(chosen, jnp.float32),
    )

    fitted = []
    for strength in strengths:
        preconditioner = _preconditioner(covariance, strength, classes=classes)
        parameters, norm, count = _minimise(
            jnp.asarray(preconditioner),
            *data,
            jnp.float32(strength),
            classes=classes,
            tolerance=jnp.float32(tolerance),
            iterations=iterations,
        )
        found = jax.device_get(parameters)
        fitted.append(
            Logistic(
                mean=mean,
                scale=scale,
                weights=found["weights"],
                bias=found["bias"],
                strength=strength,
                validation={},
                at_edge=False,
                gradient_norm=float(norm),
                iterations=int(count),
            )
        )
    return fitted

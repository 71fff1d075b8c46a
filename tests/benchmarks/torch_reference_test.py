"""The benchmark's PyTorch reference reproduces the original program's numbers.

Tolerances as in tests/methods/golden_test.py.
"""

import functools

import golden as reference
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from tests.reference_torch.training import TRAINED, Reference, load_trees  # noqa: E402

STAGES = {"motion": "motion_cycle", "identity": "identity_cycle"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.cache
def run(stage):
    """Runs three Adam steps on the reference batch without noise.

    The gradients are those of the first step.
    """
    model = Reference(STAGES[stage])
    load_trees(model, reference.trees())
    x = (
        reference.golden()["images_u8"] / np.float32(255) - np.float32(MEAN)
    ) / np.float32(STD)
    x = torch.tensor(x.transpose(0, 3, 1, 2))
    trained = dict(model.trained())
    b2 = {"motion": 0.999, "identity": 0.9}[stage]
    optimiser = torch.optim.Adam(trained.values(), lr=1e-4, betas=(0.5, b2))
    totals, first = [], None
    for _ in range(3):
        optimiser.zero_grad()
        total, terms = model(x, noise=False)
        total.backward()
        if first is None:
            grads = {
                name: p.grad.double().numpy().copy() for name, p in trained.items()
            }
            first = {name: value.item() for name, value in terms.items()}, grads
        optimiser.step()
        totals.append(total.item())
    params = {name: p.detach().double().numpy() for name, p in trained.items()}
    return totals, *first, params


@pytest.mark.parametrize("stage", list(STAGES))
def test_names_and_shapes_are_the_checkpoints(stage):
    expected = {
        f"{module}.{name}": array.shape
        for module, arrays in reference.torch_state().items()
        for name, array in arrays.items()
        if stage == "identity" or module in TRAINED["motion_cycle"]
    }
    state = Reference(STAGES[stage]).state_dict()
    ours = {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.startswith("vgg.")
    }
    assert ours == expected


@pytest.mark.parametrize("stage", list(STAGES))
def test_losses_agree_with_reference(stage):
    totals, terms, _, _ = run(stage)
    numbers = reference.golden()
    np.testing.assert_allclose(
        list(terms.values()), numbers[f"{stage}/terms"], rtol=1e-4
    )
    np.testing.assert_allclose(
        totals, numbers[f"{stage}/total_loss_per_step"], rtol=1e-4
    )


@pytest.mark.parametrize("stage", list(STAGES))
def test_gradients_and_updates_agree_with_reference(stage):
    _, _, grads, params = run(stage)
    numbers = reference.golden()
    names = list(numbers[f"{stage}/grad_names"])
    assert set(names) == set(grads)
    rows = zip(
        names,
        numbers[f"{stage}/grad_l2"],
        numbers[f"{stage}/param_l2_after"],
        strict=True,
    )
    for name, l2, after in rows:
        tolerance = 2e-3 if name.split(".")[-2] in ("g", "theta", "phi") else 1e-3
        assert abs(np.linalg.norm(grads[name]) - l2) <= tolerance * l2 + 1e-7, name
        assert abs(np.linalg.norm(params[name]) - after) <= 1e-4 * after, name

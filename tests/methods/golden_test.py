"""Both cycles against the numbers of the original program, at the paper's size.

Tolerances: 1e-4 relative for outputs, losses and the losses of the three Adam steps.
Images warped by the image warp get 2e-4 absolute: a sampling position that differs in
its last bit moves a sample by up to the local contrast (about 4 units a pixel) times
1e-5. Gradients get 1e-3 of the tensor's norm; their sums get 1e-3 of norm * sqrt(size),
the size a sum of independent entries has; twice that for the attention's 1x1
convolutions, whose gradients are what remains after softmaxes cancel most of it. Norms
of trained tensors after three Adam steps get 1e-4 of the norm.

Stage 2's gradients get three times as much, because the suite compiles without
optimisation: its sums are then longer, and one tensor of the normaliser is off by 0.1
to 0.2 %, depending on the processor. A slow test compiles them as users do, and asks
for 1e-3. In 64 bits, that tensor differs from the reference by 0.03 %.
"""

import functools
import subprocess
import sys
from typing import Any

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from several import environment

from facecycle_jax.interop.original_names import to_torch
from facecycle_jax.methods import identity_cycle, motion_cycle
from facecycle_jax.networks import make_face_networks
from facecycle_jax.ops import normalise

MODEL = {
    "width": 1.0,
    "image_size": 64,
    "code_dim": 256,
    "dtype": "float32",
    "trunk": "vgg",
}
TRAINED = {
    "motion": ("motion_encoder", "flow_decoder", "generator"),
    "identity": ("identity_encoder", "normaliser"),
}
TERMS = {
    "motion": [
        "l1/reconstruction",
        "l1/autoencoded",
        "l1/neutral_warped_back",
        "l1/warped_back",
        "gram/conv2_1",
        "gram/conv3_1",
        "gram/conv4_1",
        "ssim/reconstruction",
        "ssim/autoencoded",
        "ssim/warped_back",
        "symmetry/neutral",
        "symmetry/warped",
    ],
    "identity": [
        "l1/reconstruction",
        "l1/restored_warped_back",
        "l1/restored",
        "gram/conv2_1",
        "gram/conv3_1",
        "gram/conv4_1",
        "ssim/reconstruction",
        "ssim/restored_warped_back",
        "symmetry/restored",
        "margin",
    ],
}
PICTURES = {
    "motion": {
        "code": "code",
        "flow": "flow",
        "backflow": "backward_flow",
        "neutral": "neutral",
        "recon": "reconstruction",
        "autoencoded": "autoencoded",
        "direct_forward": "warped",
        "direct_backward": "warped_back",
        "swap_backward": "neutral_warped_back",
    },
    "identity": {
        "code": "identity_code",
        "de_identified": "mean_face",
        "batch_mean": "batch_mean",
        "re_identified": "restored",
    },
}


@functools.cache
def run(stage: str) -> dict[str, Any]:
    """Three Adam steps of one stage on the reference batch, without noise."""
    make = {"motion": motion_cycle, "identity": identity_cycle}[stage]
    method = make(make_face_networks(MODEL), reference.vgg())
    trees = reference.trees()
    params = {name: trees[name] for name in TRAINED[stage]}
    frozen = {name: tree for name, tree in trees.items() if name not in params}
    images = normalise(jnp.asarray(reference.input_images()))
    optimiser = optax.adam(1e-4, b1=0.5, b2={"motion": 0.999, "identity": 0.9}[stage])
    opt_state = optimiser.init(params)

    # Arguments: of constant weights the compiler computes the VGG's maps itself, for
    # most of a minute.
    @jax.jit
    def step(params, opt_state, frozen):
        (total, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, frozen, images, None
        )
        updates, opt_state = optimiser.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, total, aux, grads

    totals, first = [], None
    for _ in range(3):
        params, opt_state, total, aux, grads = step(params, opt_state, frozen)
        totals.append(float(total))
        first = first or (aux, grads)
    return {"totals": totals, "aux": first[0], "grads": first[1], "params": params}


def torch_named(trees: dict) -> dict[str, np.ndarray]:
    """The trained arrays by the names of the reference."""
    return {f"{module}.{name}": array for module, name, array in to_torch(trees)}


@pytest.mark.parametrize("stage", ["motion", "identity"])
def test_images_agree_with_reference(stage):
    images = run(stage)["aux"].images
    for key, name in PICTURES[stage].items():
        expected = reference.golden()[f"{stage}/{key}"]
        if len(expected) > 1:
            expected = reference.paired(expected)
        np.testing.assert_allclose(
            images[name], expected, rtol=1e-4, atol=2e-4, err_msg=key
        )


@pytest.mark.parametrize("stage", ["motion", "identity"])
def test_loss_terms_agree_with_reference(stage):
    terms = run(stage)["aux"].terms
    assert set(terms) == {*TERMS[stage], "total"}
    ours = [float(terms[name]) for name in TERMS[stage]]
    np.testing.assert_allclose(ours, reference.golden()[f"{stage}/terms"], rtol=1e-4)


@pytest.mark.parametrize("stage", ["motion", "identity"])
def test_three_adam_steps_agree_with_reference(stage):
    expected = reference.golden()[f"{stage}/total_loss_per_step"]
    np.testing.assert_allclose(run(stage)["totals"], expected, rtol=1e-4)


def assert_gradients(stage, grads, *, tolerance):
    numbers = reference.golden()
    names = list(numbers[f"{stage}/grad_names"])
    assert set(names) == set(grads)
    for name, l2, total in zip(
        names, numbers[f"{stage}/grad_l2"], numbers[f"{stage}/grad_sum"], strict=True
    ):
        grad = grads[name].astype(np.float64)
        # Gradients that vanish in exact arithmetic are rounding noise on both sides.
        noise = 1e-7
        attention = name.split(".")[-2] in ("g", "theta", "phi")
        allowed = (2 if attention else 1) * tolerance * l2
        assert abs(np.linalg.norm(grad) - l2) <= allowed + noise, name
        assert abs(grad.sum() - total) <= allowed * np.sqrt(grad.size) + noise, name


# Relative errors of gradients' norms. How they are rounded depends on the processor.
TOLERANCES = {"motion": 1e-3, "identity": 3e-3}


@pytest.mark.parametrize("stage", TOLERANCES)
def test_gradients_agree_with_reference(stage):
    gradients = torch_named(run(stage)["grads"])
    assert_gradients(stage, gradients, tolerance=TOLERANCES[stage])


@pytest.mark.slow
@pytest.mark.parametrize("stage", TOLERANCES)
def test_gradients_of_optimised_programs_agree_with_reference(stage, tmp_path):
    file = tmp_path / "gradients.npz"
    program = (
        "import numpy, sys; from tests.methods import golden_test as test; "
        "numpy.savez(sys.argv[2], **test.torch_named(test.run(sys.argv[1])['grads']))"
    )
    subprocess.run(
        [sys.executable, "-c", program, stage, str(file)],
        env=environment(XLA_FLAGS=""),
        check=True,
    )
    assert_gradients(stage, dict(np.load(file)), tolerance=TOLERANCES[stage])


@pytest.mark.parametrize("stage", ["motion", "identity"])
def test_parameters_after_three_steps_agree_with_reference(stage):
    numbers = reference.golden()
    ran = run(stage)
    params, ours = torch_named(ran["params"]), torch_named(ran["grads"])
    names, grads = numbers[f"{stage}/grad_names"], numbers[f"{stage}/grad_l2"]
    for name, grad, l2 in zip(
        names, grads, numbers[f"{stage}/param_l2_after"], strict=True
    ):
        value = params[name].astype(np.float64)
        # Of a gradient that is no larger than its rounding error, Adam makes whole
        # steps either way: all of theta's bias (a softmax ignores what is added to
        # everything), elsewhere few elements.
        vanishing = grad < 1e-7
        assert not vanishing or name.endswith("theta.bias"), name
        size = np.abs(ours[name])
        # What has no gradient at all (behind a rectifier that never opens) stays.
        unsure = vanishing | ((size > 0) & (size < 3e-3 * grad / np.sqrt(value.size)))
        noise = 3 * 2e-4 * np.abs(value[unsure]).sum() / np.linalg.norm(value)
        assert vanishing or unsure.mean() < 0.2, name
        assert abs(np.linalg.norm(value) - l2) <= 1e-4 * l2 + noise, name


def test_vgg_agrees_with_reference():
    numbers = reference.golden()
    networks = make_face_networks(MODEL)
    images = normalise(jnp.asarray(numbers["images_u8"]))
    maps = jax.jit(networks.loss_features)(reference.trees(), images)
    for tap, key in (("conv2_1", "r21"), ("conv3_1", "r31"), ("conv4_1", "r41")):
        value = np.asarray(maps[tap], np.float64)
        # torch's std is the unbiased one.
        np.testing.assert_allclose(
            [value.mean(), value.std(ddof=1)], numbers[f"vgg/{key}_mean_std"], rtol=1e-4
        )
        np.testing.assert_allclose(
            value[:, :4, :4, :8], numbers[f"vgg/{key}_corner"], rtol=1e-4, atol=1e-5
        )


def test_translation_agrees_with_reference():
    numbers, trees = reference.golden(), reference.trees()
    networks = make_face_networks(MODEL)

    @jax.jit
    def translate(images):
        _, flow, back = networks.motion(trees, images)
        others_back = back[::-1]
        neutral = networks.generate(trees, networks.features(trees, images), flow)
        of_neutral = networks.features(trees, neutral)
        code = networks.identity_code(trees, images)
        mean = networks.remove_identity(trees, of_neutral, code)
        restored = networks.restore_identity(
            trees, networks.features(trees, mean[::-1]), code
        )
        moved = networks.generate(
            trees, networks.features(trees, restored), others_back
        )
        return networks.generate(trees, of_neutral, others_back), mean, restored, moved

    results = translate(normalise(jnp.asarray(numbers["images_u8"][:2])))
    keys = ("rec_face", "mean_face", "renorm", "id{}_rec_face")
    for key, result in zip(keys, results, strict=True):
        for face in (1, 2):
            name = key.format(face) if "{}" in key else f"{key}{face}"
            np.testing.assert_allclose(
                result[face - 1 : face],
                numbers[f"translate/{name}"],
                rtol=1e-4,
                atol=2e-4,
                err_msg=name,
            )

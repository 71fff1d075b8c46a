"""The platforms that JAX_PLATFORMS names, checked before anything is trained."""

import os

import jax

from facecycle_jax.errors import UserError


def check_platforms() -> None:
    """Checks that JAX can use the platforms that JAX_PLATFORMS asks for.

    Where the first one has no device, JAX takes the next one without a word, and
    batches are drawn on the CPU, whatever trains.

    Raises:
      UserError: If the first platform has no device, or the CPU is left out.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    wanted = platforms.split(",")
    if not platforms:
        return
    if "cpu" not in wanted:
        raise UserError(
            f"JAX_PLATFORMS={platforms} leaves out the CPU, on which batches are "
            f"drawn: set it to {platforms},cpu."
        )

    try:
        found = jax.default_backend()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"JAX cannot use JAX_PLATFORMS={platforms} ({reason}): install the extra "
            "for this machine (docs/install.md), or change JAX_PLATFORMS."
        ) from error

    if found == "cpu" and wanted[0] != "cpu":
        raise UserError(
            f"JAX_PLATFORMS={platforms} asks for {wanted[0]}, and JAX finds no such "
            "device: see that the driver lists it, as nvidia-smi does, and that the "
            "extra for it is installed (docs/install.md)."
        )

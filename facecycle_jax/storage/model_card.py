"""The text of a model folder's README.md."""

from collections.abc import Mapping
from typing import Any

_CARD = """# A FaceCycle model

Codes of facial motion{and_identity} from images of faces, learned without labels by
the method of Chang, Chen and Chiu, "Learning Facial Representations from the
Cycle-consistency of Face", ICCV 2021, arXiv 2108.03427.

    import facecycle_jax
    model = facecycle_jax.load("path/of/this/folder")

| | |
|---|---|
| stages | {stages} |
| parameters | {parameters:,} in {dtype} |
| network | width {width:g}{encoders}, codes of {code_dim} numbers, \
computed in {compute} |
| trunk | {trunk} |
| images | {size} x {size} pixels, {colour}, {low:g} to {high:g}, \
normalised by mean {mean} and standard deviation {std} |
| eyes in them | {left_eye} and {right_eye}, fractions of the side |
| licence | {licence} |
| source | {source} |
| written by | facecycle_jax {version} |

`config.json` describes the model to the program, and `weights.safetensors` holds the
weights (sha256 `{sha256}`).

## Limits

The model draws and compares faces. It has not been tested for deciding anything about a
person. Identity codes of photographs of people are personal data in many countries. It
works on single faces, cropped as its training images were.
"""
_TRUNKS = {
    "vgg": "ImageNet VGG-19, conv1_1 to conv3_1 (its weights are in this folder)",
    "learned": "learned with the model",
}


def model_card(config: Mapping[str, Any]) -> str:
    """Writes the model card, Markdown.

    Args:
      config: content of the folder's config.json.

    Returns:
      The text.
    """
    model = config["model"]
    images = config["input"]
    weights = config["weights"]
    framing = config["framing"]
    low, high = images["range"]

    # Parts of the text that only some models have.
    and_identity = " and identity" if "identity" in config["stages"] else ""
    encoders = ""
    if "encoder_width" in model:
        encoders = f" (encoders {model['encoder_width']:g})"

    return _CARD.format(
        and_identity=and_identity,
        stages=", ".join(config["stages"]),
        parameters=weights["parameters"],
        dtype=weights["dtype"],
        width=model["width"],
        encoders=encoders,
        code_dim=model["code_dim"],
        compute=model["dtype"],
        trunk=_TRUNKS[model["trunk"]],
        size=images["size"],
        colour=images["colour"],
        low=low,
        high=high,
        mean=images["mean"],
        std=images["std"],
        left_eye=tuple(framing["left_eye"]),
        right_eye=tuple(framing["right_eye"]),
        licence=_cell(config["licence"]),
        source=_cell(config["source"]),
        version=config["package_version"],
        sha256=weights["sha256"],
    )


def _cell(text: str) -> str:
    """Keeps foreign text inside one cell of the table."""
    return " ".join(text.split()).replace("|", "\\|")

"""The text of a model folder's README.md, with the head that the Hub reads."""

import json
import re
from collections.abc import Mapping
from typing import Any

from facecycle_jax.errors import UserError, shorten
from facecycle_jax.storage.card_results import dataset_labels

_CARD = """# A FaceCycle model

Codes of facial motion{and_identity} from images of faces, by the self-supervised
method of Chang, Chen and Chiu, "Learning Facial Representations from the
Cycle-consistency of Face", ICCV 2021, arXiv 2108.03427.

    import facecycle_jax
    model = facecycle_jax.load("path/of/this/folder")  # or "hf://USER/NAME"

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
{results}
## Limits

The model draws and compares faces. It has not been tested for deciding anything about a
person. Identity codes of photographs of people are personal data in many countries. It
works on single faces, cropped as its training images were.
"""
_RESULTS = """
## Results

Rates are fractions, errors are in degrees.

| data set | features | metric | value |
|---|---|---|---:|
{rows}

{protocols}
"""
# Licences that the Hub knows by name. It calls all others 'other'.
_KNOWN_LICENCES = (
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "mit",
)
# The Hub's name of what the model is for; it has none for codes of faces alone.
_PIPELINE = "image-feature-extraction"
_TAGS = ("jax", "flax", "face", "self-supervised", "arxiv:2108.03427")
_TRUNKS = {
    "vgg": "ImageNet VGG-19, conv1_1 to conv3_1 (its weights are in this folder)",
    "learned": "learned with the model",
}


def check_datasets(names: Any) -> list[str]:
    """Checks the names of the training sets.

    Args:
      names: names as the Hub has them: 'lfw' or 'user/name'.

    Returns:
      The names.

    Raises:
      UserError: If it is not a list of such names.
    """
    if type(names) is not list:
        raise UserError("datasets is not a list.")

    for name in names:
        is_name = type(name) is str and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.A)
        if not is_name:
            raise UserError(
                f"datasets holds {shorten(name)}, not a name such as lfw or USER/NAME."
            )
    return names


def card_head(config: Mapping[str, Any], *, name: str) -> str:
    """Writes the head of a card, YAML between two lines of dashes.

    Args:
      config: content of the folder's config.json.
      name: name of the model.

    Returns:
      The text, with a blank line at its end.
    """
    lines = ["library_name: facecycle_jax", f"pipeline_tag: {_PIPELINE}"]
    lines += licence_lines(config["licence"])
    lines += ["tags:", *(f"- {tag}" for tag in _TAGS)]

    # JSON's strings and numbers are YAML's.
    if config.get("datasets"):
        lines.append("datasets:")
        lines += [f"- {json.dumps(dataset)}" for dataset in config["datasets"]]

    results = config.get("results", [])
    if results:
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
    for record, label in zip(results, dataset_labels(results), strict=True):
        value = {key: json.dumps(text) for key, text in record.items()}
        metric = json.dumps(f"{record['metric']} of {record['features']}")
        lines += [
            "  - task:",
            f"      type: {_PIPELINE}",
            f"      name: {value['task']}",
            "    dataset:",
            f"      type: {value['task']}",
            f"      name: {json.dumps(label)}",
            "    metrics:",
            f"    - type: {value['metric']}",
            f"      name: {metric}",
            f"      value: {value['value']}",
        ]
    return "\n".join(["---", *lines, "---", "", ""])


def licence_lines(licence: str) -> list[str]:
    """Names a licence as the Hub does."""
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")
    if name in _KNOWN_LICENCES:
        return [f"license: {name}"]
    if not name or name.startswith("not-stated"):
        return ["license: unknown"]

    # A long licence in words becomes a short name. The card has all of it.
    return ["license: other", f"license_name: {json.dumps(name[:60].strip('-.'))}"]


def model_card(config: Mapping[str, Any], *, name: str) -> str:
    """Writes the model card, Markdown with a head in YAML.

    Args:
      config: content of the folder's config.json.
      name: name of the model.

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

    card = _CARD.format(
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
        results=_results(config.get("results", [])),
    )
    return card_head(config, name=name) + card


def _results(records: list[dict[str, Any]]) -> str:
    """Writes the table of results, or '' if there are none."""
    if not records:
        return ""

    labels = dataset_labels(records)
    rows = []
    for record, label in zip(records, labels, strict=True):
        cells = [label, record["features"], record["metric"]]
        cells = [*map(_cell, cells), f"{record['value']:.4g}"]
        rows.append(f"| {' | '.join(cells)} |")

    # Each protocol once, in the order of the rows.
    protocols = {
        label: record["protocol"] for record, label in zip(records, labels, strict=True)
    }
    sentences = [
        f"{name}: {' '.join(text.split())}" for name, text in protocols.items()
    ]
    return _RESULTS.format(rows="\n".join(rows), protocols="\n\n".join(sentences))


def _cell(text: str) -> str:
    """Keeps foreign text inside one cell of the table."""
    return " ".join(text.split()).replace("|", "\\|")

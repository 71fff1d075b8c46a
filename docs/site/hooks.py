"""Hooks of the documentation site: the notebooks of colabs/ become pages of it."""

import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).parents[2]


def on_files(files: Files, config: Any) -> Files:
    """Adds the notebooks, which are kept outside of docs/."""
    for notebook in sorted((_ROOT / "colabs").glob("*.ipynb")):
        file = File.generated(
            config,
            f"colabs/{notebook.name}",
            abs_src_path=str(notebook),
        )
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links to notebooks at their pages.

    Other files of the repository become plain text.
    """
    markdown = markdown.replace("](../colabs/", "](colabs/")
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)

"""Hooks of the documentation site: the notebooks of colabs/ become pages of it."""

import pathlib
import re
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).parents[2]


# Before mkdocs-jupyter, which looks for notebooks among the files.
@event_priority(100)
def on_files(files: Files, config: Any) -> Files:
    """Adds the notebooks, which are kept outside of docs/."""
    for notebook in sorted((_ROOT / "colabs").glob("*.ipynb")):
        file = File(
            f"colabs/{notebook.name}",
            src_dir=str(_ROOT),
            dest_dir=config.site_dir,
            use_directory_urls=config.use_directory_urls,
        )
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links to notebooks at their pages.

    Other files of the repository become plain text.
    """
    markdown = markdown.replace("](../colabs/", "](colabs/")
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)

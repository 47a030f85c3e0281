"""How Sphinx makes the site: `make docs`. Nothing of harmonet is imported, so that the site builds without torch."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

project = "harmonet"
author = "the authors of harmonet"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 4  # links such as data.md#bids

html_theme = "furo"
html_title = f"harmonet {release}"
html_copy_source = False


def setup(app: Any) -> None:
    """Links that lead out of the documents, which a repository has and a site has not, become their words."""
    app.connect("source-read", _without_links_outside)


def _without_links_outside(app: Any, page: str, source: list[str]) -> None:
    here = (Path(app.srcdir) / page).parent

    def words(link: re.Match[str]) -> str:
        outside = "://" not in link[2] and not (here / link[2]).resolve().is_relative_to(app.srcdir)
        return link[1] if outside else link[0]

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)\)", words, source[0])

"""What the page is made of: pictures, and sections that say in red where and why they could not be made."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Shown:
    """A picture of the page, or why there is none.

    Attributes:
        title: Its name.
        caption: What it shows.
        alt: The same for who cannot see it, with what it comes to where that is short.
        address: A PNG's bytes as a data address.
        drawing: An SVG in place of it.
        problem: Why there is neither.
    """

    title: str
    caption: str = ""
    alt: str = ""
    address: str = ""
    drawing: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Part:
    """What a section's template shows, and what of it could not be made."""

    content: Mapping[str, Any]
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Made:
    """A section as HTML; `problems` stand in it in red."""

    name: str
    title: str
    html: str
    problems: Sequence[str] = field(default=())


def section(name: str, title: str, make: Callable[[], Part]) -> Made:
    """A section through its template NAME.html; whatever goes wrong in one, the others are still wanted."""
    try:
        part = make()
        return Made(name, title, rendered(f"{name}.html", part.content), tuple(part.problems))
    except Exception as error:  # plugins draw and score too: what they raise is not known
        problem = f"{title} could not be made ({type(error).__name__}: {error})"
        return Made(name, title, rendered("problem.html", {"problem": problem}), (problem,))


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """A template of this package, filled."""
    return str(_environment().get_template(template).render(content))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    # Autoescape is off unless asked for; labels, names and recipes are the user's and a stranger's.
    return Environment(
        loader=FunctionLoader(own_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def own_text(name: str) -> str:
    """A text file of this package."""
    return (resources.files("harmonet.report") / name).read_text(encoding="utf-8")


def inlined(title: str, path: Path, *, caption: str = "", alt: str = "") -> Shown:
    """A PNG on disk as a part of the page."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Shown(title, problem=f"{path} cannot be read ({error.strerror or error})")
    if not content.startswith(PNG):
        return Shown(title, problem=f"{path} is no PNG")
    return Shown(title, caption, alt or title, "data:image/png;base64," + base64.b64encode(content).decode())


def drawn(title: str, path: Path, draw: Callable[[Path], object], *, caption: str = "", alt: str = "") -> Shown:
    """A picture, drawn into a file and inlined."""
    try:
        draw(path)
    except Exception as error:  # whatever goes wrong in one picture, the scores and the other pictures are still wanted
        return Shown(title, problem=f"{path.name} cannot be drawn ({type(error).__name__}: {error})")
    return inlined(title, path, caption=caption, alt=alt)


def problems_of(pictures: Sequence[Shown]) -> list[str]:
    """What of the pictures could not be made."""
    return [f"{picture.title}: {picture.problem}" for picture in pictures if picture.problem]

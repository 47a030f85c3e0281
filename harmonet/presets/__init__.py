"""What a recipe may begin with: TOML files of [training], [loss] and [model], one beside this module for each.

A preset is no hidden default: its values are written into the recipe, where they can be read and changed.
"""

import tomllib
from importlib import resources
from typing import Any

from harmonet.errors import NotFoundError, nearest

PRESETS = ("paper", "recommended")


def preset(name: str) -> dict[str, dict[str, Any]]:
    """The tables of a preset, as a recipe has them.

    >>> preset("paper")["training"]["batch_size"]
    12
    """
    return tomllib.loads(text_of(name))


def text_of(name: str) -> str:
    """A preset as it is written, with the reasons for its values.

    Raises:
        NotFoundError: There is no preset of that name.
    """
    if name not in PRESETS:
        raise NotFoundError(f"no preset {name!r} of a training. {nearest(name, PRESETS)}")
    return (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")

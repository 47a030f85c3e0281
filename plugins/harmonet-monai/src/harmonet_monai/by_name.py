"""A network by the dotted name of its class, from a recipe's own list of what may be imported.

To name a class is to run its code: importing a module and building a class run what their authors wrote. The list
makes that visible on one line of the recipe; it does not make the code harmless.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from torch import nn

import harmonet as hn
from harmonet.blocks.adapted import Adapted
from harmonet.errors import RecipeError

NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")  # package.module:Class
EXAMPLE = "harmonet_monai.example:TwoConvs"


def torch_module(
    in_channels: int,
    out_channels: int,
    upsampling: int = 1,
    cls: str = EXAMPLE,
    allow: Sequence[str] = ("harmonet_monai.example",),
    arguments: Mapping[str, Any] | None = None,
    in_argument: str = "in_channels",
    out_argument: str = "out_channels",
    patch_size: int = 11,
) -> Adapted:
    """A class's network, made to fit as `harmonet.adapt` does; its layers are found under `net.`.

    Args:
        in_channels: Channels of the source patch.
        out_channels: Channels of the prediction.
        upsampling: 1 or 2.
        cls: "package.module:Class".
        allow: Modules and packages that `cls` may lie in.
        arguments: What else the class is built with: numbers, text, lists and tables of them.
        in_argument: Name of the class's argument for the channels that it takes; "" if it has none, and a 1x1x1
            convolution is put in front where they differ.
        out_argument: The same for the channels that it gives, with a convolution behind.
        patch_size: Edge of a patch at which the class is measured.

    Raises:
        RecipeError: The class is not allowed, not found, no `torch.nn.Module` or not built with these arguments.
        ShapeError: It cannot be made to fit.

    >>> import torch
    >>> torch_module(28, 28, upsampling=2)(torch.zeros(1, 28, 11, 11, 11)).shape
    torch.Size([1, 28, 19, 19, 19])
    """
    chosen = dict(arguments or {})
    for name, value in chosen.items():
        if not _is_data(value):
            raise RecipeError(
                f"torch_module: argument {name} is a {type(value).__name__}: give numbers, text, lists and tables."
            )
    for name, channels in ((in_argument, in_channels), (out_argument, out_channels)):
        if name in chosen:
            raise RecipeError(f"torch_module: arguments has {name!r}, which harmonet fills in: give it once.")
        if name:
            chosen[name] = channels
    built = _class_of(cls, allow)
    try:
        net = built(**chosen)
    except Exception as error:  # a stranger's class can raise anything
        raise RecipeError(
            f"torch_module: {cls} cannot be built with {', '.join(chosen)} ({type(error).__name__}: {error}): mend "
            "arguments, in_argument or out_argument."
        ) from error
    return hn.adapt(
        net,
        channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        upsampling=upsampling,
        in_channels=in_channels if in_argument else None,
    )


def _class_of(cls: str, allow: Sequence[str]) -> type[nn.Module]:
    """The class, imported once it is known to lie under the list."""
    asked = NAME.fullmatch(cls)
    if asked is None:
        raise RecipeError(f"torch_module: cls is {cls!r}, which names no class: write package.module:Class.")
    module, name = asked.groups()
    if isinstance(allow, str) or not any(f"{module}.".startswith(f"{allowed}.") for allowed in allow):
        raise RecipeError(
            f"torch_module: {cls} lies under nothing that this recipe allows ({allow!r}): read its code, and if you "
            f'trust it write allow = ["{module}"].'
        )
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # a stranger's module can raise anything
        raise RecipeError(
            f"torch_module: importing {cls} gave {type(error).__name__}: {error}; install its package or mend the name."
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise RecipeError(f"torch_module: {cls} is no torch.nn.Module class: name one.")
    return found


def _is_data(value: Any) -> bool:
    """Whether the value is numbers, text, or lists and tables of them."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_data(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    return isinstance(value, bool | int | float | str)

"""Methods that are no networks, as a run holds them: one for each target platform, its state among the weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonet import plugins
from harmonet.build import representation_of
from harmonet.errors import HarmonetError, RecipeError, RunError
from harmonet.methods.method import Method
from harmonet.recipe import Recipe


def build_method(name: str, recipe: Recipe, options: Mapping[str, Any]) -> Method:
    """The method of that name, which has learned nothing yet, for the channels of a recipe.

    Raises:
        NotFoundError: There is no such method, or it has no such option.
        RecipeError: It cannot be built with these options, or for these channels.
    """
    entry, representation = plugins.method(name), representation_of(recipe)
    entry.check_options(options)
    try:
        built: Method = entry.load()(representation.groups() if representation.uses_gradients else {}, **options)
    except HarmonetError:
        raise
    except (TypeError, ValueError) as error:  # an option of the wrong kind, such as text for a number
        raise RecipeError(f"method {name} cannot be built with its options: {error}.") from None
    return built


def methods_for(recipe: Recipe) -> dict[str, Method]:
    """Target platform to its method, which has learned nothing yet; empty where networks predict."""
    name = recipe.model.method
    if name is None:
        return {}
    options = recipe.model.options.get(name, {})
    return {platform: build_method(name, recipe, options) for platform in recipe.task.target_names}


def as_tensors(methods: Mapping[str, Method]) -> dict[str, Tensor]:
    """All that the methods have learned, `platform.name` to tensor.

    Raises:
        RunError: A number is not finite.
    """
    found = {f"{p}.{name}": array for p, method in methods.items() for name, array in method.state().items()}
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise RunError(f"what the method learned is not finite in {name}: check the images of this platform.")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


def restore(methods: Mapping[str, Method], weights: Mapping[str, Tensor], where: object) -> None:
    """Give each method what it learned.

    Raises:
        RunError: The weights are not those of such methods.
    """
    for platform, method in methods.items():
        state = {n.removeprefix(f"{platform}."): t.numpy() for n, t in weights.items() if n.startswith(f"{platform}.")}
        try:
            method.restore(state)
        except (LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"the weights in {where} are not what {type(method).__name__} keeps ({error!r}): undo what was changed "
                "in it, or train again."
            ) from None

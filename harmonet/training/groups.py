"""The optimiser's groups: which parameters are trained, and how fast each part learns."""

from collections.abc import Mapping
from typing import Any

from harmonet.errors import NotFoundError, RecipeError, RunError, nearest
from harmonet.model import Model

FUSION = "fusion"


def parameter_groups(model: Model, rate: float, rates: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """One group for each part that is trained, with its parameters, `lr` and `factor`, its part of the rate.

    Frozen networks are left out. A part is a platform, which stands for its network, or `fusion`.

    Args:
        model: What is trained.
        rate: The learning rate.
        rates: Part to a factor on it; 1 where absent.

    Raises:
        NotFoundError: A factor is for something that is no trained part.
        RecipeError: Two parts share a parameter and have different factors.
        RunError: Nothing is left to train.
    """
    chosen = dict(rates or {})
    parts = {**dict(model.singles.items()), FUSION: model.fusions}
    groups: dict[str, list[Any]] = {}
    owner: dict[Any, str] = {}
    for part, module in parts.items():
        trained = [p for p in module.parameters() if p.requires_grad]
        for parameter in trained:
            first = owner.setdefault(parameter, part)
            if chosen.get(first, 1.0) != chosen.get(part, 1.0):
                raise RecipeError(
                    f"rates gives {first} {chosen.get(first, 1.0):g} and {part} {chosen.get(part, 1.0):g}, but they "
                    "share layers: give both the same factor."
                )
        if trained:
            groups[part] = [p for p in trained if owner[p] == part]
    for part in chosen:
        if part not in groups:
            raise NotFoundError(
                f"rates has a factor for {part!r}, which is no part of this model that is trained. "
                f"{nearest(part, groups)}"
            )
    if not groups:
        raise RunError("a model was to be trained of which every part is frozen: thaw one, or do not train it.")
    return [
        {"params": parameters, "lr": rate * chosen.get(part, 1.0), "factor": chosen.get(part, 1.0)}
        for part, parameters in groups.items()
        if parameters
    ]

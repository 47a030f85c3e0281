"""Members of a composition: registered names, trained run folders, modules."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from harmonet.blocks.connection import count_parameters
from harmonet.build import is_folder, model_for, options_of, takes_all, taps_for
from harmonet.composer import Single
from harmonet.composer import compose as compose_modules
from harmonet.errors import NotFoundError, ShapeError
from harmonet.fusion import Fusion
from harmonet.model import Model, Wire, wiring
from harmonet.recipe import Recipe
from harmonet.runs.folder import Trained, load


def single_of(folder: Path | str, platform: str) -> tuple[nn.Module, str, Trained]:
    """The trained network for one platform in a run, its registered name, and the run.

    Raises:
        NotFoundError: The run has no network for that platform.
    """
    run = load(folder)
    if platform not in run.networks:
        raise NotFoundError(f"{folder} has no network for {platform}, only for {', '.join(run.networks)}.")
    return run.model.singles[platform], run.networks[platform], run


def compose(
    singles: Mapping[str, Single | Path | Sequence[Single | Path]],
    fusion: str | Callable[..., Fusion] | None = None,
    target: str | Sequence[str] | None = None,
    **settings: Any,
) -> Model:
    """`harmonet.composer.compose`, with run folders among the single networks.

    A run folder stands for its trained network for that platform, with the tap that its recipe names.
    """
    modules: dict[str, list[Single]] = {}
    taps = dict(settings.pop("taps", None) or {})
    for platform, given in singles.items():
        modules[platform] = []
        for single in [given] if isinstance(given, str | Path | nn.Module) else given:
            if isinstance(single, Path) or (isinstance(single, str) and "/" in single):
                module, name, run = single_of(single, platform)
                factor = (settings.get("upsampling") or {}).get(platform, 1)
                if run.task.upsampling[platform] != factor:
                    raise ShapeError(
                        f"{single} was trained for upsampling {run.task.upsampling[platform]} of {platform}, "
                        f"asked for {factor}: set upsampling={{{platform!r}: {run.task.upsampling[platform]}}}."
                    )
                modules[platform].append(module)
                taps.setdefault(platform, taps_for(run.recipe, platform, name.split("+")[0], fusion) or {})
            else:
                modules[platform].append(single)
    return compose_modules(modules, fusion, target, taps=taps, **settings)


def first_composition(
    recipe: Recipe, number: int = 0
) -> tuple[Model, dict[str, str], dict[str, list[Mapping[str, Any]]]]:
    """The composition of each platform's candidate of that number (else its last), or of all for one that takes all.

    Returns:
        The model with fresh or loaded weights; platform to its network's name; platform to the options of each network.
    """
    singles: dict[str, list[Single]] = {}
    names: dict[str, str] = {}
    options: dict[str, list[Mapping[str, Any]]] = {}
    for platform, candidates in recipe.model.candidates.items():
        chosen = candidates if takes_all(recipe) else [candidates[min(number, len(candidates) - 1)]]
        words: list[str] = []
        singles[platform], options[platform] = [], []
        for candidate in chosen:
            if is_folder(candidate):
                module, name, run = single_of(candidate, platform)
                singles[platform].append(module)
                options[platform] += run.options[platform]
                words.append(name)
            else:
                options[platform].append(options_of(recipe, candidate))
                singles[platform].append(candidate)
                words.append(candidate)
        names[platform] = "+".join(words)
    return model_for(recipe, singles, names), names, options


def wiring_of(recipe: Recipe) -> tuple[list[Wire], int]:
    """The wiring of every candidate, each verified by a dry run, and the parameters of the first composition."""
    candidates = recipe.model.candidates
    wires: dict[tuple[str, str], Wire] = {}
    parameters = 0
    for number in range(1 if takes_all(recipe) else max(map(len, candidates.values()))):
        model, names, _ = first_composition(recipe, number)
        parameters = parameters or count_parameters(model)
        shown = names if takes_all(recipe) else {p: c[min(number, len(c) - 1)] for p, c in candidates.items()}
        wires |= {(wire.platform, wire.network): wire for wire in wiring(model, shown)}
    order = {platform: number for number, platform in enumerate(candidates)}
    return sorted(wires.values(), key=lambda wire: order[wire.platform]), parameters


def word_of(candidate: str, run: Trained, platform: str) -> str:
    """What a candidate's network is called: the registered name of a folder's."""
    return run.networks[platform] if is_folder(candidate) else candidate

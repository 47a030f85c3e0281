"""The training of a method that is no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harmonet.errors import RecipeError
from harmonet.methods.method import Method, Pair
from harmonet.model import Model
from harmonet.recipe import Recipe
from harmonet.runs.folder import write_run
from harmonet.runs.material import Material
from harmonet.runs.method import methods_for


def check_method(recipe: Recipe, *, measure: bool) -> None:
    """Refuse, before anything is read, a method that cannot be built, or what only networks can be asked for."""
    if methods_for(recipe) and measure:
        raise RecipeError(
            f"--tune measures networks, and the recipe names the method {recipe.model.method}: leave it out."
        )


def learn(material: Material, out: Path) -> None:
    """Write a finished run of the recipe's method; the process of rank 0 alone does."""
    if material.engine.leads:
        recipe = material.recipe
        methods = learned(material)
        write_run(
            out,
            recipe,
            Model({}, {}, {}),
            [],
            networks={},
            standardise_source=material.standardise_source,
            standardise={name: material.standardise[name] for name in recipe.task.target_names},
            split=material.split,
            gradients={name: material.gradients[name] for name in recipe.task.target_names},
            facts={**material.facts, "validation": _validation(material, methods)},
            draw=lambda *_: [],  # nothing is drawn of what has no epochs
            methods=methods,
        )
    material.engine.wait()  # then all can load it


def learned(material: Material) -> dict[str, Method]:
    """Target platform to the method that has learned from its training subjects."""
    methods, heads = methods_for(material.recipe), material.train
    lessons: dict[str, list[Mapping[str, Any]]] = {platform: [] for platform in methods}
    for number, head in enumerate(heads):
        for platform, target in head.targets.items():
            lessons[platform].append(methods[platform].learn(Pair(head.subject, head.source, target)))
        material.watch("learning", number + 1, len(heads), head.subject)
    for platform, method in methods.items():
        method.fit(lessons[platform])
    return methods


def _validation(material: Material, methods: Mapping[str, Method]) -> dict[str, Any]:
    """As for networks: each platform's standardised error, here over whole validation volumes, and their mean."""
    name = str(material.recipe.model.method)
    errors = {platform: _error(material, platform, method) for platform, method in methods.items()}
    return {
        "candidates": {platform: {name: error} for platform, error in errors.items()},
        "chosen": {platform: {"candidate": name, "margin": None} for platform in errors},
        "score": float(np.mean(list(errors.values()))),
        "best_epoch": 0,
    }


def _error(material: Material, platform: str, method: Method) -> float:
    """Mean squared error over the voxels of the targets' masks, in standard deviations of the training subjects."""
    squares, scale = [], material.standardise[platform]
    for head in material.validation:
        if platform in head.targets:
            target = head.targets[platform]
            said = method.predict(head.source, target.grid)
            squares.append(np.square((said - target.channels)[target.mask] / scale.std, dtype=np.float64))
    return float(np.mean(np.concatenate(squares)))

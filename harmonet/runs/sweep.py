"""Folds and seeds: one recipe as many runs, each an ordinary run folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harmonet.data.layout import TravellingHeads
from harmonet.errors import DataError, RecipeError
from harmonet.recipe import Recipe

LOSO = "loso"


@dataclass(frozen=True)
class Part:
    """One run of a sweep: the folder's name, and its recipe."""

    name: str
    recipe: Recipe


def sweep(recipe: Recipe, dataset: TravellingHeads, folds: str | None, seeds: int) -> list[Part]:
    """The runs of all folds and seeds, seeds of one fold beside each other.

    Who is in which fold depends on the recipe's seed alone, so that the seeds of one fold test the same subjects.

    Args:
        recipe: What each run trains.
        dataset: The subjects.
        folds: A number, or `loso`: each subject in turn is left out. One run with the recipe's split where None.
        seeds: How many; the recipe's and those after it.

    Raises:
        RecipeError: The number of folds is none, or the recipe's split leaves no room for it.
        DataError: There are fewer subjects than folds.
    """
    if seeds < 1:
        raise RecipeError(f"--seeds {seeds} asks for no run: give 1 or more.")
    if recipe.split.seed is None:
        recipe = _with_split(recipe, seed=recipe.seed)
    splits = [("", recipe)]
    if folds is not None:
        if recipe.split.scheme == "paper":
            raise RecipeError(
                "--folds splits by subject, which the recipe's split 'paper' does not: remove one of them."
            )
        number = _number_of(folds, recipe, dataset)
        width = len(str(number))
        splits = [
            (f"fold-{fold:0{width}d}of{number}", _with_split(recipe, test=f"{fold}/{number}"))
            for fold in range(1, number + 1)
        ]
    parts = []
    for name, split in splits:
        for seed in range(recipe.seed, recipe.seed + seeds):
            words = [word for word in (name, f"seed-{seed}" if seeds > 1 else "") if word]
            parts.append(Part("_".join(words), split.model_copy(update={"seed": seed})))
    return parts


def _with_split(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"split": recipe.split.model_copy(update=changes)})


def _number_of(folds: str, recipe: Recipe, dataset: TravellingHeads) -> int:
    """How many folds; as many as there are subjects for `loso`."""
    whole = dataset.subjects_with((recipe.source.name, *recipe.task.target_names))
    number = len(whole) if folds == LOSO else int(folds) if folds.isdecimal() else 0
    if number < 2:
        raise RecipeError(f"--folds {folds!r} is not understood: give 2 or more, or {LOSO!r}.")
    if number > len(whole):
        raise DataError(
            f"--folds {number} needs as many subjects who were scanned on every platform, found {len(whole)}: "
            f"give {len(whole)} or fewer."
        )
    return number


def share(parts: Sequence[Part], part: str | None) -> list[Part]:
    """Every n-th run, for machine m of n given as `m/n`; all where None.

    >>> share([Part(name, None) for name in "abcde"], "2/3")
    [Part(name='b', recipe=None), Part(name='e', recipe=None)]
    """
    if part is None:
        return list(parts)
    match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", part)
    if match is None or int(match[1]) > int(match[2]):
        raise RecipeError(f"--part {part!r} is not understood: write 2/8 for the second of eight machines.")
    return list(parts[int(match[1]) - 1 :: int(match[2])])

"""Folds and seeds: one recipe as many runs, each an ordinary run folder."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from harmonet.data.layout import TravellingHeads
from harmonet.errors import DataError, HarmonetError, OutputError, RecipeError, RunError
from harmonet.recipe import Recipe
from harmonet.runs.folder import Trained
from harmonet.runs.material import split_of

T = TypeVar("T")
LOSO = "loso"
MOST_SEEDS = 1000  # who asks for more has mistaken the number of seeds for a seed


@dataclass(frozen=True)
class Part:
    """One run of a sweep.

    Attributes:
        name: Of its folder.
        recipe: What it trains.
        test: Its test subjects.
    """

    name: str
    recipe: Recipe
    test: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What came of one run of a sweep.

    Attributes:
        part: Its name.
        test: Its test subjects.
        networks: Platform to the network that is used; joined by `+` where a fusion takes all.
        errors: Platform to that network's own validation error, before any joint training; none where all are taken.
        score: Lowest validation error of the whole model, the mean over platforms.
        failure: Why there is no more than the names; empty for a finished run.
    """

    part: str
    test: tuple[str, ...]
    networks: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None
    failure: str = ""

    def cells(self, platforms: Sequence[str]) -> list[str]:
        """A row of a table: part, test subjects, a cell for each platform, score.

        >>> Result("seed-0", ("a", "b"), {"p": "diqt"}, {"p": 0.25}, 0.2).cells(["p"])
        ['seed-0', 'a, b', 'diqt 0.2500', '0.2000']
        >>> Result("seed-1", ("a", "b"), failure="no memory").cells(["p"])
        ['seed-1', 'a, b', 'failed', 'failed']
        """
        if self.failure:
            return [self.part, ", ".join(self.test), *("failed" for _ in platforms), "failed"]
        numbers = {name: f" {self.errors[name]:.4f}" if name in self.errors else "" for name in platforms}
        used = [f"{self.networks[name]}{number}" for name, number in numbers.items()]
        return [self.part, ", ".join(self.test), *used, f"{self.score:.4f}"]


def sweep(recipe: Recipe, dataset: TravellingHeads, folds: str | None, seeds: int) -> list[Part]:
    """The runs of all folds and seeds, seeds of one fold beside each other.

    Who is in which fold depends on the seed in [split], else on the recipe's, so that the seeds of one fold test the
    same subjects.

    Args:
        recipe: What each run trains.
        dataset: The subjects.
        folds: A number, or `loso`: each subject in turn is left out. The recipe's split alone where None.
        seeds: How many; the recipe's and those after it.

    Raises:
        RecipeError: The number of folds or seeds is none, or the recipe's split leaves no room for folds.
        DataError: There are too few subjects.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise RecipeError(
            f"--seeds {seeds} is how many runs differ in their seed, not a seed: give 1 to {MOST_SEEDS}, and set the "
            "first seed in the recipe."
        )
    if recipe.split.seed is None:
        recipe = _with_split(recipe, seed=recipe.seed)
    splits = {"": recipe}
    if folds is not None:
        _refuse_own_split(recipe)
        number = _number_of(folds, recipe, dataset)
        width = len(str(number))
        splits = {
            f"fold-{fold:0{width}d}of{number}_": _with_split(recipe, test=f"{fold}/{number}")
            for fold in range(1, number + 1)
        }
    tests = {name: split_of(split, dataset).test for name, split in splits.items()}
    return [
        Part(f"{name}seed-{seed}", split.model_copy(update={"seed": seed}), tests[name])
        for name, split in splits.items()
        for seed in range(recipe.seed, recipe.seed + seeds)
    ]


def _with_split(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"split": recipe.split.model_copy(update=changes)})


def _refuse_own_split(recipe: Recipe) -> None:
    """Refuse a recipe that says itself who tests, or names who validates: then there is nobody to deal out."""
    split = recipe.split
    if split.scheme == "paper":
        raise RecipeError(
            "--folds splits by subject, the recipe's [split] scheme 'paper' by patch: remove one of them."
        )
    for part, given in (("test", split.test), ("validation", split.validation)):
        if not isinstance(given, int):
            raise RecipeError(
                f"--folds deals the subjects out, but the recipe's [split] has {part} = {given!r}: leave out --folds, "
                "or write a number there."
            )


def _number_of(folds: str, recipe: Recipe, dataset: TravellingHeads) -> int:
    """How many folds; as many as there are subjects for `loso`."""
    whole = dataset.subjects_with((recipe.source.name, *recipe.task.target_names))
    number = len(whole) if folds == LOSO else int(folds) if folds.isdecimal() else 0
    if folds != LOSO and number < 2:
        raise RecipeError(f"--folds {folds!r} is not understood: give 2 or more, or {LOSO!r}.")
    if not 2 <= number <= len(whole):
        raise DataError(
            f"--folds {folds} needs {max(number, 2)} subjects or more who were scanned on every platform, found "
            f"{len(whole)}: add subjects{f', or give {len(whole)} or fewer' if len(whole) > 1 else ''}."
        )
    return number


def share(parts: Sequence[T], part: str | None) -> list[T]:
    """Every n-th of them, for machine m of n given as `m/n`; all where None.

    >>> share("abcde", "2/3")
    ['b', 'e']
    """
    if part is None:
        return list(parts)
    match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", part)
    if match is None or int(match[1]) > int(match[2]):
        raise RecipeError(f"--part {part!r} is not understood: write 2/8 for the second of eight machines.")
    return list(parts[int(match[1]) - 1 :: int(match[2])])


def refuse_foreign(out: Path, names: Collection[str]) -> None:
    """Refuse a folder that holds anything but the runs of these names, or is none; hidden files are passed."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: choose a folder for the runs.")
    found = (path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else ()
    if foreign := min(set(found) - set(names), default=None):
        raise OutputError(f"{out} holds {foreign}, which is none of these folds and seeds: choose another folder.")


def attempt(part: Part, train: Callable[[], Trained], *, alone: bool) -> Result:
    """What comes of training a part, also where that fails in a way in which others need not.

    Args:
        part: What is trained.
        train: Trains it.
        alone: Whether no other process takes part in the training. Where one does, every error ends it: only some
            processes may have met it, and no two may go on with different parts.

    Raises:
        HarmonetError: The recipe or the place for output is wrong, which no other part would mend; names the part.
    """
    try:
        run = train()
    except HarmonetError as error:
        if alone and isinstance(error, DataError | RunError):
            return Result(part.name, part.test, failure=str(error))
        raise type(error)(f"{part.name}: {error}") from None
    return result_of(part.name, run)


def result_of(name: str, run: Trained) -> Result:
    """What came of a finished run."""
    validation = run.facts["validation"]
    chosen = {platform: choice["candidate"] for platform, choice in validation["chosen"].items()}
    errors = {platform: validation["candidates"][platform][candidate] for platform, candidate in chosen.items()}
    return Result(name, run.split.test, dict(run.networks), errors, validation["score"])

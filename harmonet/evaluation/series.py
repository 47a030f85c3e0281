"""Runs that are one method: the folds and seeds of a sweep, and what of several runs can stand in one table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonet.data.duplicates import fingerprint
from harmonet.data.layout import TravellingHeads
from harmonet.data.splits import PAPER
from harmonet.errors import DataError, RunError
from harmonet.runs.folder import MODEL, Trained

PART = re.compile(r"fold-\d+of\d+(_seed-\d+)?|seed-\d+")  # as `harmonet train --folds --seeds` names run folders


@dataclass(frozen=True, eq=False)
class Series:
    """One run, or the runs of one sweep, whose methods share a row.

    Attributes:
        name: Of the run folder, or of the folder of runs.
        runs: In order.
    """

    name: str
    runs: Sequence[Trained]

    @property
    def subjects(self) -> frozenset[str]:
        """Everybody whom one of the runs held out."""
        return frozenset(name for run in self.runs for name in run.split.test)

    def holding_out(self, subject: str) -> list[Trained]:
        """The runs that this subject tests: one for each seed."""
        return [run for run in self.runs if subject in run.split.test]


def run_folders(folders: Iterable[Path]) -> list[Path]:
    """The run folders, where each folder of a sweep stands for the run folders in it."""
    found: list[Path] = []
    for folder in folders:
        parts = sorted(p for p in folder.glob("*") if p.is_dir() and PART.fullmatch(p.name)) if folder.is_dir() else []
        found += [folder] if (folder / MODEL).is_file() or not parts else parts
    return found


def series_of(runs: Sequence[Trained]) -> list[Series]:
    """The runs, those of one sweep together.

    Raises:
        RunError: Runs of a sweep differ in more than fold and seed, or runs do not belong in one table.
    """
    groups: dict[Path, list[Trained]] = {}
    for run in runs:
        folder = run.folder.resolve()
        groups.setdefault(folder.parent if PART.fullmatch(folder.name) else folder, []).append(run)
    table = [Series(folder.name, members) for folder, members in groups.items()]
    names = [series.name for series in table]
    twice = [run.folder for run in runs if sum(run.folder.resolve() == other.folder.resolve() for other in runs) > 1]
    if len(set(names)) < len(names) or twice:
        told = ", ".join(str(folder) for folder in twice) if twice else ", ".join(names)
        raise RunError(f"runs in one table need different names, found {told}: rename a folder, or name it once.")
    for series in table:
        _refuse_unlike(series)
    first = table[0]
    for other in table[1:]:
        one, two = first.runs[0], other.runs[0]
        if one.task != two.task or one.recipe.representation != two.recipe.representation:
            raise RunError(f"{two.folder} and {one.folder} predict other platforms or channels: evaluate them apart.")
        if first.subjects != other.subjects:
            raise RunError(
                f"{other.name} tests on {_listed(other.subjects)}, {first.name} on {_listed(first.subjects)}: "
                "runs in one table need the same test subjects."
            )
    return table


def _refuse_unlike(series: Series) -> None:
    """Refuse to pool runs that are not one recipe, or that do not test each subject equally often."""
    first = series.runs[0]
    for run in series.runs[1:]:
        differ = sorted(name for name, value in _recipe_of(run).items() if value != _recipe_of(first)[name])
        if differ:
            raise RunError(
                f"{run.folder} and {first.folder} cannot be pooled, their recipes differ in {', '.join(differ)}: "
                "evaluate them apart."
            )
    by_subject = {name: series.holding_out(name) for name in sorted(series.subjects)}
    for name, runs in by_subject.items():
        seeds = [run.recipe.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            a, b = (run.folder for run in runs if seeds.count(run.recipe.seed) > 1)
            raise RunError(f"{a} and {b} cannot be pooled, both test {name} with one seed: evaluate them apart.")
    few, many = (pick(by_subject, key=lambda name: len(by_subject[name])) for pick in (min, max))
    if len(by_subject[few]) < len(by_subject[many]):
        raise RunError(
            f"{_folders(by_subject[many])} and {_folders(by_subject[few])} cannot be pooled, {many} is tested by "
            f"{len(by_subject[many])} runs and {few} by {len(by_subject[few])}: train or name the missing seeds."
        )


def _recipe_of(run: Trained) -> dict[str, object]:
    """What runs of one sweep share; the seed of the data's order is that of the run."""
    return {name: value for name, value in run.recipe.model_dump().items() if name not in ("seed", "split")}


def _folders(runs: Sequence[Trained]) -> str:
    return ", ".join(str(run.folder) for run in runs)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def tested_subjects(table: Sequence[Series], dataset: TravellingHeads) -> tuple[str, ...]:
    """The test subjects of all series, in the order of the data set.

    Raises:
        DataError: One is not in the data set.
    """
    wanted = table[0].subjects
    missing = wanted - set(dataset.subjects)
    if missing:
        raise DataError(
            f"{dataset.root} lacks the test subjects {', '.join(sorted(missing))}: "
            f"it has {', '.join(dataset.subjects)}; give the data set that the run was split on."
        )
    return tuple(name for name in dataset.subjects if name in wanted)


def leaks(table: Sequence[Series], dataset: TravellingHeads, *, allow_leak: bool) -> bool:
    """Whether a run was trained on one of its own test subjects, under its own or another name.

    Raises:
        RunError: It was, and that is neither allowed nor what the recipe asks for by name.
    """
    leaky = False
    for run in (run for series in table for run in series.runs):
        if run.split.scheme == PAPER:
            leaky = True  # the recipe asked for it by name
            continue
        trained = {*run.split.train, *run.split.validation}
        images: dict[str, str] = {image: name for name, image in run.facts["images"].items()}
        for name in run.split.test:
            other = images.get(fingerprint(dataset.acquisition(name, run.task.source.name).dwi))
            if name not in trained and other is None:
                continue
            leaky = True
            if not allow_leak:
                which = name if other in (None, name) else f"{name}, who is {other} of the run,"
                raise RunError(f"{which} trained a run: test on others, or use --allow-leak to mark the result.")
    return leaky

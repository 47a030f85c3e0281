"""From a data set on disk to heads: read, checked, represented, kept in the cache and brought together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harmonet import plugins
from harmonet.build import kinds_of, representation_of, shells_of
from harmonet.data.acquisition import Acquisition
from harmonet.data.cache import Cache
from harmonet.data.gradients import SHELL_TOLERANCE
from harmonet.data.layout import TravellingHeads, describe
from harmonet.data.orientation import check_orientation
from harmonet.data.protocol import Protocol, read_protocol
from harmonet.data.represent import represent
from harmonet.data.scan import Scan, read_scan
from harmonet.data.volumes import Head, Volume, bring_together
from harmonet.errors import DataError, NotFoundError, nearest
from harmonet.platforms import Grid, Platform, Task
from harmonet.recipe import Recipe
from harmonet.training.loop import Watch

ORIENTATION, INPUTS = "orientation", "inputs"
ACCEPTABLE = (ORIENTATION, INPUTS)  # checks whose finding a user may override by name


@dataclass(frozen=True)
class Reading:
    """How acquisitions are read.

    Attributes:
        auto_mask: Make masks with dipy's `median_otsu` where there are none.
        accept: Names of checks whose finding is overridden: it becomes a note.
        cache: Where represented volumes are kept; nowhere where None.
        say: Takes a sentence on what was found or done.
    """

    auto_mask: bool = False
    accept: frozenset[str] = frozenset()
    cache: Cache | None = None
    say: Callable[[str], None] = lambda _: None


def read_checked(acquisition: Acquisition, reading: Reading) -> Scan:
    """The scan, with the check that needs its anatomy.

    Raises:
        DataError: A file is unusable, or the b-vectors do not fit the image and that is not accepted.
    """
    scan = read_scan(acquisition, auto_mask=reading.auto_mask)
    problem = check_orientation(scan) if acquisition.bvec is not None else None
    if problem is None:
        return scan
    if ORIENTATION not in reading.accept:
        raise DataError(f"{problem.rstrip('.')}; where the table is right, use `--accept {ORIENTATION}`.")
    return replace(scan, notes=(*scan.notes, f"accepted: {problem}"))


def read_heads(
    dataset: TravellingHeads,
    subjects: Iterable[str],
    recipe: Recipe,
    watch: Watch,
    reading: Reading = Reading(),
) -> list[Head]:
    """The subjects' volumes, represented and brought together; not yet standardised.

    A platform that a subject was not scanned on is missing from its head.

    Raises:
        DataError: A file is unusable, or does not fit the recipe.
    """
    names = list(subjects)
    heads = []
    for number, subject in enumerate(names):
        heads.append(_head(dataset, subject, recipe, reading))
        watch("reading", number + 1, len(names), subject)
    return heads


def _head(dataset: TravellingHeads, subject: str, recipe: Recipe, reading: Reading) -> Head:
    task, encoder, shells = recipe.task, representation_of(recipe), shells_of(recipe.task)
    settings = {
        "representation": recipe.representation.name,
        "provider": plugins.provided_by(recipe.representation.name),
        "options": recipe.representation.options,
        "shells": list(shells),
        "auto_mask": reading.auto_mask,
        "accept": sorted(reading.accept),
    }

    def volume(platform: Platform) -> Volume:
        acquisition = dataset.acquisition(subject, platform.name)
        check_voxels(read_protocol(acquisition).grid, platform, acquisition.name)

        def make() -> Volume:
            scan = read_checked(acquisition, reading)
            return replace(represent(scan, encoder, shells), notes=scan.warnings)

        return make() if reading.cache is None else reading.cache.volume(acquisition, settings, make)

    source = volume(task.source)
    here = [p for p in task.targets if (subject, p.name) in dataset.acquisitions]
    head = bring_together(subject, source, {p.name: volume(p) for p in here}, task.upsampling, kinds_of(recipe))
    for sentence in head.notes:
        reading.say(sentence)
    return head


def check_voxels(grid: Grid, platform: Platform, name: str) -> None:
    """Refuse an image whose voxels are not those that the recipe was made for."""
    found, wanted = np.asarray(grid.voxel_size), np.asarray(platform.voxel_size)
    if np.abs(found - wanted).max() > 0.01 * wanted.max():
        raise DataError(
            f"{name} has voxels of {_mm(found)}, the recipe says {_mm(wanted)}: "
            "make the recipe from these data (harmonet compose --data)."
        )


def _mm(size: Iterable[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in size) + " mm"


def task_of(dataset: TravellingHeads, source: str, shells: Sequence[float] = ()) -> Task:
    """The platforms of a data set, as the headers and tables of all its subjects have them; no image is read.

    Args:
        dataset: Travelling heads.
        source: The platform that is read.
        shells: The b-values to use, in s/mm²; all where none are given.

    Raises:
        DataError: A platform differs between subjects, or lacks a shell.
    """
    if source not in dataset.platforms:
        raise NotFoundError(f"{dataset.root} has no platform {source!r}. {nearest(source, dataset.platforms)}")
    platforms = {name: describe(_protocols(dataset, name)) for name in dataset.platforms}
    for name, platform in platforms.items():
        for shell in shells:
            if not any(abs(b - shell) <= SHELL_TOLERANCE for b in platform.shells):
                raise DataError(f"{name} has no shell at b = {shell:g} s/mm², only {list(platform.shells)}.")
        if shells:
            platforms[name] = replace(platform, shells=tuple(shells))
    targets = tuple(platform for name, platform in platforms.items() if name != source)
    return Task(platforms[source], targets)


def _protocols(dataset: TravellingHeads, platform: str) -> Iterator[Protocol]:
    for subject in dataset.subjects_with([platform]):
        yield read_protocol(dataset.acquisition(subject, platform))

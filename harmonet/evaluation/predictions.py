"""What every row says of a subject, one volume at a time: baselines, networks alone, their mean, stages."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet.build import representation_of, shells_of
from harmonet.data.layout import TravellingHeads
from harmonet.data.represent import represent
from harmonet.data.resample import resample
from harmonet.data.scan import truth_scan
from harmonet.data.volumes import Head
from harmonet.evaluation.result import Kind
from harmonet.evaluation.series import Series
from harmonet.inference import Where
from harmonet.methods.method import Method
from harmonet.runs.answering import stages_of
from harmonet.runs.folder import MODEL, Trained, is_complete, load
from harmonet.runs.train import SINGLES

Floats = NDArray[np.float32]

NOISE = "the target itself"  # its error against truth is the noise in it
ENSEMBLE = "mean of singles"
CHOSEN = "chosen on validation"  # of several networks, the one for each platform


@dataclass(frozen=True, eq=False)
class Predicted:
    """What one method says of one platform.

    Attributes:
        method: Its name in the table.
        kind: What it is.
        run: The run folder's name; empty for what no run predicted.
        platform: What is predicted.
        channels: (X, Y, Z, C) raw.
        variance: The same, where a network gives it.
    """

    method: str
    kind: Kind
    run: str
    platform: str
    channels: Floats
    variance: Floats | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """A network alone, or the whole of a run: its name, its kind, its run's folder name, and how to load it."""

    name: str
    kind: Kind
    run: str
    load: Callable[[], Trained]


def members_of(series: Series, subject: str, *, with_name: bool) -> list[list[Member]]:
    """For each run that the subject tests: each single network as it was pre-trained, then the run's own model."""
    prefix = prefix_of(series, with_name=with_name)
    return [_members(run, prefix) for run in series.holding_out(subject)]


def prefix_of(series: Series, *, with_name: bool) -> str:
    """What begins the names of a series' rows; a method always has it, since a baseline may be called like it."""
    return f"{series.name}: " if with_name or series.runs[0].methods else ""


def _members(run: Trained, prefix: str) -> list[Member]:
    name = run.folder.name
    if run.methods:
        return [Member(f"{prefix}{run.recipe.model.method}", "method", name, lambda: run)]
    singles = [folder for folder in sorted((run.folder / SINGLES).glob("*")) if is_complete(folder)]
    found = [Member(prefix + _network_of(folder), "single", name, partial(load, folder)) for folder in singles]
    if run.recipe.model.fusion is not None:
        found.append(Member(f"{prefix}{run.recipe.model.fusion}", "stage", name, lambda: run))
    elif not (run.folder / SINGLES).is_dir():
        several = any(len(names) > 1 for names in run.recipe.model.candidates.values())
        network = CHOSEN if several else next(iter(run.networks.values()))
        found.append(Member(f"{prefix}{network}", "single", name, lambda: run))
    return found


def _network_of(folder: Path) -> str:
    """The name of the one network in a single's folder, read without its weights."""
    networks: dict[str, str] = json.loads((folder / MODEL).read_bytes())["networks"]
    return next(iter(networks.values()))


def from_baselines(
    head: Head, platform: str, truth: Floats | None, methods: Mapping[str, Method]
) -> Iterator[Predicted]:
    """The rows that no run predicted, in the order of the table.

    Args:
        head, platform: What is predicted.
        truth: Noise-free channels, where they are known: then the target itself is a row.
        methods: Name to method, all that could learn having learned.
    """
    target = head.targets[platform]
    for name, method in methods.items():
        said = method.predict(head.source, target.grid)
        said[~target.mask] = 0
        yield Predicted(name, "baseline", "", platform, said)
    if truth is not None:
        yield Predicted(NOISE, "floor", "", platform, target.channels)


def from_run(members: Sequence[Member], head: Head, step: Callable[[str], None]) -> Iterator[Predicted]:
    """What one run says of every platform: its networks alone, the mean of those of a platform, its stages."""
    sums: dict[str, list[Floats]] = {}
    for place, member in enumerate(members):
        step(member.name)
        trained = member.load()
        for predicted in _predict(member, trained, head):
            yield predicted
            if member.kind == "single":
                held = sums.setdefault(predicted.platform, [np.zeros_like(predicted.channels), np.zeros(1, np.float32)])
                held[0] += predicted.channels
                held[1] += 1
        if place + 1 == len(members) or members[place + 1].kind != "single":
            yield from _means(member, sums)
            sums = {}


def _means(member: Member, sums: Mapping[str, Sequence[Floats]]) -> Iterator[Predicted]:
    """The plain mean of a platform's networks, an ensemble that costs no training beyond theirs."""
    prefix = member.name.rpartition(": ")[0]
    name = f"{prefix}: {ENSEMBLE}" if prefix else ENSEMBLE
    for platform, (total, count) in sums.items():
        if count[0] > 1:
            yield Predicted(name, "control", member.run, platform, total / count[0])


def _predict(member: Member, run: Trained, head: Head) -> Iterator[Predicted]:
    """Raw channels by platform, one row per stage."""
    where = {p: Where(head.targets[p].grid, head.alignments[p]) for p in run.task.target_names if p in head.targets}
    stages = stages_of(run, head.source, where)
    for number, stage in enumerate(stages):
        method = f"{member.name}, stage {number}" if len(stages) > 1 else member.name
        for platform, channels in stage.items():
            yield Predicted(method, member.kind, member.run, platform, channels, stage.variances.get(platform))


def truths_of(dataset: TravellingHeads, head: Head, run: Trained) -> dict[str, Floats]:
    """Noise-free channels of each target platform, where the data set has them, on the target's grid."""
    encoder, shells = representation_of(run.recipe), shells_of(run.task)
    found = {}
    for platform, target in head.targets.items():
        scan = truth_scan(dataset.acquisition(head.subject, platform))
        if scan is not None:
            volume = represent(scan, encoder, shells)
            found[platform] = volume.channels
            if not volume.grid.same_as(target.grid):  # the target was resampled
                found[platform], _ = resample(volume.channels, volume.mask, volume.grid, target.grid)
    return found

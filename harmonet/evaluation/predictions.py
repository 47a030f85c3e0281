"""What every method says of a subject, one volume at a time: baselines, networks alone, their mean, stages."""

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
from harmonet.evaluation.baselines import identity, interpolation
from harmonet.evaluation.floors import Fitted
from harmonet.evaluation.result import Kind
from harmonet.evaluation.series import Series
from harmonet.inference import Filled, Where, predict_stages
from harmonet.runs.folder import MODEL, Trained, is_complete, load
from harmonet.runs.train import SINGLES

Floats = NDArray[np.float32]

NOISE = "the target itself"  # its error against truth is the noise in it
ENSEMBLE = "mean of singles"


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
    prefix = f"{series.name}: " if with_name else ""
    return [_members(run, prefix) for run in series.holding_out(subject)]


def _members(run: Trained, prefix: str) -> list[Member]:
    name = run.folder.name
    singles = [folder for folder in sorted((run.folder / SINGLES).glob("*")) if is_complete(folder)]
    found = [Member(prefix + _network_of(folder), "single", name, partial(load, folder)) for folder in singles]
    if run.recipe.model.fusion is not None:
        found.append(Member(f"{prefix}{run.recipe.model.fusion}", "stage", name, lambda: run))
    elif not (run.folder / SINGLES).is_dir():
        ((_, network), *_) = run.networks.items()
        found.append(Member(f"{prefix}{network}", "single", name, lambda: run))
    return found


def _network_of(folder: Path) -> str:
    """The name of the one network in a single's folder, read without its weights."""
    networks: dict[str, str] = json.loads((folder / MODEL).read_bytes())["networks"]
    return next(iter(networks.values()))


def from_baselines(
    head: Head, platform: str, truth: Floats | None, fitted: Mapping[str, Fitted], orders: Mapping[str, slice]
) -> Iterator[Predicted]:
    """The rows that no run predicted, in the order of the table.

    Args:
        head, platform: What is predicted.
        truth: Noise-free channels, where they are known: then the target itself is a row.
        fitted: Platform to what the training subjects taught; empty where they are not there.
        orders: Channels that are scaled together; empty for a scalar image, which has no orders.
    """
    target, source = head.targets[platform], interpolation(head, platform)
    yield Predicted("identity", "baseline", "", platform, identity(head, platform))
    yield Predicted("interpolation", "baseline", "", platform, source)
    if platform in fitted:
        learned = fitted[platform]
        yield Predicted("linear", "baseline", "", platform, learned.linear(source, target.mask))
        if orders:
            scaled = learned.rish_linear(source, target.mask, target.grid, orders)
            yield Predicted("rish_linear", "baseline", "", platform, scaled)
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
    """Raw channels by platform, one method per stage."""
    source = run.standardise_source.standardisation_for(head.source).apply(head.source)
    where = {p: Where(head.targets[p].grid, head.alignments[p]) for p in run.task.target_names if p in head.targets}
    stages: list[Filled] = predict_stages(run.model, source, head.source.mask, where, run.recipe.model.patch_size)
    for number, stage in enumerate(stages):
        method = f"{member.name}, stage {number}" if len(stages) > 1 else member.name
        for platform, channels in stage.items():
            scale = run.standardise[platform]
            variance = stage.variances.get(platform)
            raw = None if variance is None else variance * scale.std.astype(np.float32) ** 2
            yield Predicted(method, member.kind, member.run, platform, scale.invert(channels), raw)


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

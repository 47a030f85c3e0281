"""Scoring: whole volumes of held-out subjects, the subject as the unit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.build import representation_of, shells_of
from harmonet.data.duplicates import fingerprint
from harmonet.data.layout import TravellingHeads
from harmonet.data.represent import represent
from harmonet.data.resample import resample
from harmonet.data.scan import truth_scan
from harmonet.data.splits import PAPER
from harmonet.data.volumes import Head
from harmonet.errors import DataError, RunError
from harmonet.evaluation.baselines import BASELINES
from harmonet.inference import Filled, Where, predict_stages
from harmonet.metrics.sh_error import calibration, sh_mse, sh_mse_by_group
from harmonet.model import Model
from harmonet.reading import Reading, read_heads
from harmonet.runs.folder import Trained, is_complete, load
from harmonet.runs.train import SINGLES
from harmonet.training.loop import Watch

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Error of one method on one platform of one subject.

    Attributes:
        method: Baseline, network, or run and stage.
        platform, subject: What was predicted for whom.
        against: `target` (the noisy image) or `truth` (the noise-free one, known for simulated data).
        sh_mse: Mean squared error of the SH coefficients in the target's mask, raw units of S / S0.
        by_group: The same for each group of channels that the representation names, such as `l = 2`.
        calibration: Of a method with a variance, the mean of squared error over variance: 1 where it is honest.
    """

    method: str
    platform: str
    subject: str
    against: str
    sh_mse: float
    by_group: Mapping[str, float]
    calibration: float | None = None


@dataclass(frozen=True, eq=False)
class Maps:
    """One subject's volumes of one platform for pictures, each (X, Y, Z, C) on the target's grid.

    Channels are SH of the signal (order 4) whatever the representation was; one channel for a scalar image.
    """

    platform: str
    subject: str
    mask: NDArray[np.bool_]
    source: Floats
    target: Floats
    truth: Floats | None
    prediction: Floats
    method: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of all methods on all test subjects.

    Attributes:
        scores: One per method, platform, subject and reference.
        methods: In the order of the table.
        platforms: Target platforms.
        subjects: Test subjects.
        label: What must be said of the data.
        leaky: Whether a test subject had been trained on.
        measure: What the channels are.
        notes: What reading the subjects had to say, a sentence each.
        maps: The first subject's volumes.
    """

    scores: Sequence[Score]
    methods: Sequence[str]
    platforms: Sequence[str]
    subjects: Sequence[str]
    label: str
    leaky: bool
    measure: str
    notes: Sequence[str]
    maps: Sequence[Maps]

    def values(self, method: str, platform: str, against: str) -> list[float]:
        """Errors of one method on one platform, one per subject."""
        return [s.sh_mse for s in self.scores if (s.method, s.platform, s.against) == (method, platform, against)]

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        return {
            "label": self.label,
            "leaky": self.leaky,
            "measure": self.measure,
            "notes": list(self.notes),
            "subjects": list(self.subjects),
            "platforms": list(self.platforms),
            "scores": [asdict(score) for score in self.scores],
        }

    @property
    def references(self) -> list[str]:
        """`target`, and `truth` where it is known."""
        return [name for name in ("target", "truth") if any(s.against == name for s in self.scores)]


NOISE = "the target itself"  # its error against truth is the noise in it


def evaluate(
    runs: Sequence[Trained],
    dataset: TravellingHeads,
    watch: Watch,
    *,
    allow_leak: bool = False,
    reading: Reading = Reading(),  # noqa: B008  frozen
) -> Evaluation:
    """Errors on the test subjects of every run and of the single networks inside it, beside the baselines.

    Raises:
        RunError: The runs do not belong together, or a test subject was trained on.
        DataError: A test subject is not in the data set.
    """
    first = runs[0]
    subjects = _subjects(runs, dataset)
    leaky = _leaks(runs, dataset, subjects, allow_leak)
    members = [member for run in runs for member in _members(run, with_name=len(runs) > 1)]
    scores: list[Score] = []
    maps: list[Maps] = []
    notes: list[str] = []
    for number, subject in enumerate(subjects):
        head = read_heads(dataset, [subject], first.recipe, lambda *_: None, reading)[0]
        notes += head.notes
        truths = _truths(dataset, head, first)
        predicted: dict[str, Filled] = {}
        for step, (name, run, model) in enumerate(members):
            watch("evaluating", number * len(members) + step, len(subjects) * len(members), f"{subject}: {name}")
            predicted |= _predict(name, run, model, head, predicted)
        for platform in head.targets:
            rows = _rows(head, platform, predicted, truths)
            variances = {m: stage.variances[platform] for m, stage in predicted.items() if platform in stage.variances}
            scores += _scores(head, platform, rows, variances, truths, first.representation.groups())
            if number == 0:
                maps.append(_maps(head, platform, rows, truths, first))
    watch("evaluating", len(subjects) * len(members), len(subjects) * len(members), "done")
    return Evaluation(
        scores=scores,
        methods=list(dict.fromkeys(s.method for s in scores)),
        platforms=first.task.target_names,
        subjects=subjects,
        label=dataset.label,
        leaky=leaky,
        measure=first.representation.measure,
        notes=notes,
        maps=maps,
    )


def _rows(
    head: Head, platform: str, predicted: Mapping[str, Filled], truths: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Method to what it says of one platform, in the order of the table: baselines, noise floor, networks, stages."""
    rows = {name: baseline(head, platform) for name, baseline in BASELINES.items()}
    if platform in truths:
        rows[NOISE] = head.targets[platform].channels
    return rows | {method: stage[platform] for method, stage in predicted.items() if platform in stage}


def _scores(
    head: Head,
    platform: str,
    rows: Mapping[str, Floats],
    variances: Mapping[str, Floats],
    truths: Mapping[str, Floats],
    groups: Mapping[str, slice],
) -> Iterator[Score]:
    """Errors of every method against the target, and against the truth where it is known."""
    target = head.targets[platform]
    references = {"target": target.channels} | ({"truth": truths[platform]} if platform in truths else {})
    for method, channels in rows.items():
        for against, reference in references.items():
            if (method, against) != (NOISE, "target"):
                yield Score(
                    method,
                    platform,
                    head.subject,
                    against,
                    sh_mse(channels, reference, target.mask),
                    sh_mse_by_group(channels, reference, target.mask, groups),
                    calibration(channels, variances.get(method), reference, target.mask),
                )


def _maps(head: Head, platform: str, rows: Mapping[str, Floats], truths: Mapping[str, Floats], run: Trained) -> Maps:
    """What the pictures show: the source, interpolated, beside the last method's prediction and the references."""
    target, last = head.targets[platform], list(rows)[-1]
    view = _view(run)
    truth = truths.get(platform)
    return Maps(
        platform,
        head.subject,
        target.mask,
        source=view(rows["interpolation"]),
        target=view(target.channels),
        truth=None if truth is None else view(truth),
        prediction=view(rows[last]),
        method=last,
    )


def _view(run: Trained) -> Callable[[Floats], Floats]:
    """Channels (X, Y, Z, C) of any representation as SH of the signal in the first shell; a scalar image as it is."""
    if not run.representation.uses_gradients:
        return lambda channels: channels
    directions = sh.spread(60)
    bvals = np.full(len(directions), shells_of(run.task)[0])
    decode, fit = run.representation.decoder(bvals, directions), sh.fit_matrix(directions, 4, 0.0).T

    def view(channels: Floats) -> Floats:
        signal = decode(channels.reshape(-1, channels.shape[-1]))
        return np.asarray(signal @ fit, dtype=np.float32).reshape(*channels.shape[:3], -1)

    return view


def _subjects(runs: Sequence[Trained], dataset: TravellingHeads) -> tuple[str, ...]:
    """The test subjects that all runs share."""
    first = runs[0]
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise RunError(f"runs in one table need different names, found {', '.join(names)}: rename a folder.")
    for run in runs[1:]:
        if run.task != first.task or run.recipe.representation != first.recipe.representation:
            raise RunError(f"{run.folder} and {first.folder} predict other platforms or channels: evaluate them apart.")
        if run.split.test != first.split.test:
            raise RunError(
                f"{run.folder} tests on {', '.join(run.split.test)}, {first.folder} on {', '.join(first.split.test)}: "
                "runs in one table need the same test subjects."
            )
    missing = set(first.split.test) - set(dataset.subjects)
    if missing:
        raise DataError(
            f"{dataset.root} lacks the test subjects {', '.join(sorted(missing))}: "
            f"it has {', '.join(dataset.subjects)}; give the data set that the run was split on."
        )
    return first.split.test


def _leaks(runs: Sequence[Trained], dataset: TravellingHeads, subjects: Sequence[str], allow_leak: bool) -> bool:
    """Whether a test subject trained a run, under its own or another name; refused unless allowed or asked for."""
    if any(run.split.scheme == PAPER for run in runs):
        return True  # the recipe asked for it by name
    trained = {name for run in runs for name in (*run.split.train, *run.split.validation)}
    images: dict[str, str] = {image: name for run in runs for name, image in run.facts["images"].items()}
    source = runs[0].task.source.name
    for name in subjects:
        other = images.get(fingerprint(dataset.acquisition(name, source).dwi))
        if name in trained or other is not None:
            if allow_leak:
                return True
            which = name if other in (None, name) else f"{name}, who is {other} of the run,"
            raise RunError(f"{which} trained a run: test on others, or use --allow-leak to mark the result.")
    return False


def _members(run: Trained, *, with_name: bool) -> Iterator[tuple[str, Trained, Model]]:
    """Each single network as it was pre-trained, then the run's own model."""
    prefix = f"{run.folder.resolve().name}: " if with_name else ""
    for folder in sorted((run.folder / SINGLES).glob("*")):
        if is_complete(folder):
            single = load(folder)
            ((_, network),) = single.networks.items()
            yield f"{prefix}{network}", single, single.model
    if run.recipe.model.fusion is not None:
        yield f"{prefix}{run.recipe.model.fusion}", run, run.model
    elif not (run.folder / SINGLES).is_dir():
        ((_, network), *_) = run.networks.items()
        yield f"{prefix}{network}", run, run.model


def _predict(name: str, run: Trained, model: Model, head: Head, before: Mapping[str, Filled]) -> dict[str, Filled]:
    """Method name to raw channels by platform, one method per stage, added to what the method predicted before."""
    source = run.standardise_source.standardisation_for(head.source).apply(head.source)
    where = {p: Where(head.targets[p].grid, head.alignments[p]) for p in run.task.target_names if p in head.targets}
    stages = predict_stages(model, source, head.source.mask, where, run.recipe.model.patch_size)
    found = {}
    for number, stage in enumerate(stages):
        method = f"{name}, stage {number}" if len(stages) > 1 else name
        found[method] = raw = before.get(method, Filled())
        for platform, channels in stage.items():
            raw[platform] = run.standardise[platform].invert(channels)
        for platform, variance in stage.variances.items():
            raw.variances[platform] = variance * run.standardise[platform].std.astype(np.float32) ** 2
    return found


def _truths(dataset: TravellingHeads, head: Head, run: Trained) -> dict[str, Floats]:
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

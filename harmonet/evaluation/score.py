"""Scoring: whole volumes of held-out subjects, one subject in memory at a time, the subject as the unit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harmonet import sh
from harmonet.build import shells_of
from harmonet.data.layout import TravellingHeads
from harmonet.data.volumes import Head
from harmonet.evaluation.floors import Floors, floors_of
from harmonet.evaluation.labels import read_labels
from harmonet.evaluation.measures import ROUTINE, Measures, context_of, measures_of
from harmonet.evaluation.patches import Errors, Place, patch_errors, patch_tests
from harmonet.evaluation.predictions import (
    NOISE,
    Member,
    Predicted,
    from_baselines,
    from_run,
    members_of,
    prefix_of,
    truths_of,
)
from harmonet.evaluation.result import Evaluation, Floats, Kind, Maps, Score
from harmonet.evaluation.series import Series, leaks, series_of, tested_subjects
from harmonet.methods.interpolation import interpolated
from harmonet.metrics.image import Image
from harmonet.metrics.sh_error import calibration
from harmonet.platforms import target_patch_size
from harmonet.reading import Reading, read_heads
from harmonet.runs.folder import Trained
from harmonet.training.loop import Watch

ORDER: tuple[Kind, ...] = ("baseline", "floor", "method", "single", "control", "stage")  # of the rows of one series
SUBJECTS, PAPER = "subjects", "paper"
PROTOCOLS = (SUBJECTS, PAPER)


@dataclass(eq=False)
class _Table:
    """What is known of the table while it fills."""

    measures: Measures
    labels: str | None
    protocol: str
    scores: list[Score] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)
    patches: dict[Place, dict[str, list[Errors]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Scene:
    """One platform of one subject: what predictions are held against."""

    head: Head
    platform: str
    references: Mapping[str, Image]
    patch_size: int


def evaluate(
    runs: Sequence[Trained],
    dataset: TravellingHeads,
    watch: Watch,
    *,
    allow_leak: bool = False,
    reading: Reading = Reading(),  # noqa: B008  frozen
    metrics: Sequence[str] = (ROUTINE,),
    labels: str | None = None,
    protocol: str = SUBJECTS,
) -> Evaluation:
    """Scores on the test subjects of every run and of the single networks inside it, beside the baselines.

    Runs of one sweep share rows: each subject is predicted by the runs that held it out, one for each seed.

    Args:
        runs: Trained runs.
        dataset: Has the test subjects and, for baselines that learn, the training subjects.
        watch: Shows the work.
        allow_leak: Score subjects that were trained on, and mark the result.
        reading: How acquisitions are read.
        metrics: Names, `routine`, or `all`.
        labels: Path of label maps, with `{subject}` and perhaps `{platform}`.
        protocol: `subjects`, or `paper` for its test over patches beside those over subjects.

    Raises:
        RunError: The runs do not belong together, or a test subject was trained on.
        DataError: A test subject is not in the data set, or a label map cannot be read.
        NotFoundError: There is no such metric.
    """
    series = series_of(runs)
    first = series[0].runs[0]
    subjects = tested_subjects(series, dataset)
    leaky = leaks(series, dataset, allow_leak=allow_leak)
    table = _Table(measures_of(metrics, first.representation), labels, protocol)
    with_name = len(series) > 1
    todo = {s: [m for each in series for m in members_of(each, s, with_name=with_name)] for s in subjects}
    total, done = sum(len(members) for runs_of in todo.values() for members in runs_of), 0
    floors, notes = floors_of(series[0], subjects, dataset, reading, watch)
    maps: list[Maps] = []
    for subject in subjects:
        head = read_heads(dataset, [subject], first.recipe, lambda *_: None, reading)[0]
        notes += head.notes
        truths = truths_of(dataset, head, first)
        scenes = {platform: _scene(head, platform, truths, first, labels) for platform in head.targets}
        shown: dict[str, Predicted] = {}
        best: dict[str, tuple[float, Predicted]] = {}

        def step(name: str, subject: str = subject) -> None:
            nonlocal done
            watch("evaluating", done, total, f"{subject}: {name}")
            done += 1

        for predicted in _all(head, truths, floors[subject], todo[subject], step):
            _add(table, scenes[predicted.platform], predicted)
            if subject == subjects[0] and predicted.kind in ("method", "single", "stage"):
                shown[predicted.platform] = predicted
                if predicted.kind == "single":  # of these only the best is kept: volumes are large
                    error = float(np.nan_to_num(table.scores[-1].sh_mse, nan=np.inf))
                    if predicted.platform not in best or error < best[predicted.platform][0]:
                        best[predicted.platform] = error, predicted
        if subject == subjects[0]:
            maps = [
                _maps(head, shown[platform], best.get(platform, (0, None))[1], truths.get(platform), first)
                for platform in head.targets
            ]
    watch("evaluating", total, total, "done")
    methods = _ordered(table.kinds, series, with_name=with_name)
    untested = [m for m in methods if table.kinds[m] in ("baseline", "floor", "method")]
    singles = [m for m in methods if table.kinds[m] == "single"]
    return Evaluation(
        scores=sorted(table.scores, key=lambda s: subjects.index(s.subject)),
        methods=methods,
        platforms=first.task.target_names,
        subjects=subjects,
        label=dataset.label,
        leaky=leaky,
        measure=first.representation.measure,
        notes=[*notes, *table.measures.trouble],
        maps=maps,
        kinds=table.kinds,
        metrics=table.measures.cards,
        prefixes={run.folder: prefix_of(each, with_name=with_name) for each in series for run in each.runs},
        patched=patch_tests(table.patches, singles, untested),
    )


def _all(
    head: Head,
    truths: Mapping[str, Floats],
    floors: Floors,
    todo: Sequence[Sequence[Member]],
    step: Callable[[str], None],
) -> Iterator[Predicted]:
    """Everything that is said of one head."""
    for platform in head.targets:
        yield from from_baselines(head, platform, truths.get(platform), floors[platform])
    for members in todo:
        yield from from_run(members, head, step)


def _scene(head: Head, platform: str, truths: Mapping[str, Floats], run: Trained, labels: str | None) -> _Scene:
    """What predictions of one platform are held against; the images keep their fits for all of them."""
    target = head.targets[platform]
    regions = None if labels is None else read_labels(labels, head.subject, platform, target.grid)
    context = context_of(head, platform, run.representation, regions)
    channels = {"target": target.channels} | ({"truth": truths[platform]} if platform in truths else {})
    references = {name: Image(values, target.mask, context) for name, values in channels.items()}
    edge = target_patch_size(run.recipe.model.patch_size, run.task.upsampling[platform])
    return _Scene(head, platform, references, edge)


def _add(table: _Table, scene: _Scene, predicted: Predicted) -> None:
    """Add what one prediction scores against the target, and against the truth where it is known."""
    table.kinds.setdefault(predicted.method, predicted.kind)
    target, subject, platform = scene.references["target"], scene.head.subject, scene.platform
    image = target if predicted.method == NOISE else Image(predicted.channels, target.mask, target.context)
    for against, reference in scene.references.items():
        if image is reference:
            continue  # the target against itself
        values = table.measures.of(image, reference, f"{platform} of {subject}")
        ratio = calibration(predicted.channels, predicted.variance, reference.channels, target.mask)
        table.scores.append(Score(predicted.method, platform, subject, against, values, predicted.run, ratio))
        if table.protocol == PAPER:
            errors = patch_errors(predicted.channels, reference.channels, target.mask, scene.patch_size)
            place = (predicted.method, platform, against)
            table.patches.setdefault(place, {}).setdefault(subject, []).append(errors)


def _ordered(kinds: Mapping[str, Kind], series: Sequence[Series], *, with_name: bool) -> list[str]:
    """Rows: baselines, then each series' networks alone, their mean, its stages; as they came within each."""
    names = [each.name for each in series]

    def place(method: str) -> tuple[int, int]:
        owner = names.index(method.partition(": ")[0]) + 1 if with_name and ": " in method else 0
        return owner, ORDER.index(kinds[method])

    return sorted(kinds, key=place)


def _maps(head: Head, predicted: Predicted, single: Predicted | None, truth: Floats | None, run: Trained) -> Maps:
    """What the pictures show: the source, interpolated, the best single network, the last method, the references."""
    target, view = head.targets[predicted.platform], _view(run)
    beside = single if single is not None and single.method != predicted.method else None
    x, y, z = (float(edge) for edge in target.grid.voxel_size)
    return Maps(
        predicted.platform,
        head.subject,
        target.mask,
        source=view(interpolated(head.source, target.grid) * target.mask[..., None]),
        target=view(target.channels),
        truth=None if truth is None else view(truth),
        prediction=view(predicted.channels),
        method=predicted.method,
        single=None if beside is None else view(beside.channels),
        rival="" if beside is None else beside.method,
        voxel_size=(x, y, z),
    )


def _view(run: Trained) -> Callable[[Floats], Floats]:
    """Channels (X, Y, Z, C) of any representation as SH of the signal in the first shell; a scalar image as it is."""
    if not run.representation.uses_gradients:
        return lambda channels: channels
    directions = sh.spread(60)
    bvals = np.full(len(directions), shells_of(run.task)[0])
    decode, fit_order = run.representation.decoder(bvals, directions), sh.fit_matrix(directions, 4, 0.0).T

    def view(channels: Floats) -> Floats:
        signal = decode(channels.reshape(-1, channels.shape[-1]))
        return np.asarray(signal @ fit_order, dtype=np.float32).reshape(*channels.shape[:3], -1)

    return view

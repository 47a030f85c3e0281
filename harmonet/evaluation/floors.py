"""The methods that stand in every table beside the runs: no claim stands without them.

Those that learn do so from the training subjects of a run, fold by fold, and from nobody else.
"""

from collections.abc import Mapping, Sequence

from harmonet.data.layout import TravellingHeads
from harmonet.evaluation.series import Series
from harmonet.methods.method import Lesson, Method, Pair
from harmonet.reading import Reading, read_heads
from harmonet.runs.folder import Trained
from harmonet.runs.method import build_method
from harmonet.training.loop import Watch

UNLEARNED, LEARNED = ("identity", "interpolation"), ("linear", "rish_linear")
BY_ORDER = ("rish_linear",)  # of these, what a scalar image, which has no orders, cannot have

Floors = Mapping[str, Mapping[str, Method]]  # platform to name to method, in the order of the table


def floors_of(
    series: Series, subjects: Sequence[str], dataset: TravellingHeads, reading: Reading, watch: Watch
) -> tuple[dict[str, Floors], list[str]]:
    """Test subject to the methods that its run's training subjects have taught, and what is to be said of it.

    Each training subject is read once, alone. One that the data set lacks makes methods that learn impossible.
    """
    run = series.runs[0]
    trained = {subject: series.holding_out(subject)[0].split.train for subject in subjects}
    wanted = sorted({name for names in trained.values() for name in names})
    missing = [name for name in wanted if name not in dataset.subjects]
    if missing:
        plain = {platform: _built(run, UNLEARNED) for platform in run.task.target_names}
        return dict.fromkeys(subjects, plain), [
            f"{' and '.join(LEARNED)} are not measured: they learn from the training subjects, and {dataset.root.name} "
            f"lacks {', '.join(missing)}"
        ]
    names = [name for name in LEARNED if run.representation.uses_gradients or name not in BY_ORDER]
    methods = _built(run, names)
    lessons: dict[tuple[str, str, str], Lesson] = {}
    for number, subject in enumerate(wanted):
        (head,) = read_heads(dataset, [subject], run.recipe, lambda *_: None, reading)
        for platform, target in head.targets.items():
            pair = Pair(subject, head.source, target)
            lessons |= {(name, platform, subject): method.learn(pair) for name, method in methods.items()}
        watch("fitting baselines", number + 1, len(wanted), subject)
    folds = {train: _fold(run, names, train, lessons) for train in set(trained.values())}
    return {subject: folds[train] for subject, train in trained.items()}, []


def _fold(
    run: Trained, names: Sequence[str], train: Sequence[str], lessons: Mapping[tuple[str, str, str], Lesson]
) -> Floors:
    """The methods that these subjects have taught."""
    found = {}
    for platform in run.task.target_names:
        found[platform] = _built(run, UNLEARNED)
        for name, method in _built(run, names).items():
            taught = [lessons[name, platform, s] for s in train if (name, platform, s) in lessons]
            if taught:  # not where none of these subjects was scanned on the platform
                method.fit(taught)
                found[platform][name] = method
    return found


def _built(run: Trained, names: Sequence[str]) -> dict[str, Method]:
    """The methods of these names with their default options, which have learned nothing yet."""
    return {name: build_method(name, run.recipe, {}) for name in names}

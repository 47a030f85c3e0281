"""Where else the history goes: programs that draw curves while a training runs, each an optional package."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from harmonet.errors import NotFoundError, RecipeError, nearest
from harmonet.training.history import Line, Tracker


def trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """What is told each line of a run's history.

    Args:
        names: Any of `tensorboard`, `mlflow`, `wandb`.
        folder: The run's; TensorBoard's files lie in it, the others' wherever their own settings say.

    Raises:
        NotFoundError: There is no such tracker.
        RecipeError: Its package is not installed.
    """
    return [_built(name, folder) for name in names]


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what `trackers` would refuse, before anything is trained."""
    for name in names:
        _package(name)


def _built(name: str, folder: Path) -> Tracker:
    return TRACKERS[name](_package(name), folder)


def _package(name: str) -> Any:
    if name not in TRACKERS:
        raise NotFoundError(f"no tracker {name!r}. {nearest(name, TRACKERS)}")
    try:
        return import_module(PACKAGES[name])
    except ImportError as error:
        raise RecipeError(
            f"[training] trackers names {name}, found that {error}: install it, or remove it from the recipe."
        ) from None


def numbers_in(line: Line, before: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a line, nested ones under joined names.

    >>> list(numbers_in({"loss": 0.5, "phase": "msp", "validation": {"1/a": 2}}))
    [('loss', 0.5), ('validation/1/a', 2.0)]
    """
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from numbers_in(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield before + name, float(value)


def _tensorboard(package: Any, folder: Path) -> Tracker:
    writer = package.SummaryWriter(str(folder / "tensorboard"))

    def track(line: Line) -> None:
        for name, value in numbers_in(line):
            writer.add_scalar(f"{line['phase']}/{name}", value, line["step"])
        writer.flush()

    return track


def _mlflow(package: Any, folder: Path) -> Tracker:
    if package.active_run() is None:
        package.start_run(run_name=folder.name)

    def track(line: Line) -> None:
        found = {f"{line['phase']}/{name}".replace("@", "_"): value for name, value in numbers_in(line)}
        package.log_metrics(found, step=line["step"])

    return track


def _wandb(package: Any, folder: Path) -> Tracker:
    run = package.run or package.init(project="harmonet", name=folder.name)

    def track(line: Line) -> None:
        run.log({f"{line['phase']}/{name}": value for name, value in numbers_in(line)})

    return track


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
PACKAGES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}

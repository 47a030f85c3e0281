"""One training of a run, as its recipe says."""

from collections.abc import Sequence
from pathlib import Path

from harmonet.build import representation_of, seed_for
from harmonet.model import Model
from harmonet.runs.folder import CHECKPOINTS, HISTORY
from harmonet.runs.material import Material
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.history import History
from harmonet.training.loop import fit
from harmonet.training.outcome import Outcome
from harmonet.training.schedule import Manner, Schedule
from harmonet.training.trackers import trackers
from harmonet.training.validation import mean_of_answers, validate


def fit_single(material: Material, model: Model, platform: str, folder: Path, phase: str) -> Outcome:
    """Train a single network alone."""
    table = material.recipe.training
    schedule = _schedule(material, (platform,), epochs=table.epochs, steps=table.steps, minutes=table.minutes)
    return _fit(material, model, (platform,), folder, phase, schedule, {})


def fit_composition(material: Material, model: Model, folder: Path, phase: str) -> Outcome:
    """Train a composition in unison."""
    table, targets = material.recipe.training, material.recipe.task.target_names
    schedule = _schedule(
        material, targets, epochs=table.joint_epochs, steps=table.joint_steps, minutes=table.joint_minutes
    )
    return _fit(material, model, targets, folder, phase, schedule, table.rates)


def score(material: Material, model: Model, platforms: Sequence[str]) -> float:
    """Validation error of a model as it is."""
    model.to(material.engine.device)
    feed, batch_size = material.validating(platforms), material.recipe.training.batch_size
    return mean_of_answers(validate(model, feed, batch_size, material.engine))


def _schedule(material: Material, platforms: Sequence[str], *, epochs: int, steps: int, minutes: float) -> Schedule:
    table, ranks = material.recipe.training, material.engine.ranks
    return Schedule(
        epochs=epochs,
        per_epoch=material.training(platforms).steps(max(table.batch_size // ranks, 1), ranks),
        steps=steps,
        minutes=minutes,
        patience=table.patience,
        learning_rate=table.learning_rate,
        shape=table.schedule,
        decay=table.decay,
        decay_every=table.decay_every,
        warm_up=table.warm_up,
    )


def _fit(
    material: Material,
    model: Model,
    platforms: Sequence[str],
    folder: Path,
    phase: str,
    schedule: Schedule,
    rates: dict[str, float],
) -> Outcome:
    recipe, table = material.recipe, material.recipe.training
    manner = Manner(
        batch_size=table.batch_size,
        accumulate=table.accumulate,
        clip=table.clip,
        skip=table.nonfinite == "skip",
        checkpoint_minutes=table.checkpoint_minutes,
        compile=table.compile,
        fused=table.fused,
    )
    return fit(
        model,
        material.training(platforms),
        material.validating(platforms),
        schedule=schedule,
        manner=manner,
        seed=seed_for(recipe, phase),
        phase=phase,
        checkpoints=Checkpoints(folder / CHECKPOINTS, material.say),
        history=History(folder / HISTORY, trackers(table.trackers, folder)),
        watch=material.watch,
        engine=material.engine,
        loss=recipe.loss.model_dump(),
        groups=representation_of(recipe).groups(),
        rates=rates,
    )

"""One training of a run, as its recipe says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harmonet.blocks.residual import Line, sums_over
from harmonet.build import lines_for, representation_of, seed_for
from harmonet.data.standardise import Standardisation
from harmonet.errors import RecipeError
from harmonet.model import Model
from harmonet.runs.folder import CHECKPOINTS, HISTORY, Trained
from harmonet.runs.material import Material
from harmonet.training.batches import to_tensors
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.history import History
from harmonet.training.loop import fit
from harmonet.training.outcome import Outcome
from harmonet.training.schedule import Manner, Schedule
from harmonet.training.trackers import trackers
from harmonet.training.validation import mean_of_answers, validate

BATCH = 24  # patches at once, of those that lines are fitted to


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


def fitted_lines(material: Material, platforms: Sequence[str]) -> dict[str, Line]:
    """What the recipe adds to predictions of each platform, fitted to the patches of a first epoch of training."""
    lines = lines_for(material.recipe, platforms)
    for platform, line in lines.items():
        feed = material.training((platform,))
        batches = (to_tensors(batch, torch.device("cpu")) for batch in feed.batches(0, BATCH))
        line.fit(torch.stack([sums_over(line, x, y[platform], inside[platform]) for x, y, inside in batches]).sum(0))
    return lines


def score(material: Material, model: Model, platforms: Sequence[str]) -> float:
    """Validation error of a model as it is."""
    model.to(material.engine.device)
    feed, batch_size = material.validating(platforms), material.recipe.training.batch_size
    return mean_of_answers(validate(model, feed, batch_size, material.engine))


def error_alone(material: Material, platform: str, run: Trained) -> float:
    """Validation error of a run's single network for a platform, without what a fusion adds."""
    model = Model({platform: run.model.singles[platform]}, {}, {})
    model.lines.update({name: line for name, line in run.model.lines.items() if name == platform})
    return score(material, model, (platform,))


def tell_statistics(network: Any, name: str, material: Material, platform: str) -> None:
    """Give a network that reads raw units the statistics that its channels were standardised with."""
    if not hasattr(network, "set_statistics"):
        return
    if material.recipe.model.residual != "none":
        raise RecipeError(f"{name} scales the source itself: set [model] residual = 'none', or leave the network out.")
    source, target = material.standardise_source, material.standardise[platform]
    if not isinstance(source, Standardisation):
        raise RecipeError(
            f"{name} reads raw units, which a source standardised by each acquisition does not have: "
            "set [representation] standardise = 'training'."
        )
    parts = (source.mean, source.std, target.mean, target.std)
    network.set_statistics(*(torch.as_tensor(part, dtype=torch.float32) for part in parts))


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

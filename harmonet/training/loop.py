"""The training loop, for single networks and compositions alike."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harmonet.data.patches import Batch, PatchFeed
from harmonet.errors import RunError
from harmonet.model import Model, answers
from harmonet.training.checkpoint import load_state, save_state
from harmonet.training.loss import Term, error_terms, loss_terms

Watch = Callable[[str, int, int, str], None]  # what is being done, done so far, of how many, a note


@dataclass
class Outcome:
    """What a training ended with.

    Attributes:
        score: Lowest validation error, the mean over platforms of the answers' standardised error.
        best_epoch: When it was reached, counted from 1; the model holds those weights.
        history: One dict per epoch.
    """

    score: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    model: Model,
    feed: PatchFeed,
    validation: PatchFeed,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    decay: float,
    decay_every: int,
    seed: int,
    phase: str,
    checkpoint: Path,
    watch: Watch,
) -> Outcome:
    """Train the model in place; it ends with the weights of lowest validation error.

    A checkpoint follows every epoch; where one exists, training continues from it, to the same weights as an
    uninterrupted one on the same machine.

    Args:
        model: Single networks or a composition.
        feed: Patches of the training subjects.
        validation: Patches of the validation subjects.
        epochs, batch_size, learning_rate, decay, decay_every, seed: The schedule; see the recipe.
        phase: What this training is called in history and progress.
        checkpoint: File of the last finished epoch.
        watch: Called after each step.

    Raises:
        RunError: The loss is not finite.
    """
    device = model.device
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    outcome, best = Outcome(), copy.deepcopy(model.state_dict())
    if checkpoint.exists():
        state = load_state(checkpoint)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        best, outcome = state["best"], Outcome(**state["outcome"])
    steps = math.ceil(len(feed) / batch_size)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for epoch in range(len(outcome.history), epochs):
            started = time.perf_counter()
            torch.manual_seed(seed + epoch)  # layers that draw (dropout) draw the same after a resume
            rate = learning_rate * decay ** (epoch // decay_every)
            for group in optimiser.param_groups:
                group["lr"] = rate
            model.train()
            total = 0.0
            for step, batch in enumerate(feed.batches(epoch, batch_size)):
                model.advance((epoch * steps + step) / (epochs * steps))
                x, targets, inside = to_tensors(batch, device)
                terms = loss_terms(model(x), targets, inside).values()
                values = len(feed) * sum(target[0].numel() for target in targets.values())
                loss = sum(terms, penalty(model) / values)
                value = loss.item()
                if not math.isfinite(value):
                    raise RunError(
                        f"{phase}: the loss is {value} at epoch {epoch + 1}, step {step + 1}: lower the learning rate; "
                        f"the last finished epoch is kept in {checkpoint}."
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += value
                watch(phase, epoch * steps + step + 1, epochs * steps, f"loss {total / (step + 1):.3f}")
            errors = validate(model, validation.batches(0, batch_size))
            score = mean_of_answers(errors)
            if score < outcome.score:
                outcome.score, outcome.best_epoch, best = score, epoch + 1, copy.deepcopy(model.state_dict())
            outcome.history.append(
                {
                    "phase": phase,
                    "epoch": epoch + 1,
                    "learning_rate": rate,
                    "alpha": alphas(model),
                    "loss": total / steps,
                    "validation": {f"{stage}/{platform}": e for (stage, platform), e in errors.items()},
                    "score": score,
                    "seconds": round(time.perf_counter() - started, 3),
                }
            )
            save_state(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "best": best,
                    "outcome": vars(outcome),
                },
            )
    model.load_state_dict(best)
    return outcome


def penalty(model: nn.Module) -> Tensor:
    """What layers add to twice the negative log-likelihood of all training data, such as a divergence from a prior.

    A layer that has something to add has a method `penalty()`, in nats.
    """
    found: list[Any] = [layer for layer in model.modules() if hasattr(layer, "penalty")]
    return 2 * sum(
        (layer.penalty() for layer in found), torch.zeros((), device=next(model.parameters(), torch.zeros(())).device)
    )


def to_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Source, targets and masks as (B, C, X, Y, Z), without a copy on the CPU."""

    def tensor(array: Any) -> Tensor:
        return torch.as_tensor(array, device=device).movedim(-1, 1)

    return (
        tensor(batch.source),
        {platform: tensor(array) for platform, array in batch.targets.items()},
        {platform: tensor(array[..., None]).float() for platform, array in batch.inside.items()},
    )


@torch.no_grad()
def validate(model: Model, batches: Iterable[Batch]) -> dict[Term, float]:
    """Mean standardised error of each stage and platform over the batches, each voxel of the masks counted once."""
    model.eval()
    sums: dict[Term, float] = {}
    counts: dict[Term, float] = {}
    for batch in batches:
        x, targets, inside = to_tensors(batch, model.device)
        for (stage, platform), error in error_terms(model(x), targets, inside).items():
            voxels = float(inside[platform].sum())
            sums[stage, platform] = sums.get((stage, platform), 0.0) + float(error) * voxels
            counts[stage, platform] = counts.get((stage, platform), 0.0) + voxels
    return {term: sums[term] / max(counts[term], 1.0) for term in sums}


def mean_of_answers(errors: dict[Term, float]) -> float:
    """Mean over platforms of the error of each one's last stage.

    >>> mean_of_answers({(0, "a"): 4.0, (0, "b"): 1.0, (1, "a"): 3.0})
    2.0
    """
    stages = [{p: e for (s, p), e in errors.items() if s == stage} for stage in sorted({s for s, _ in errors})]
    last = answers(stages)
    return float(sum(last.values()) / len(last))


def alphas(model: Model) -> float | None:
    """The fusion's alpha, where it has one."""
    values = [float(buffer) for name, buffer in model.named_buffers() if name.endswith(".alpha")]
    return max(values) if values else None

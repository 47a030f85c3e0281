"""The training loop, for single networks and compositions alike, in one process or many: `fit` is all of it."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from harmonet.data.patches import Batch, PatchFeed
from harmonet.errors import RecipeError, RunError
from harmonet.losses.weighting import Term
from harmonet.model import Model
from harmonet.training.batches import passes, to_tensors
from harmonet.training.checkpoint import LAST, Checkpoints
from harmonet.training.difference import first_difference
from harmonet.training.engine import ALONE, Engine
from harmonet.training.finite import broken_parts
from harmonet.training.groups import parameter_groups
from harmonet.training.history import History
from harmonet.training.loss import penalised, penalty
from harmonet.training.normalising import normalised_together
from harmonet.training.objective import Groups, Objective
from harmonet.training.outcome import Outcome
from harmonet.training.randomness import random_states, random_states_kept, restore_random_states, seed_all
from harmonet.training.schedule import Manner, Position, Schedule
from harmonet.training.stopping import Stop, deferred
from harmonet.training.validation import alphas, by_group, mean_of_answers, validate

Watch = Callable[[str, int, int, str], None]  # what is being done, done so far, of how many, a note


def fit(
    model: Model,
    feed: PatchFeed,
    validation: PatchFeed,
    *,
    schedule: Schedule,
    manner: Manner,
    seed: int,
    phase: str,
    checkpoints: Checkpoints,
    history: History,
    watch: Watch,
    engine: Engine = ALONE,
    loss: Mapping[str, Any] | None = None,
    groups: Groups | None = None,
    rates: Mapping[str, float] | None = None,
) -> Outcome:
    """Train the model in place; it ends with the weights of lowest validation error.

    Where there is a checkpoint, training continues from it, to the same bits as an uninterrupted one on the same
    machine's CPU. A signal to end finishes the step or leaves the validation, writes a checkpoint and ends the process.

    Args:
        model: Single networks or a composition.
        feed, validation: Patches of the training and the validation subjects.
        schedule: How long and how fast.
        manner: How steps are taken.
        seed: Of what layers draw.
        phase: What this training is called in history and progress.
        checkpoints: Where its state is kept.
        history: Told each validation.
        watch: Called after each step.
        engine: Where it computes, and with whom.
        loss: The recipe's [loss] by key; `Objective`'s defaults where None.
        groups: Names of groups of channels.
        rates: Part to a factor on its learning rate, as in `parameter_groups`.

    Raises:
        RecipeError: The batch does not divide among processes and passes.
        RunError: Loss or gradient is not finite.
    """
    with random_states_kept(), normalised_together(model, engine):
        training = _Training(model, feed, validation, schedule, manner, engine, checkpoints, phase, loss, groups, rates)
        at = training.at
        if engine.leads:
            history.begin(training.outcome.history)
        with deferred() as stop:
            while not training.over():
                if at.step == 0:
                    seed_all(seed + at.epoch)
                for batch in training.batches():
                    if schedule.done(at) >= 1:
                        break
                    mean = training.step(batch)
                    watch(phase, at.steps, schedule.total, f"loss {mean:.3f}")
                    training.heed(stop)
                    training.save_if_due()
                line = training.end_epoch(stop)
                if engine.leads:
                    history.add(line)
                training.heed(stop)
        model.load_state_dict(training.best)
        return training.outcome


class _Training:
    """The state of one training, and what a step, an epoch's end and a checkpoint do to it."""

    def __init__(
        self,
        model: Model,
        feed: PatchFeed,
        validation: PatchFeed,
        schedule: Schedule,
        manner: Manner,
        engine: Engine,
        checkpoints: Checkpoints,
        phase: str,
        loss: Mapping[str, Any] | None,
        groups: Groups | None,
        rates: Mapping[str, float] | None,
    ) -> None:
        self.feed, self.validation, self.schedule, self.manner = feed, validation, schedule, manner
        self.engine, self.checkpoints, self.phase, self.groups = engine, checkpoints, phase, groups or {}
        # Sharding changes a module for good, and the caller's is to end whole.
        self.model = (copy.deepcopy(model) if engine.shard else model).to(engine.device)
        sample, _, _ = to_tensors(next(iter(validation.batches(0, 1))), engine.device)
        self.objective = Objective(
            self.model, sample, groups, **(loss or {}), ranks=engine.ranks, everywhere=engine.sum
        )
        self.scaler = torch.amp.GradScaler(engine.device.type, enabled=engine.precision == "float16")
        self._refuse_unshared()
        # Gradients that are taken term by term pass the wrapper's hooks; the objective averages them itself.
        self.net = (
            self.model if self.objective.by_term else engine.wrap(self.model, unused=not self.objective.reaches_all)
        )
        # Found once, after sharding has replaced them: at every step, finding took longer than reading the gradients.
        self._parameters, self._penalised = list(self.model.parameters()), penalised(self.model)
        self._trained = [p for p in self._parameters if p.requires_grad]
        parts = parameter_groups(self.model, schedule.learning_rate, rates)
        if learned := self.objective.parameters():
            parts.append({"params": learned, "lr": schedule.learning_rate, "factor": 1.0})
        self.optimiser = torch.optim.Adam(parts, lr=schedule.learning_rate, fused=manner.fused or None)
        if manner.compile:
            self._compile()
        self.at, self.outcome = Position(), Outcome()
        self.losses = [0.0, 0]  # of this epoch: their sum and their number
        self.best = self._weights()
        self._resume()
        engine.wait()  # until all have read: whoever loads also clears away what is half written
        self._saved = self._counted = time.monotonic()

    def over(self) -> bool:
        """Whether the budget is used up, or nothing has been gained for long enough, and the last epoch has its end."""
        return self.at.step == 0 and self.schedule.over(self.at, len(self.outcome.history) - self.outcome.best_epoch)

    def batches(self) -> Any:
        """The rest of this epoch for this process."""
        self.model.train()
        engine, each = self.engine, self.manner.batch_size // self.engine.ranks
        return self.feed.batches(self.at.epoch, each, self.at.step, engine.rank, engine.ranks)

    def step(self, batch: Batch) -> float:
        """Take a step; the mean loss of this epoch so far."""
        self.model.advance(self.schedule.done(self.at))
        rate = self.schedule.rate(self.at)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        values = len(self.feed) * sum(math.prod(target.shape[1:]) for target in batch.targets.values())
        loss, penalised = 0.0, False
        parts = list(passes(batch, self.manner.accumulate, self.engine.device))  # fewer of an epoch's last batch
        for one in parts:
            with self.engine.autocast():
                stages = self.net(one.source)
            addition = penalty(self.model, self._penalised) / (values * len(parts))
            penalised = addition.requires_grad
            if self.engine.ranks > 1:  # torch's DDP waits for every gradient, also of a platform that no process has
                addition = addition + 0.0 * sum(y.sum() for stage in stages for y in stage.values())
            loss += self.objective.backward(
                stages, one.targets, one.inside, addition, one.whole, self.scaler.get_scale()
            )
        for at in [] if penalised else self.objective.unreached:
            self._trained[at].grad = None  # the optimiser passes over it, its momentum too, as in one process
        self.scaler.unscale_(self.optimiser)
        if wrong := self._not_finite(loss):
            self._leave_out(wrong)
        else:
            self.scaler.step(self.optimiser)
            self.losses = [self.losses[0] + loss, self.losses[1] + 1]
        self.scaler.update()
        self.at.step, self.at.steps = self.at.step + 1, self.at.steps + 1
        now = time.monotonic()
        self.at.seconds, self._counted = self.engine.leaders(self.at.seconds + now - self._counted), now
        return self.losses[0] / max(self.losses[1], 1)

    def end_epoch(self, stop: Stop) -> dict[str, Any]:
        """Validate, keep what is best, and write a checkpoint; the line for the history."""
        errors = self._validate(stop)
        score, at, outcome = mean_of_answers(errors), self.at, self.outcome
        if score < outcome.score:
            outcome.score, outcome.best_epoch, self.best = score, len(outcome.history) + 1, self._weights()
        terms = self.objective.epoch_ends()
        line = {
            "phase": self.phase,
            "epoch": at.epoch + 1,
            "step": at.steps,
            "learning_rate": self.schedule.rate(at),
            "alpha": alphas(self.model),
            "loss": self.losses[0] / max(self.losses[1], 1),
            "validation": {f"{stage}/{platform}": float(e.mean()) for (stage, platform), e in errors.items()},
            "groups": by_group(errors, self.groups),
            "score": score,
            "seconds": round(at.seconds, 3),
            **({"skipped": outcome.skipped} if outcome.skipped else {}),
            **({"terms": terms} if terms else {}),
        }
        outcome.history.append(line)
        at.epoch, at.step, self.losses = at.epoch + 1, 0, [0.0, 0]
        self.save()
        return line

    def heed(self, stop: Stop) -> None:
        """End where a signal to any process asked for it, with a checkpoint of this step."""
        if self.engine.any(stop.signal != 0):
            if self.at.step:  # the end of an epoch has just written one
                self.save()
            raise SystemExit(stop.status())

    def save(self) -> None:
        """Write a checkpoint."""
        weights, moments = self.engine.states(self.model, self.optimiser)
        if self.engine.leads:
            self.checkpoints.save(
                {
                    "model": weights,
                    "optimiser": moments,
                    "objective": self.objective.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "best": self.best,
                    "outcome": vars(self.outcome),
                    "at": vars(self.at),
                    "losses": self.losses,
                    "random": random_states(),
                }
            )
        self._saved = time.monotonic()

    def save_if_due(self) -> None:
        """Write a checkpoint, where the last is old enough."""
        if self.engine.any(time.monotonic() - self._saved > 60 * self.manner.checkpoint_minutes):
            self.save()

    def _validate(self, stop: Stop) -> dict[Term, Tensor]:
        """The errors of each stage and platform; a signal waits for them only where several processes must agree."""
        try:
            with random_states_kept(), stop.at_once() if self.engine.ranks == 1 else nullcontext():
                return validate(self.model, self.validation, self.manner.batch_size, self.engine)
        except SystemExit:
            self.save()
            raise

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        if difference := first_difference(state["model"], self.best):
            raise RunError(
                f"the checkpoint in {self.checkpoints.folder} is of another model, {difference}: undo what was "
                "changed in its networks or fusion, or delete it to train that part again."
            )
        try:
            self.engine.restore(self.model, self.optimiser, state["model"], state["optimiser"])
            self.objective.load_state_dict(state["objective"])
            self.scaler.load_state_dict(state["scaler"])
            self.best, self.losses = state["best"], state["losses"]
            self.at, self.outcome = Position(**state["at"]), Outcome(**state["outcome"])
            restore_random_states(state["random"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"the checkpoint in {self.checkpoints.folder} does not fit this model "
                f"({str(error).splitlines()[-1].strip()}): was a plugin changed? Delete it to train that part again."
            ) from None

    def _weights(self) -> dict[str, Any]:
        weights = self.engine.weights(self.model)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    def _refuse_unshared(self) -> None:
        """Refuse a batch that does not divide, and weights of terms that would differ from share to share."""
        number = self.engine.ranks * self.manner.accumulate
        if self.manner.batch_size % number:
            raise RecipeError(
                f"batch_size {self.manner.batch_size} does not divide among {self.engine.ranks} processes and "
                f"{self.manner.accumulate} passes: give a multiple of {number}."
            )
        if not self.objective.takes_parts and (
            self.manner.accumulate > 1 or self.engine.shard or self.engine.precision == "float16"
        ):
            raise RecipeError(
                "[loss] with a weighting other than 'equal', gradients other than 'sum' or log reads each whole batch: "
                "set accumulate = 1, parallel = 'ddp' and precision = 'float32' or 'bfloat16'."
            )

    def _compile(self) -> None:
        """Compile the networks that no fusion looks into; a hook inside a compiled one would not be called."""
        for platform, network in self.model.singles.items():
            if not self.model.taps.get(platform):
                self.engine.compile(network)

    def _leave_out(self, wrong: str) -> None:
        """Take no step: float16 lowers its scale, others stop unless steps may be skipped."""
        if not (self.manner.skip or self.scaler.is_enabled()):
            folder = self.checkpoints.folder
            kept = f"; the last good checkpoint is in {folder}" if (folder / LAST).is_file() else ""
            raise RunError(
                f"{self.phase}: {wrong} is not finite at epoch {self.at.epoch + 1}, step {self.at.step + 1}: lower the "
                f"learning rate, or set [training] nonfinite = 'skip'{kept}."
            )
        self.outcome.skipped += 1

    def _not_finite(self, loss: float) -> str:
        """What of a step is not finite, in words; nothing where all is. Gradients are clipped on the way."""
        if not math.isfinite(loss):
            where = ", ".join(f"{platform} in stage {stage}" for stage, platform in self.objective.culprits)
            return f"the loss of {where or 'another process'}"
        broken = broken_parts(self.model, self._parameters, self.manner.clip)
        return f"the gradient of {broken}" if broken else ""

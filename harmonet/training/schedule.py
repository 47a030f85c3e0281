"""How long a training lasts, how fast it goes at each step, and in what manner steps are taken."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class Position:
    """Where a training is.

    Attributes:
        epoch: Counted from 0.
        step: Of this epoch, counted from 0.
        steps: Taken in all.
        seconds: Spent in all, over every start.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How steps are taken; each field but `skip` means what it means in the recipe's [training].

    Attributes:
        batch_size, accumulate, clip, checkpoint_minutes, compile, fused: As there.
        skip: Whether a step that is not finite is left out, and not the end.
    """

    batch_size: int
    accumulate: int = 1
    clip: float = 0.0
    skip: bool = False
    checkpoint_minutes: float = 5.0
    compile: bool = False
    fused: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Budget and learning rate.

    Attributes:
        epochs, steps, minutes: The training ends with the first of these that is reached; 0 for no limit of steps or
            minutes. Patches, epochs and steps mean the same for every model.
        per_epoch: Steps of one epoch.
        patience: Epochs without a lower validation error after which it ends; 0 to go on.
        learning_rate: At the beginning.
        shape: `steps` multiplies it by `decay` every `decay_every` epochs (the paper's); `cosine` lets it rise over the
            first `warm_up` of the training and fall to 0 along a cosine.
    """

    epochs: int
    per_epoch: int
    steps: int = 0
    minutes: float = 0.0
    patience: int = 0
    learning_rate: float = 1e-4
    shape: Literal["steps", "cosine"] = "steps"
    decay: float = 2**-0.5
    decay_every: int = 15
    warm_up: float = 0.05

    @property
    def total(self) -> int:
        """Steps at most."""
        whole = self.epochs * self.per_epoch
        return min(whole, self.steps) if self.steps else whole

    def done(self, at: Position) -> float:
        """How much of the budget is used, 0 to 1."""
        by_time = at.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(max(at.steps / self.total, by_time), 1.0)

    def rate(self, at: Position) -> float:
        """The learning rate of the next step.

        >>> schedule = Schedule(epochs=30, per_epoch=10, learning_rate=1.0, decay=0.5)
        >>> schedule.rate(Position(epoch=14)), schedule.rate(Position(epoch=15))
        (1.0, 0.5)
        """
        if self.shape == "steps":
            return self.learning_rate * self.decay ** (at.epoch // self.decay_every)
        done = self.done(at)
        if done < self.warm_up:
            return self.learning_rate * max(done, 1 / self.total) / self.warm_up
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - self.warm_up) / (1 - self.warm_up)))

    def over(self, at: Position, since_best: int) -> bool:
        """Whether the training ends here."""
        return self.done(at) >= 1.0 or bool(self.patience and since_best >= self.patience)

"""What a training ends with."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What a training ended with.

    Attributes:
        score: Lowest validation error, the mean over platforms of the last stage's standardised error.
        best_epoch: When it was reached, counted from 1; the model holds those weights.
        history: One dict per validation.
        skipped: Steps left out since loss or gradient was not finite.
    """

    score: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0

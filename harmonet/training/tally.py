"""What an epoch has seen of the terms of a loss, for weightings and for the history."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from harmonet.losses.weighting import Term

LOSSES, WEIGHTS, NORMS, COSINES = "losses", "weights", "gradient_norms", "cosines"


class Tally:
    """Sums over the steps of one epoch, each with the number of steps that had it."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Any]] = {kind: {} for kind in (LOSSES, WEIGHTS, NORMS, COSINES)}
        self._counts: dict[str, dict[str, int]] = {kind: {} for kind in self._sums}

    @property
    def has_gradients(self) -> bool:
        """Whether a step's gradients were counted."""
        return bool(self._sums[NORMS])

    def add_losses(self, losses: Mapping[Term, float]) -> None:
        """Count a step's terms."""
        self._add(LOSSES, {word(term): loss for term, loss in losses.items()})

    def add_weights(self, weights: Mapping[Term, Tensor]) -> None:
        """Count a step's weights."""
        self._add(WEIGHTS, {word(term): weight.detach() for term, weight in weights.items()})

    def add_gradients(self, rows: Mapping[Term, Tensor]) -> None:
        """Count the norms (n,) of a step's gradients, and the cosines of their angles."""
        self._add(NORMS, {word(term): row.norm() for term, row in rows.items()})
        self._add(COSINES, cosines(rows))

    def mean_losses(self) -> dict[Term, float]:
        """The mean of each term over the steps that had it."""
        return {_term(name): mean for name, mean in self._means(LOSSES).items()}

    def told(self) -> dict[str, dict[str, float]]:
        """All means, as history writes them."""
        return {kind: self._means(kind) for kind in self._sums}

    def state_dict(self) -> dict[str, Any]:
        """Numbers in dicts."""
        sums = {kind: {name: float(s) for name, s in parts.items()} for kind, parts in self._sums.items()}
        return {"sums": sums, "counts": {kind: dict(parts) for kind, parts in self._counts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` said."""
        self._sums = {kind: dict(parts) for kind, parts in state["sums"].items()}
        self._counts = {kind: dict(parts) for kind, parts in state["counts"].items()}

    def _add(self, kind: str, values: Mapping[str, Any]) -> None:
        sums, counts = self._sums[kind], self._counts[kind]
        for name, value in values.items():
            sums[name] = sums[name] + value if name in sums else value
            counts[name] = counts.get(name, 0) + 1

    def _means(self, kind: str) -> dict[str, float]:
        return {name: float(total) / self._counts[kind][name] for name, total in self._sums[kind].items()}


def cosines(rows: Mapping[Term, Tensor]) -> dict[str, Tensor]:
    """Cosine of the angle between the gradients (n,) of each pair of terms, by `0/near 1/near`; 0 where one is 0.

    >>> cosines({(0, "a"): torch.tensor([1.0, 0.0]), (1, "a"): torch.tensor([-2.0, 0.0])})
    {'0/a 1/a': tensor(-1.)}
    """
    return {
        f"{word(a)} {word(b)}": torch.nn.functional.cosine_similarity(rows[a], rows[b], dim=0)
        for a, b in combinations(rows, 2)
    }


def word(term: Term) -> str:
    """A term as history writes it.

    >>> word((1, "near"))
    '1/near'
    """
    return "/".join(map(str, term))


def _term(name: str) -> Term:
    stage, _, platform = name.partition("/")
    return int(stage), platform

"""What training makes small: the terms of the loss, what each weighs, and how their gradients become one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harmonet import plugins
from harmonet.errors import HarmonetError, NotFoundError, RecipeError, RunError, nearest
from harmonet.losses.equal import Equal
from harmonet.losses.surgery import NAMES, Surgery, surgery
from harmonet.losses.weighting import Term, Weighting
from harmonet.model import Model
from harmonet.training.loss import Loss, Stages, loss_terms
from harmonet.training.tally import Tally

Groups = Mapping[str, slice]
Sum = Callable[[Tensor], Tensor]
Parts = Sequence[Tensor | None]  # a gradient, parameter by parameter


def alone(values: Tensor) -> Tensor:
    """The sum over one process: the values."""
    return values


class Objective:
    """The weighted sum of the loss's terms, one for each stage and platform, and its gradients.

    Terms that no trained parameter reaches (of a frozen network) and terms with a factor of 0 are left out. A model
    with one term has nothing to weigh: factors, weighting and surgery are checked and not used.

    Surgery, and a weighting that reads gradients, take one backward pass and one copy of all gradients for each term;
    `log` takes that in the first step of each epoch.

    Of several processes each has a part of the batch. Their gradients are made so that the mean over processes is that
    of the whole batch, however the voxels of a platform are spread; what a weighting sees is the same in all of them.
    Gradients taken term by term (`by_term`) are averaged here, so the model itself is to be called then, not a wrapper
    that averages.

    Attributes:
        terms: (stage, platform) of each term.
        weighting: What weighs them.
        culprits: The terms that were not finite, when a batch last had such.
        unreached: Which of the trained parameters, counted as the model lists them, no term of the last batch reaches,
            in whichever process its voxels are.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        groups: Groups | None = None,
        *,
        name: str = "mse",
        options: Mapping[str, Any] | None = None,
        weighting: str = "equal",
        weighting_options: Mapping[str, Any] | None = None,
        platforms: Mapping[str, float] | None = None,
        stages: Sequence[float] = (),
        gradients: str = "sum",
        log: bool = False,
        ranks: int = 1,
        everywhere: Sum = alone,
    ) -> None:
        """The objective of a model.

        Args:
            model: What is trained.
            x: A source patch (1, C, n, n, n), to see which stages predict what.
            groups: Names of groups of channels, for a loss that weighs them.
            name, options, weighting, weighting_options, platforms, stages, gradients, log: As in the recipe's [loss].
            ranks, everywhere: Number of processes, and what sums a tensor over them.

        Raises:
            NotFoundError: A name or option is unknown.
            RecipeError: A part cannot be built as asked, or needs torchjd, which is not installed.
        """
        joined = _surgery_of(groups, name, options, weighting, weighting_options, gradients)
        self.loss: Loss = _built(plugins.loss(name), options, dict(groups or {}))
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._reach, self.unreached = reach(model, x), list[int]()
        factors = {
            (stage, platform): (platforms or {}).get(platform, 1.0) * (stages[stage] if stage < len(stages) else 1.0)
            for stage, platform in self._reach
        }
        only = len(factors) == 1
        self.factors = dict.fromkeys(factors, 1.0) if only else {t: f for t, f in factors.items() if f}
        self.terms = tuple(self.factors)
        if not self.terms:
            raise RecipeError(
                "[loss] leaves no term to train: give a platform and a stage that is not frozen a factor above 0."
            )
        self.weighting: Weighting = (
            Equal(self.terms) if only else _built(plugins.weighting(weighting), weighting_options, self.terms)
        ).to(x.device)
        self.weighting_name = "equal" if only else weighting
        self.surgery: Surgery | None = None if only else joined
        self.log, self.ranks, self.everywhere = log, ranks, everywhere
        self.tally = Tally()
        self.culprits: tuple[Term, ...] = ()

    @property
    def by_term(self) -> bool:
        """Whether each step takes the gradient of every term by itself, past the hooks of one backward pass."""
        return self.surgery is not None or self.weighting.reads_gradients

    def parameters(self) -> list[nn.Parameter]:
        """Of the weighting; they are trained with the model's."""
        return list(self.weighting.parameters())

    @property
    def reaches_all(self) -> bool:
        """Whether each of the trained parameters is reached by some prediction."""
        return all(any(places[at] for places in self._reach.values()) for at in range(len(self._trained)))

    @property
    def takes_parts(self) -> bool:
        """Whether a batch may come in several passes: nothing is weighed by what the terms of a whole one are."""
        return self.weighting_name == "equal" and not self.by_term and not self.log

    def backward(
        self,
        stages: Stages,
        targets: Mapping[str, Tensor],
        inside: Mapping[str, Tensor],
        addition: Tensor,
        whole: Mapping[str, Tensor] | None = None,
        scale: float = 1.0,
    ) -> float:
        """The loss of a batch; its gradients are added to those of the model's and the weighting's parameters.

        A loss that is not finite has no gradients. A batch without any term leaves those of the addition.

        Args:
            stages, targets, inside: As in `loss_terms`.
            addition: What is added to the weighted sum, such as the penalty of layers.
            whole: Platform to the number of voxels in the batch's masks, where this is one pass of several.
            scale: What gradients are multiplied by, so that half precision can hold them.
        """
        shares = self._shares(inside, whole or {platform: mask.sum() for platform, mask in inside.items()})
        every = loss_terms(stages, targets, inside, self.loss, list(shares))
        terms = {term: every[term] * shares[term[1]] for term in self.terms if term in every}
        there = [self._reach[term] for term in terms]
        self.unreached = [at for at in range(len(self._trained)) if not any(places[at] for places in there)]
        seen = self._mean(torch.stack([addition.detach(), *(value.detach() for value in terms.values())]))
        numbers = seen.tolist()  # waits for the device
        if not all(map(math.isfinite, numbers)):
            self.culprits = tuple(t for t, n in zip(terms, numbers[1:], strict=True) if not math.isfinite(n))
            return math.nan
        values = dict(zip(terms, numbers[1:], strict=True))
        self._refuse_negative(values)
        if not terms:
            if addition.requires_grad:
                torch.autograd.backward(addition * scale)
            return float(numbers[0])
        plain = dict(zip(terms, seen[1:], strict=True))
        parts: dict[Term, Parts] = {}
        if self.by_term or (self.log and not self.tally.has_gradients):
            parts = {term: self._gradient(value) for term, value in terms.items()}
        rows = {term: self._mean(self._row(part)) for term, part in parts.items()}
        if self.weighting.reads_gradients:
            self.weighting.gradients_seen(plain, {term: row.norm() for term, row in rows.items()})
        weights = {term: weight * self.factors[term] for term, weight in self.weighting(plain).items()}
        more = self.weighting.addition(plain)
        addition = addition if more is None else addition + more
        total = sum((weights[term] * (plain if self.by_term else terms)[term] for term in terms), addition)
        if self.by_term:
            reached = [any(part[at] is not None for part in parts.values()) for at in range(len(self._trained))]
            self._set_gradients([weights[term].detach() * row for term, row in rows.items()], reached)
        if total.requires_grad:
            torch.autograd.backward(total * scale)
        for parameter in self.parameters() if self.ranks > 1 else []:
            parameter.grad = None if parameter.grad is None else self._mean(parameter.grad)
        self.tally.add_losses(values)
        if self.log:
            self.tally.add_weights(weights)
            self.tally.add_gradients(rows)
        with torch.no_grad():
            return float(sum((weights[term] * plain[term] for term in terms), addition))

    def epoch_ends(self) -> dict[str, Any]:
        """What history says of the epoch, if it is to: means of each term, its weight, its gradient; then forgotten.

        Gradients are those of unweighted terms: of the first step, or of every step where each takes them anyhow.
        """
        self.weighting.epoch_ends(self.tally.mean_losses())
        told = self.tally.told() if self.log else {}
        self.tally = Tally()
        return told

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: the weighting, and the epoch so far."""
        return {"weighting": self.weighting.state_dict(), "tally": self.tally.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` said."""
        self.weighting.load_state_dict(state["weighting"])
        self.tally.load_state_dict(state["tally"])

    def _shares(self, inside: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Platform to this pass's share of its voxels, times the number of processes; 1 where there is but one of each.

        So the mean over a batch is that of its shares, however its voxels are spread over processes and passes.

        Platforms without a voxel in any process are left out.
        """
        voxels = torch.stack([mask.sum() for mask in inside.values()])
        everywhere = self.everywhere(torch.stack([whole[platform] for platform in inside]))
        shares = self.ranks * voxels / everywhere.clamp(min=1)
        there = (everywhere > 0).tolist()  # waits for the device
        return {p: share for p, share, some in zip(inside, shares, there, strict=True) if some}

    def _mean(self, values: Tensor) -> Tensor:
        """The mean over processes."""
        return self.everywhere(values) / self.ranks

    def _gradient(self, term: Tensor) -> Parts:
        """The gradient of one term with respect to each trained parameter, None where it does not reach it."""
        return torch.autograd.grad(term, self._trained, retain_graph=True, allow_unused=True)

    def _row(self, parts: Parts) -> Tensor:
        """A gradient in one piece (n,)."""
        filled = (torch.zeros_like(p) if g is None else g for p, g in zip(self._trained, parts, strict=True))
        return torch.cat([gradient.flatten() for gradient in filled])

    def _set_gradients(self, rows: Sequence[Tensor], reached: Sequence[bool]) -> None:
        """Join the weighted terms' gradients and add them to those of the parameters that any of them reaches."""
        if not rows:
            return
        matrix = torch.stack(list(rows))
        joined = matrix.sum(0) if self.surgery is None or len(rows) == 1 else self.surgery(matrix)
        pieces = torch.split(joined, [p.numel() for p in self._trained])
        for parameter, piece, told in zip(self._trained, pieces, reached, strict=True):
            if told:  # the optimiser passes over one without a gradient, its momentum too
                gradient = piece.view_as(parameter)
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient

    def _refuse_negative(self, values: Mapping[Term, float]) -> None:
        if self.weighting.takes_negative:
            return
        for (stage, platform), value in values.items():
            if value < 0:
                raise RunError(
                    f"weighting {self.weighting_name} needs terms of 0 or more, found {value:.3g} for {platform} in "
                    f"stage {stage}, a likelihood: use weighting equal or random."
                )


def check_objective(loss: Mapping[str, Any], groups: Groups) -> None:
    """Refuse a [loss] that cannot be built, before anything is trained."""
    _surgery_of(groups, loss["name"], loss["options"], loss["weighting"], loss["weighting_options"], loss["gradients"])


def _surgery_of(
    groups: Groups | None,
    name: str,
    options: Mapping[str, Any] | None,
    weighting: str,
    weighting_options: Mapping[str, Any] | None,
    gradients: str,
) -> Surgery | None:
    """What joins the gradients, None for their sum; raises where a part of [loss] cannot be built."""
    _built(plugins.loss(name), options, dict(groups or {}))
    _built(plugins.weighting(weighting), weighting_options, ((0, "a"), (0, "b")))
    if gradients == "sum":
        return None
    if gradients not in NAMES:
        raise NotFoundError(f"no surgery {gradients!r} of gradients. {nearest(gradients, ('sum', *NAMES))}")
    return surgery(gradients)


def _built(entry: Any, options: Mapping[str, Any] | None, supplied: Any) -> Any:
    given = dict(options or {})
    entry.check_options(given)
    try:
        return entry.load()(supplied, **given)
    except HarmonetError:
        raise
    except (TypeError, ValueError) as error:  # an option of the wrong kind, such as text for a number
        raise RecipeError(f"{entry.name} cannot be built with its options: {error}.") from None


def reach(model: Model, x: Tensor) -> dict[Term, tuple[bool, ...]]:
    """(stage, platform) of each prediction that a trained parameter reaches, to which of these parameters reach it.

    Args:
        model: The model; its mode, and torch's random state, stay as they are.
        x: A source patch (1, C, n, n, n).
    """
    training, trained = model.training, [p for p in model.parameters() if p.requires_grad]
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), torch.enable_grad():
        stages = model.eval()(x)
        parts = {
            (number, platform): torch.autograd.grad(y.sum(), trained, retain_graph=True, allow_unused=True)
            for number, stage in enumerate(stages)
            for platform, y in stage.items()
            if y.requires_grad
        }
    model.train(training)
    return {term: tuple(part is not None for part in gradients) for term, gradients in parts.items()}

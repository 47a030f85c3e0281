"""Reversible stacks that keep only their output for the backward pass and recompute the rest from it.

Memory for the backward pass then does not grow with the number of layers, and a step takes about a third longer
(Gomez et al. 2017, doi:10.48550/arXiv.1707.04585). Layers inside such a stack run without their hooks, once forwards
and once backwards, so that no tap can read a feature there that would carry no gradient: tap the stack.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harmonet.blocks.reversible import Halves, ReversibleLayer, ReversibleStack
from harmonet.errors import RunError, ShapeError

INVERTIBLE = (torch.float32, torch.float64)


class RecomputingStack(ReversibleStack):
    """A reversible stack of the same outputs, gradients, statistics and state dict that keeps its output alone.

    Inverting in half precision would lose the input, so it computes in float32 under autocast.

    Raises:
        ShapeError: The input or the weights have half precision.
        RunError: A second derivative is asked for.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        if not len(self):
            return x
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        for dtype in (x.dtype, *(p.dtype for p in self.parameters())):
            if dtype not in INVERTIBLE:
                raise ShapeError(
                    f"a reversible stack that recomputes was given {dtype}, which cannot be inverted: use float32 or "
                    "autocast, or build the network with recompute=False."
                )
        with torch.autocast(device, enabled=False):
            y: Tensor = _Recomputed.apply(self, x, *self.parameters())  # type: ignore[no-untyped-call]
        return y


class _Recomputed(torch.autograd.Function):
    """The stack as one node of the graph, whose inputs follow from its output, layer by layer."""

    @staticmethod
    def forward(ctx: Any, stack: RecomputingStack, x: Tensor, *parameters: Tensor) -> Tensor:
        halves = stack.split(x)
        for layer in stack:
            assert isinstance(layer, ReversibleLayer)
            x1, x2 = halves
            y1 = x1 + _quietly(layer.f, x2)
            halves = y1, x2 + _quietly(layer.g, y1)
        y = torch.cat(halves, dim=1)
        ctx.stack = stack
        ctx.modes = {norm: norm.training for norm in _norms(stack)}
        # Saving weights and used statistics costs no memory and lets autograd notice when they have changed meanwhile.
        used = [
            s for norm, training in ctx.modes.items() if not training for s in (norm.running_mean, norm.running_var)
        ]
        ctx.save_for_backward(y, *parameters, *used)
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RunError(
                "a second derivative of a reversible stack that recomputes was asked for (create_graph=True), and it "
                "has none: build the network with recompute=False."
            )
        stack: RecomputingStack = ctx.stack
        y, *_ = ctx.saved_tensors
        wanted: set[Tensor] = {
            p for p, needed in zip(stack.parameters(), ctx.needs_input_grad[2:], strict=True) if needed
        }
        found: dict[Tensor, Tensor] = {}
        with torch.autocast(y.device.type, enabled=False), _replaying(ctx.modes):
            halves, gradients = stack.split(y), stack.split(outer[0])
            for layer in stack.backwards():
                halves, gradients = _undo(layer, halves, gradients, wanted, found)
        into_x = torch.cat(gradients, dim=1) if ctx.needs_input_grad[1] else None
        return None, into_x, *(found.get(p) for p in stack.parameters())


def _undo(
    layer: ReversibleLayer, halves: Halves, gradients: Halves, wanted: set[Tensor], found: dict[Tensor, Tensor]
) -> tuple[Halves, Halves]:
    """The halves that gave these and the gradients there; those of the weights are put into `found`."""
    (y1, y2), (d1, d2) = halves, gradients
    g, into_y1 = _differentiate(layer.g, y1, d2, wanted, found)
    d1 = d1 + into_y1
    x2 = y2 - g
    f, into_x2 = _differentiate(layer.f, x2, d1, wanted, found)
    return (y1 - f, x2), (d1, d2 + into_x2)


def _differentiate(
    branch: nn.Sequential, x: Tensor, outer: Tensor, wanted: set[Tensor], found: dict[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The branch's output and the gradient with respect to x, from one run."""
    weights = [p for p in branch.parameters() if p in wanted]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = _quietly(branch, x)
    into_x, *into_weights = torch.autograd.grad(y, [x, *weights], outer)
    found.update(zip(weights, into_weights, strict=True))
    return y.detach(), into_x


def _quietly(branch: nn.Sequential, x: Tensor) -> Tensor:
    """The branch's output, no hook called."""
    for layer in branch:
        x = layer.forward(x)
    return x


def _norms(stack: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in stack.modules() if isinstance(layer, _BatchNorm)]


@contextmanager
def _replaying(modes: dict[_BatchNorm, bool]) -> Iterator[None]:
    """Normalises as in the forward pass, and leaves the running statistics alone: they have seen this batch."""
    now = {norm: (norm.training, norm.track_running_stats) for norm in modes}
    try:
        for norm, training in modes.items():
            norm.training = training
            # In training a layer that tracks nothing uses the batch; in evaluation the statistics that it has.
            norm.track_running_stats = False
        yield
    finally:
        for norm, (training, tracking) in now.items():
            norm.training, norm.track_running_stats = training, tracking

"""Batch normalisation over the batch of all processes, so that a training is the same however many share it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harmonet.training.engine import Engine


@contextmanager
def normalised_together(model: nn.Module, engine: Engine) -> Iterator[None]:
    """Inside, the model's batch normalisation reads the mean and variance of the patches of all processes.

    Torch's `SyncBatchNorm` does so on GPUs alone, and would stay in the model. Each process must run the model on as
    many patches, and as often. The passes of `accumulate` come one after the other and are normalised each by itself.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)] if engine.ranks > 1 else []
    for norm in norms:
        norm.forward = partial(_normalised, norm, engine)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: _BatchNorm, engine: Engine, x: Tensor) -> Tensor:
    """What the layer gives for x (B, C, ...), one share of the batch."""
    if not norm.training:
        usual: Tensor = type(norm).forward(norm, x)
        return usual
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, [0, *range(2, x.dim())], correction=0)
    variances, means = _Gathered.apply(torch.stack([variance, mean]), engine).unbind(1)  # type: ignore[no-untyped-call]
    mean = means.mean(0)
    variance = (variances + (means - mean).square()).mean(0)
    if norm.track_running_stats:
        _track(norm, mean.detach(), variance.detach(), engine.ranks * x.numel() // x.shape[1])
    scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = (0 if norm.bias is None else norm.bias) - mean * scale
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    y: Tensor = (wide * scale.view(shape) + shift.view(shape)).to(x.dtype)
    return y


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor, number: int) -> None:
    """Move the running statistics as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    norm.running_var.lerp_((variance * number / max(number - 1, 1)).to(norm.running_var), momentum)


class _Gathered(torch.autograd.Function):
    """The values of each process, (ranks, ...)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, engine: Engine) -> Tensor:
        ctx.engine = engine
        rows = values.new_zeros(engine.ranks, *values.shape)
        rows[engine.rank] = values
        return engine.sum(rows)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return ctx.engine.sum(outer[0].clone())[ctx.engine.rank], None

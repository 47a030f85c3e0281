"""Reading the output of inner layers of any `nn.Module`, named by their dotted path.

Hooks live only for one forward pass, so modules stay picklable and are never changed. What cannot be read truly is
refused: a layer that does not run, runs twice, gives no tensor, or is overwritten in place by the layer after it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from harmonet.errors import NotFoundError, ShapeError, nearest
from harmonet.stages import Gaussian, Members, Prediction

Size = tuple[int, ...]  # (C, X, Y, Z)


class Measured(NamedTuple):
    """Sizes (C, X, Y, Z) that one dry run found."""

    prediction: Size
    features: dict[str, Size]


def layer_names(module: nn.Module) -> list[str]:
    """Dotted paths of all inner layers, in order of definition.

    >>> layer_names(nn.Sequential(nn.Conv3d(1, 1, 3), nn.ReLU()))
    ['0', '1']
    """
    return [name for name, _ in module.named_modules() if name]


def find_layer(module: nn.Module, path: str) -> nn.Module:
    """The layer at the dotted path, or an error with the nearest one."""
    known = layer_names(module)
    if path not in known:
        raise NotFoundError(f"{type(module).__name__} has no layer {path!r}. {nearest(path, known)}")
    return module.get_submodule(path)


def forward_with_taps(module: nn.Module, taps: Mapping[str, str], x: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
    """The module's output and, for each tap, the tensor that its layer gave.

    Args:
        module: Any module that takes x.
        taps: Name of a feature to dotted path of a layer.
        x: (B, C, X, Y, Z).

    Raises:
        NotFoundError: There is no such layer.
        ShapeError: A layer's output cannot be read truly (see the module's docstring).

    >>> net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Conv3d(2, 1, 1))
    >>> y, features = forward_with_taps(net, {"features": "1"}, torch.zeros(1, 1, 5, 5, 5))
    >>> features["features"].shape
    torch.Size([1, 2, 3, 3, 3])
    """
    prediction, seen = _listen(module, set(taps.values()), x)
    return prediction, {name: _only_intact(module, path, seen[path]) for name, path in taps.items()}


Record = list[tuple[Any, int]]  # each output of a layer, and how often its memory had been written by then


def _listen(module: nn.Module, paths: Iterable[str], x: Tensor) -> tuple[Prediction, dict[str, Record]]:
    """The module's output, and what each layer gave."""
    seen: dict[str, Record] = {path: [] for path in paths}
    handles: list[RemovableHandle] = []
    try:
        for path, record in seen.items():

            def keep(_module: nn.Module, _inputs: Any, output: Any, record: Record = record) -> None:
                record.append((output, _version(output)))

            handles.append(find_layer(module, path).register_forward_hook(keep))
        return module(x), seen
    finally:
        for handle in handles:
            handle.remove()


def _version(output: Any) -> int:
    """How often the tensor's memory was written; inference tensors keep no count."""
    return output._version if isinstance(output, Tensor) and not output.is_inference() else 0


def _only_intact(module: nn.Module, path: str, record: Record) -> Tensor:
    where = f"layer {path!r} of {type(module).__name__}"
    if len(record) != 1:
        times = "does not run" if not record else f"runs {len(record)} times"
        raise ShapeError(f"{where} {times} in one forward pass: tap a layer that runs exactly once.")
    output, version = record[0]
    if not isinstance(output, Tensor):
        raise ShapeError(f"{where} gives a {type(output).__name__}, not a tensor: tap a layer inside or after it.")
    if _version(output) != version:
        raise ShapeError(
            f"the output of {where} is overwritten in place by a later layer (such as ReLU(inplace=True)): "
            "tap that later layer, or make it not in-place."
        )
    return output


def measure(module: nn.Module, taps: Mapping[str, str], in_channels: int, patch_size: int) -> Measured:
    """Sizes of the prediction and of each tap, from one pass over an empty patch.

    The module's modes, weights, statistics and the random state are left as they were.
    """
    prediction: Any  # a stranger's module can give anything
    with empty_patch(module, in_channels, patch_size) as x:
        prediction, features = forward_with_taps(module, taps, x)
    if isinstance(prediction, Members):
        sizes = {_mean(member).shape for member in prediction}
        if len(sizes) > 1:
            told = " and ".join(str(tuple(size)) for size in sizes)
            raise ShapeError(f"networks of one platform give {told}: join networks that predict on one grid.")
        prediction = prediction[0]
    if isinstance(prediction, Gaussian):
        if prediction.variance.shape != prediction.mean.shape:
            raise ShapeError(
                f"{type(module).__name__} gives a mean of {tuple(prediction.mean.shape)} and a variance of "
                f"{tuple(prediction.variance.shape)}: both need one size."
            )
        prediction = prediction.mean
    if not isinstance(prediction, Tensor):
        raise ShapeError(
            f"{type(module).__name__} gives a {type(prediction).__name__}, not one tensor (B, C, X, Y, Z)."
        )
    return Measured(tuple(prediction.shape[1:]), {name: tuple(f.shape[1:]) for name, f in features.items()})


def _mean(prediction: Tensor | Gaussian) -> Tensor:
    return prediction.mean if isinstance(prediction, Gaussian) else prediction


@contextmanager
def empty_patch(module: nn.Module, in_channels: int, patch_size: int) -> Iterator[Tensor]:
    """An empty patch for one pass that leaves modes, weights, statistics and the random state as they were."""
    parameter = next(module.parameters(), torch.zeros(()))
    shape = (1, in_channels, patch_size, patch_size, patch_size)
    # Only this device's random state is forked: the default would touch every GPU there is.
    devices = [parameter.device] if parameter.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), evaluating(module):
        yield torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every layer has the mode that it had, frozen ones included."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training


def tappable_layers(module: nn.Module, in_channels: int, patch_size: int) -> dict[str, Size]:
    """Layers whose output a tap could read in a pass over an empty patch, each with its measured size."""
    with empty_patch(module, in_channels, patch_size) as x:
        _, seen = _listen(module, layer_names(module), x)
    found: dict[str, Size] = {}
    for path, record in seen.items():
        try:
            found[path] = tuple(_only_intact(module, path, record).shape[1:])
        except ShapeError:
            continue
    return {path: size for path, size in found.items() if len(size) == 4}

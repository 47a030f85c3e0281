"""How the weights of two models differ, for people who wonder why those of one do not fit the other."""

from collections.abc import Mapping

from torch import Tensor


def first_difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first weight that one has and the other has not, or whose shapes differ, in words; nothing where all fit.

    >>> import torch
    >>> first_difference({"a": torch.zeros(2, 3)}, {"a": torch.zeros(2, 4)})
    'a has shape (2, 3) there and (2, 4) here'
    >>> first_difference({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.zeros(1)})
    'b is there and not here'
    """
    for name, tensor in wanted.items():
        if name not in found:
            return f"{name} is here and not there"
        if found[name].shape != tensor.shape:
            return f"{name} has shape {tuple(found[name].shape)} there and {tuple(tensor.shape)} here"
    return next((f"{name} is there and not here" for name in found if name not in wanted), "")

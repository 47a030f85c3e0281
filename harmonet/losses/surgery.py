"""Gradients of several terms made one without conflict, by the optional package torchjd.

PCGrad (Yu et al. 2020, doi:10.48550/arXiv.2001.06782), CAGrad (Liu et al. 2021, doi:10.48550/arXiv.2110.14048) and
UPGrad (Quinton and Rey 2024, doi:10.48550/arXiv.2406.16232).
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonet.errors import RecipeError

NAMES = ("pcgrad", "cagrad", "upgrad")
RADIUS = 0.5  # of CAGrad's ball, relative to the mean gradient: the value of its authors' experiments on images

Surgery = Callable[[Tensor], Tensor]


def surgery(name: str) -> Surgery:
    """What makes one gradient (n,) of the gradients (terms, n), on the scale of their sum.

    torchjd builds CAGrad and UPGrad on the mean: these are multiplied by the number of terms, so that `gradients` in a
    recipe changes the direction and not the learning rate.

    Raises:
        RecipeError: torchjd, or what it needs for this one, is not installed.
    """
    try:
        aggregation: Any = import_module("torchjd.aggregation")
        if name == "pcgrad":
            build: Callable[[], Any] = aggregation.PCGrad
        elif name == "cagrad":
            build = lambda: aggregation.CAGrad(c=RADIUS)  # noqa: E731
        else:
            projector = _projector(import_module("torchjd.linalg"))
            build = lambda: aggregation.UPGrad(projector=projector)  # noqa: E731
        build()  # what is missing is said now, not at the first step
    except ImportError as error:
        raise RecipeError(
            f"gradients = {name!r} needs torchjd, found that {error}: install harmonet[surgery], or use 'sum'."
        ) from None

    def join(rows: Tensor) -> Tensor:
        # Built for each call: one that draws takes its seed from torch's, which the training sets and resumes.
        joined: Tensor = build()(rows)
        return joined if name == "pcgrad" else joined * len(rows)

    return join


def dual_cone_weights(u: NDArray[np.float64], gramian: NDArray[np.float64]) -> NDArray[np.float64]:
    """The v >= u of least v' G v: weights of rows J whose sum J' v is J' u, moved to conflict with no row.

    Args:
        u: (m,) weights of the rows.
        gramian: (m, m) G = J J'.

    >>> conflict = np.array([[1.0, -0.5], [-0.5, 1.0]])
    >>> bool((conflict @ dual_cone_weights(np.array([1.0, 0.0]), conflict) > -1e-9).all())
    True
    """
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(gramian)
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T  # root' root = G
    more, _ = nnls(root, -root @ u)
    return np.asarray(u + more)


def _projector(linalg: Any) -> Any:
    """torchjd's interface to the projection, answered by SciPy: its own solver has another licence than ours."""

    class ByLeastSquares(linalg.DualConeProjector):  # type: ignore[misc]
        def __call__(self, U: Tensor, G: Tensor) -> Tensor:
            gramian = G.detach().cpu().double().numpy()
            gramian = gramian / max(float(np.trace(gramian)), np.finfo(np.float64).tiny)
            rows = U.detach().cpu().double().numpy().reshape(-1, len(gramian))
            solved = np.stack([dual_cone_weights(row, gramian) for row in rows])
            return torch.as_tensor(solved.reshape(tuple(U.shape)), device=U.device, dtype=U.dtype)

    return ByLeastSquares()

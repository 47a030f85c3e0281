"""One regression tree: linear least squares in the leaves, splits by information gain, kept if validation agrees.

After Alexander et al. 2014 (doi:10.1007/978-3-319-10443-0_29) and 2017 (doi:10.1016/j.neuroimage.2017.02.089).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Regressors have unit variance, outputs on average, so these are shares of a variance.
RIDGE = 1e-8  # added to the regressors': patches overlap, and a channel may not vary at all
FLOOR = 1e-9  # added to the residual's, whose determinant must not vanish
STEPS = 20  # of the search of one threshold


@dataclass(frozen=True, eq=False)
class Rows:
    """Patches, one per row, standardised over the forest's.

    Attributes:
        x: (N, P) regressors, the first of them 1.
        y: (N, O) outputs.
        search_x, search_y: The same as far as the search of thresholds sees them, with fewer columns.
        features: (N, F) in their own units.
    """

    x: Table
    y: Table
    search_x: Table
    search_y: Table
    features: Table

    def __getitem__(self, chosen: NDArray[np.int_] | Bools) -> "Rows":
        """Some of the rows."""
        return Rows(*(a[chosen] for a in (self.x, self.y, self.search_x, self.search_y, self.features)))

    def __len__(self) -> int:
        """How many."""
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Moments:
    """What least squares needs of rows: their number and sums of products."""

    count: int
    xx: Table
    xy: Table
    yy: Table

    def __sub__(self, other: "Moments") -> "Moments":
        """Those of the rows that the other's leave."""
        return Moments(self.count - other.count, self.xx - other.xx, self.xy - other.xy, self.yy - other.yy)


def moments(x: Table, y: Table) -> Moments:
    """Those of regressors (N, P) and outputs (N, O)."""
    return Moments(len(x), x.T @ x, x.T @ y, y.T @ y)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A linear map (P, O) and the covariance (O, O) of what it leaves."""

    weights: Table
    covariance: Table
    count: int

    def error(self, rows: Rows) -> float:
        """Sum of squared errors."""
        return float(np.sum((rows.x @ self.weights - rows.y) ** 2))

    @property
    def disorder(self) -> float:
        """n log det S: information gain is the parent's less the children's."""
        return float(self.count * 2 * np.log(np.diag(np.linalg.cholesky(self.covariance))).sum())


def least_squares(sums: Moments) -> Leaf:
    """The map with least squared error; the covariance is that of n - P degrees of freedom."""
    from scipy.linalg import cho_factor, cho_solve

    regressors, outputs = sums.xy.shape
    gram = sums.xx + RIDGE * sums.count * np.eye(regressors)
    weights = cho_solve(cho_factor(gram), sums.xy)
    left = sums.yy - sums.xy.T @ weights
    free = max(sums.count - regressors, 1)
    return Leaf(weights, (left + left.T) / (2 * free) + FLOOR * np.eye(outputs), sums.count)


@dataclass(frozen=True, eq=False)
class Node:
    """A split: rows whose `feature` is below the threshold go left. A leaf has no children."""

    leaf: Leaf
    feature: int = -1
    threshold: float = 0.0
    children: tuple["Node", ...] = ()


def grow(train: Rows, check: Rows, depth: int) -> Node:
    """The tree of the rows `train`, whose splits are kept if the squared error of the rows `check` falls.

    Leaves are fitted again on both, once the splits are known: our choice.
    """
    split = _split(train, check, depth)
    if split is None:
        both = (np.concatenate([a, b]) for a, b in ((train.x, check.x), (train.y, check.y)))
        return Node(least_squares(moments(*both)))
    feature, threshold = split
    below, lower = train.features[:, feature] < threshold, check.features[:, feature] < threshold
    children = (grow(train[below], check[lower], depth - 1), grow(train[~below], check[~lower], depth - 1))
    return Node(children[0].leaf, feature, threshold, children)


def _split(train: Rows, check: Rows, depth: int) -> tuple[int, float] | None:
    """Feature and threshold that gain most, None where no split is worth keeping."""
    if depth == 0:
        return None
    found = best_threshold(train)
    if found is None:
        return None
    feature, threshold = found
    below, lower = train.features[:, feature] < threshold, check.features[:, feature] < threshold
    if not least(train) <= below.sum() <= len(train) - least(train):
        return None  # equal values on both sides of the cut: no threshold parts them
    whole, part = moments(train.x, train.y), moments(train.x[below], train.y[below])
    parent, left, right = (least_squares(sums) for sums in (whole, part, whole - part))
    gain = parent.disorder - left.disorder - right.disorder
    fall = parent.error(check) - left.error(check[lower]) - right.error(check[~lower])
    return found if gain > 0 and fall > 0 else None


def best_threshold(rows: Rows) -> tuple[int, float] | None:
    """Feature and threshold of the greatest information gain, None where there are too few rows.

    For each feature a bounded search, over the number of rows below the threshold.
    """
    from scipy.optimize import minimize_scalar

    low, high = least(rows), len(rows) - least(rows)
    if low >= high:
        return None
    whole = moments(rows.search_x, rows.search_y)
    best: tuple[float, int, float] | None = None
    for feature in range(rows.features.shape[1]):
        order = np.argsort(rows.features[:, feature], kind="stable")
        x, y, values = rows.search_x[order], rows.search_y[order], rows.features[order, feature]

        def disorder(cut: float, x: Table = x, y: Table = y) -> float:
            below = moments(x[: int(cut)], y[: int(cut)])
            return least_squares(below).disorder + least_squares(whole - below).disorder

        found = minimize_scalar(
            disorder, bounds=(low, high), method="bounded", options={"maxiter": STEPS, "xatol": 0.5}
        )
        cut = int(found.x)
        threshold = float(values[cut - 1] + values[cut]) / 2
        if best is None or found.fun < best[0]:
            best = (float(found.fun), feature, threshold)
    return None if best is None else best[1:]


def least(rows: Rows) -> int:
    """The fewest rows of a child: as many as regressors and outputs together, so that its covariance has full rank."""
    return int(rows.x.shape[1] + rows.y.shape[1])

"""Image quality transfer by a regression forest, on SH coefficients or any other channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

import harmonet as hn
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, RecipeError
from harmonet.platforms import Grid
from harmonet_iqt.blocks import Layout, blocks_of, common_layout, laid
from harmonet_iqt.patches import Frame, features, framed
from harmonet_iqt.tree import Node, Rows, grow

Table = NDArray[np.float64]
Indices = NDArray[np.int_]

CHUNK = 8192  # patches at once when predicting: some 50 MB at radius 1 and 28 channels


class Forest(hn.Method):
    """Predicts the target voxels that belong to a source voxel from the patch around it.

    Alexander et al. 2014 (doi:10.1007/978-3-319-10443-0_29), 2017 (doi:10.1016/j.neuroimage.2017.02.089): each tree
    parts patches by simple features and maps them linearly in its leaves; trees are averaged with the inverse of the
    residual covariance of their leaves as weight. See the card for what is published and what is our choice.

    Args:
        groups: Name to channels that belong together.
        trees: Trees.
        radius: Of the source patch in voxels: 1 is 3 x 3 x 3.
        depth: Splits from root to leaf, at most; 0 is one linear map per tree.
        samples: Patches of each training subject, at most.
        rate: Share of all these patches that one tree sees.
        components: Principal components of patches and of outputs on which thresholds are searched; where there are
            fewer columns than that, all of them are, as published.
        seed: Of every choice of patches.

    Raises:
        RecipeError: An option lies outside what it can be.
    """

    def __init__(
        self,
        groups: Mapping[str, slice],
        trees: int = 8,
        radius: int = 1,
        depth: int = 20,
        samples: int = 8000,
        rate: float = 0.5,
        components: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(groups)
        least = {"trees": (trees, 1), "radius": (radius, 0), "depth": (depth, 0), "samples": (samples, 1)}
        for name, (value, lowest) in (least | {"components": (components, 1)}).items():
            if value < lowest:
                raise RecipeError(f"iqt_forest needs {name} of {lowest} or more, found {value}: give a larger one.")
        if not 0 < rate <= 1:
            raise RecipeError(f"iqt_forest needs a rate above 0 and at most 1, found {rate}: try 0.5.")
        self.trees, self.radius, self.depth = trees, radius, depth
        self.samples, self.rate, self.components, self.seed = samples, rate, components, seed
        self._learned: Mapping[str, NDArray[Any]] = {}

    def learn(self, pair: hn.Pair) -> dict[str, NDArray[Any]]:
        """Patches `x` (N, P), blocks `y` (N, O), `features` (N, F) of at most `samples` voxels.

        Also their `layout`, and a number for the name of the `subject`.
        """
        layout, voxels, blocks = blocks_of(pair.source, pair.target)
        subject = crc32(pair.subject.encode())
        rng = np.random.default_rng([self.seed, subject])
        chosen = np.sort(rng.permutation(len(voxels))[: self.samples])
        frame = framed(pair.source, self.radius + 1)
        places = voxels[chosen] - frame.origin
        x, y, z = places.T
        return {
            "x": frame.patches(places, self.radius),
            "y": blocks[chosen],
            "features": features(frame, self.groups, self.radius)[x, y, z],
            "layout": layout.packed(),
            "subject": np.array([subject]),
        }

    def fit(self, lessons: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        """Grow the trees, the same ones in whatever order the subjects come.

        Raises:
            DataError: One tree sees fewer patches than regressors and outputs together.
        """
        layout = common_layout([lesson["layout"] for lesson in lessons])
        ordered = sorted(lessons, key=lambda lesson: int(lesson["subject"][0]))
        x, y, parted = (np.concatenate([lesson[name] for lesson in ordered]) for name in ("x", "y", "features"))
        seen, needed = int(self.rate * len(x)), 1 + x.shape[1] + y.shape[1]
        if seen < needed:
            raise DataError(
                f"iqt_forest needs {needed} patches per tree for {1 + x.shape[1]} regressors and {y.shape[1]} outputs, "
                f"found {seen}: raise samples or rate, or lower radius."
            )
        inputs, outputs = Scale.of(x), Scale.of(y).together()
        axes_x, axes_y = (principal(s.apply(v), self.components) for s, v in ((inputs, x), (outputs, y)))
        roots = []
        for tree in range(self.trees):
            drawn = np.random.default_rng([self.seed, tree]).permutation(len(x))[:seen]
            xs, ys = inputs.apply(x[drawn]), outputs.apply(y[drawn])
            rows = Rows(with_one(xs), ys, with_one(xs @ axes_x), ys @ axes_y, parted[drawn])
            roots.append(grow(rows[np.arange(seen // 2)], rows[np.arange(seen // 2, seen)], self.depth))
        self._learned = {"layout": layout.packed(), **flat(roots, inputs, outputs)}

    def state(self) -> dict[str, NDArray[Any]]:
        """The trees as flat arrays, in raw units."""
        return dict(self._learned)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the trees."""
        self._learned = dict(state)

    def predict(self, source: Volume, target: Grid) -> NDArray[np.float32]:
        """The target's channels (X', Y', Z', C), in the blocks of source voxels in the mask or next to it."""
        layout = Layout.unpacked(self._learned["layout"])
        frame = framed(source, self.radius + 1)
        voxels = frame.near()
        return laid(layout, voxels + frame.origin, self._blocks(frame, voxels), source.grid, target)

    def _blocks(self, frame: Frame, voxels: Indices) -> NDArray[np.float32]:
        """(N, O) predicted at the frame's voxels (N, 3).

        Voxels that reach the same leaf in every tree share one linear map, so all trees cost no more than one.
        """
        x, y, z = voxels.T
        reached = leaves(self._learned, features(frame, self.groups, self.radius)[x, y, z])
        together, member = np.unique(reached, axis=0, return_inverse=True)
        weights, information = self._learned["weights"], self._learned["information"]
        out = np.empty((len(voxels), weights.shape[2]), dtype=np.float32)
        for number, combination in enumerate(together):
            mean = averaged(weights[combination], information[combination])
            chosen = np.flatnonzero(member.reshape(-1) == number)
            for start in range(0, len(chosen), CHUNK):
                part = chosen[start : start + CHUNK]
                out[part] = frame.patches(voxels[part], self.radius).astype(np.float64) @ mean[1:] + mean[0]
        return out


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of columns; 1 for one that does not vary."""

    mean: Table
    deviation: Table

    @staticmethod
    def of(values: NDArray[np.floating]) -> "Scale":
        """Those of (N, D)."""
        deviation = values.std(axis=0, dtype=np.float64)
        return Scale(values.mean(axis=0, dtype=np.float64), np.where(deviation > 0, deviation, 1))

    def together(self) -> "Scale":
        """The same means with one deviation for all columns, which keep their weight among each other."""
        return Scale(self.mean, np.full_like(self.deviation, np.sqrt(np.mean(self.deviation**2))))

    def apply(self, values: NDArray[np.floating]) -> Table:
        """Standardised values (N, D)."""
        return (values - self.mean) / self.deviation


def principal(values: Table, count: int) -> Table:
    """(D, min(count, D)) leading principal axes of rows (N, D); the identity where all are asked for."""
    if count >= values.shape[1]:
        return np.eye(values.shape[1])
    return np.asarray(np.linalg.eigh(values.T @ values)[1][:, -count:])


def with_one(values: Table) -> Table:
    """Rows (N, 1 + D) that begin with the constant."""
    return np.hstack([np.ones((len(values), 1)), values])


def flat(roots: Sequence[Node], inputs: Scale, outputs: Scale) -> dict[str, NDArray[Any]]:
    """Trees as arrays, in raw units.

    Of each node: `feature` (-1 for a leaf), `threshold`, `below` and `above` (its children), `leaf`. Of each leaf:
    `weights` (1 + P, O) with the constant first, and `information` (O, O), the inverse of its residual covariance.
    `roots` are the trees' first nodes.
    """
    nodes: list[list[float]] = []
    weights: list[Table] = []
    information: list[Table] = []

    def add(node: Node) -> int:
        row = [node.feature, node.threshold, -1, -1, -1]
        nodes.append(row)
        number = len(nodes) - 1
        if node.children:
            row[2], row[3] = (add(child) for child in node.children)
            return number
        row[4] = len(weights)
        slopes = node.leaf.weights[1:] * outputs.deviation / inputs.deviation[:, None]
        constant = node.leaf.weights[0] * outputs.deviation + outputs.mean - inputs.mean @ slopes
        weights.append(np.vstack([constant, slopes]))
        information.append(np.linalg.inv(node.leaf.covariance) / np.outer(outputs.deviation, outputs.deviation))
        return number

    starts = np.array([add(root) for root in roots])
    table = np.array(nodes, dtype=np.float64)
    whole = dict(zip(("feature", "below", "above", "leaf"), table[:, [0, 2, 3, 4]].T.astype(np.int64), strict=True))
    found = {
        "roots": starts,
        "threshold": table[:, 1],
        **whole,
        "weights": np.stack(weights),
        "information": np.stack(information),
    }
    # safetensors keeps the bytes as they lie and forgets in which order: only C order comes back as it was.
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def leaves(forest: Mapping[str, NDArray[Any]], parted: Table) -> Indices:
    """(N, T) leaf that rows of features (N, F) reach in each tree."""
    node = np.tile(forest["roots"], (len(parted), 1))
    rows = np.arange(len(parted))[:, None]
    while (forest["feature"][node] >= 0).any():
        feature = forest["feature"][node]
        below = parted[rows, np.maximum(feature, 0)] < forest["threshold"][node]
        child = np.where(below, forest["below"][node], forest["above"][node])
        node = np.where(feature >= 0, child, node)
    return np.asarray(forest["leaf"][node])


def averaged(weights: Table, information: Table) -> Table:
    """(P, O) mean of maps (T, P, O), each weighted by the inverse (T, O, O) of its residual covariance.

    >>> two = averaged(np.array([[[0.0]], [[3.0]]]), np.array([[[1.0]], [[2.0]]]))
    >>> two.round(12)
    array([[2.]])
    """
    told = np.einsum("tpo,toq->pq", weights, information, optimize=True)
    return np.asarray(np.linalg.solve(information.sum(axis=0), told.T).T)

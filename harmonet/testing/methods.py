"""What a method promises: one check per promise, each a plain function of a card or a name: `check_order("linear")`.

A method needs no data here: it gets small smooth heads in memory, on the grids of a platform with the source's voxels
and of one with voxels half as large.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import plugins
from harmonet.data.volumes import Volume
from harmonet.errors import HarmonetError
from harmonet.methods.method import Lesson, Method, Pair
from harmonet.platforms import Grid
from harmonet.registry import MethodEntry
from harmonet.testing.harness import (
    Check,
    Options,
    check,
    demand,
    refuse_incomplete_card,
    refuse_unknown_options_taken,
    through_a_recipe,
)

SHAPE, GROUPS = (12, 13, 11), {"l = 0": slice(0, 1), "l = 2": slice(1, 6)}
FACTORS = (1, 2)
LARGEST = 64 << 20  # bytes that one subject may leave of a platform; our choice
TOLERANCE = 1e-4  # of the largest value, for sums in another order

method_check = check(plugins.method)


@cache
def pairs(factor: int, channels: int = 6) -> tuple[Pair, ...]:
    """Three subjects, in another place each, whose target is the source times 1.3 plus another field."""
    from scipy.ndimage import gaussian_filter

    found = []
    for number in range(3):
        rng = np.random.default_rng(number)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = 5 * number
        grid = Grid(SHAPE, affine)
        fine = grid.refined(2)
        smooth = np.stack([gaussian_filter(rng.normal(size=fine.shape), 2.0) for _ in range(2 * channels)], axis=-1)
        smooth = (smooth / smooth.std()).astype(np.float32)
        there = np.zeros(fine.shape, dtype=bool)
        there[4:-4, 4:-6, 4:-4] = True
        field, other = smooth[..., :channels] + 2, smooth[..., channels:]
        target, onto, inside = 1.3 * field + 0.3 * other, fine, there
        if factor == 1:
            target, onto, inside = target[::2, ::2, ::2], grid, there[::2, ::2, ::2]
        mask = there[::2, ::2, ::2]
        source = Volume(field[::2, ::2, ::2] * mask[..., None], mask, grid)
        found.append(Pair(f"s{number}", source, Volume(target * inside[..., None], inside, onto)))
    return tuple(found)


def _built(entry: MethodEntry, options: Options, groups: Mapping[str, slice] = GROUPS) -> Method:
    built = entry.load()(dict(groups), **options)
    demand(isinstance(built, Method), f"{entry.name} builds a {type(built).__name__}: build a harmonet.Method.")
    assert isinstance(built, Method)
    return built


def _lessons(method: Method, factor: int) -> list[Lesson]:
    """What all but the last subject teach."""
    return [method.learn(pair) for pair in pairs(factor)[:-1]]


def _learned(entry: MethodEntry, options: Options, factor: int) -> Method:
    method = _built(entry, options)
    method.fit(_lessons(method, factor))
    return method


def _said(method: Method, factor: int, source: Volume | None = None) -> NDArray[np.float32]:
    """What the method predicts of the last subject, or of a source on its grid."""
    pair = pairs(factor)[-1]
    return method.predict(pair.source if source is None else source, pair.target.grid)


@method_check
def check_card(entry: MethodEntry, options: Options) -> None:
    """The card says what is published and what is our choice."""
    refuse_incomplete_card(entry, entry.unsupported, method_checks())


@method_check
def check_options(entry: MethodEntry, options: Options) -> None:
    """Options have defaults, survive a recipe, and a mistyped one is refused."""
    _built(entry, through_a_recipe(entry, options))
    refuse_unknown_options_taken(entry)


@method_check
def check_lessons(entry: MethodEntry, options: Options) -> None:
    """A subject teaches small arrays, the same ones each time, and is not changed by it."""
    name, (pair, *_) = entry.name, pairs(2)
    before = [v.channels.copy() for v in (pair.source, pair.target)]
    first, second = (_built(entry, options).learn(pair) for _ in range(2))
    demand(
        all(isinstance(array, np.ndarray) for array in first.values()),
        f"{name} learns what is no array: return names to numpy arrays of what a subject teaches.",
    )
    size = sum(array.nbytes for array in first.values())
    demand(
        size <= LARGEST,
        f"{name} keeps {size >> 20} MiB of one subject, more than {LARGEST >> 20}: keep sums or a sample of it.",
    )
    demand(
        first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first),
        f"{name} learns something else of the same subject a second time: draw from a generator with a seed.",
    )
    demand(
        all(np.array_equal(old, v.channels) for old, v in zip(before, (pair.source, pair.target), strict=True)),
        f"{name} changes the volumes that it learns from: copy what is to be changed.",
    )


@method_check
def check_shapes(entry: MethodEntry, options: Options) -> None:
    """A prediction lies on the grid that is asked for, is float32, finite, and the same each time."""
    for factor in FACTORS:
        method, grid = _learned(entry, options, factor), pairs(factor)[-1].target.grid
        source = pairs(factor)[-1].source
        before = source.channels.copy()
        said = _said(method, factor)
        found, wanted = (said.dtype, said.shape), (np.dtype(np.float32), (*grid.shape, 6))
        demand(found == wanted, f"{entry.name} predicts {found[0]} of {found[1]}, asked for float32 of {wanted[1]}.")
        demand(np.isfinite(said).all(), f"{entry.name} predicts NaN or Inf of a usual head: look for a division.")
        demand(
            np.array_equal(said, _said(method, factor)),
            f"{entry.name} predicts something else of the same source a second time: predict draws and counts nothing.",
        )
        demand(np.array_equal(before, source.channels), f"{entry.name} changes the source that it reads: copy it.")


@method_check
def check_finite(entry: MethodEntry, options: Options) -> None:
    """A prediction is finite of a source that is 0, and of one that is large."""
    method, source = _learned(entry, options, 2), pairs(2)[-1].source
    odd = {
        "0 everywhere": replace(source, channels=np.zeros_like(source.channels)),
        "a million times as large": replace(source, channels=source.channels * np.float32(1e6)),
    }
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for words, volume in odd.items():
            demand(
                np.isfinite(_said(method, 2, volume)).all(),
                f"{entry.name} predicts NaN or Inf of a source that is {words}: bound what is divided by.",
            )


@method_check
def check_state(entry: MethodEntry, options: Options) -> None:
    """What was learned comes back from safetensors bytes and predicts the same bits."""
    from safetensors.numpy import load, save

    for factor in FACTORS:
        method, fresh = _learned(entry, options, factor), _built(entry, options)
        state: dict[str, NDArray[Any]] = {key: np.ascontiguousarray(v) for key, v in method.state().items()}
        demand(
            all(np.isfinite(array).all() for array in state.values()),
            f"{entry.name} keeps NaN or Inf in its state: say with a weight of 0 what was not seen.",
        )
        fresh.restore(load(save(state)))
        demand(
            np.array_equal(_said(method, factor), _said(fresh, factor)),
            f"{entry.name} predicts something else once its state was saved and restored: keep in state all that "
            "predict uses.",
        )


@method_check
def check_order(entry: MethodEntry, options: Options) -> None:
    """What is learned does not depend on the order of the subjects."""
    said = []
    for step in (1, -1):
        method = _built(entry, options)
        method.fit(_lessons(method, 1)[::step])
        said.append(_said(method, 1))
    demand(
        np.allclose(said[0], said[1], rtol=0, atol=TOLERANCE * float(np.abs(said[0]).max())),
        f"{entry.name} learns something else of the same subjects in another order: add up, or sort.",
    )


@method_check
def check_scalar(entry: MethodEntry, options: Options) -> None:
    """A scalar image, which has no orders, is predicted, or refused in words when the method is built."""
    try:
        method = entry.load()({}, **options)
    except HarmonetError:
        return
    method.fit([method.learn(pair) for pair in pairs(1, 1)[:-1]])
    pair = pairs(1, 1)[-1]
    said = method.predict(pair.source, pair.target.grid)
    demand(
        said.shape == pair.target.channels.shape and np.isfinite(said).all(),
        f"{entry.name} predicts {said.shape} or NaN of a scalar image: predict one channel, or raise a "
        "harmonet.errors.RecipeError when it is built without groups.",
    )


def method_checks() -> list[Check]:
    """All checks of a method."""
    return list(_CHECKS)


_CHECKS: Sequence[Check] = (
    check_card,
    check_options,
    check_lessons,
    check_shapes,
    check_finite,
    check_state,
    check_order,
    check_scalar,
)

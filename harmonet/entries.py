"""Cards: what an entry of each kind says of itself. A plugin writes them, and nothing else.

`build` may be an object or the text "package.module:attribute", which is imported when it is first needed, so that
listing needs no torch.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

from harmonet.errors import NotFoundError, RegistrationError, nearest
from harmonet.platforms import NAME

Build = Callable[..., Any] | str


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    title: str
    year: int
    doi: str | None = None

    def __str__(self) -> str:
        """Title, year and DOI on one line."""
        return f"{self.title} ({self.year})" + (f", doi:{self.doi}" if self.doi else "")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name, how to build what it stands for, and what a reader should know about it.

    Attributes:
        name: Lower-case name that users type.
        build: Function or class, or "module:attribute".
        summary: One line.
        paper: Publication, None where there is none.
        published: What of the implementation is as published.
        our_choice: What the publication leaves open and we decided.
    """

    name: str
    build: Build
    summary: str
    paper: Paper | None = None
    published: str = ""
    our_choice: str = ""

    supplied: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse a card that could not be listed or typed."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise RegistrationError(f"{self.name!r} is no entry name: use letters, digits, _ and -.")
        if not self.summary:
            raise RegistrationError(f"entry {self.name!r} has no summary: say in one line what it is.")
        if not (callable(self.build) or (isinstance(self.build, str) and ":" in self.build)):
            raise RegistrationError(f"entry {self.name!r}: build is a callable or the text 'module:attribute'.")

    def load(self) -> Callable[..., Any]:
        """The thing that builds, imported if it was given as text.

        Raises:
            RegistrationError: What the text names cannot be imported.
        """
        if not isinstance(self.build, str):
            return self.build
        module, _, attribute = self.build.partition(":")
        try:
            built: Callable[..., Any] = getattr(import_module(module), attribute)
        except Exception as error:  # a stranger's module can raise anything
            raise RegistrationError(
                f"{self.name} cannot be built: importing {self.build} gave {type(error).__name__}: {error}. "
                "Install what it needs, or leave its package out."
            ) from error
        return built

    def options(self) -> dict[str, Any]:
        """Option names and defaults of `build`, without the parameters that harmonet supplies."""
        parameters = inspect.signature(self.load()).parameters.values()
        return {
            p.name: p.default
            for p in parameters
            if p.name not in self.supplied and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse an option that `build` does not have, with the nearest that it has."""
        known = self.options()
        takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.load()).parameters.values())
        for name in options:
            if name not in known and not takes_any:
                raise NotFoundError(f"{self.name} has no option {name!r}. {nearest(name, known)}")


@dataclass(frozen=True, kw_only=True)
class NetworkEntry(Entry):
    """A single network: `build(in_channels, out_channels, upsampling, **options)` gives an `nn.Module`.

    Attributes:
        upsampling: Factors it can be built for.
        taps: Name of a feature to dotted layer path; the first is the default tap.
        parameters: Number of parameters at 28 channels in and out, upsampling 1, default options.
        alignment: How predictions at upsampling 2 lie on the source: on its `node`s, 2n - 3 voxels on edge, or in its
            `cell`s, twice an odd number of voxels.
        unsupported: Name of a check of the conformance kit that this network is known to fail, to the reason.
    """

    upsampling: tuple[int, ...] = (1,)
    taps: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    alignment: Literal["node", "cell"] = "node"
    unsupported: Mapping[str, str] = field(default_factory=dict)

    supplied: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "upsampling")

    def __post_init__(self) -> None:
        """Refuse factors and taps that composing could not read, such as `upsampling=2` or `taps="body"`."""
        super().__post_init__()
        factors: Any = self.upsampling
        taps: Any = self.taps
        if not (isinstance(factors, tuple | list) and factors and all(type(f) is int and f > 0 for f in factors)):
            raise RegistrationError(f"entry {self.name!r}: upsampling is a tuple such as (1, 2), not {factors!r}.")
        if not (isinstance(taps, Mapping) and all(isinstance(t, str) for item in taps.items() for t in item)):
            raise RegistrationError(
                f"entry {self.name!r}: taps is a dict such as {{'features': 'body'}}, a feature name to a layer, "
                f"not {taps!r}."
            )


@dataclass(frozen=True, kw_only=True)
class FusionEntry(Entry):
    """A fusion: `build(sources, target, **options)` gives a `harmonet.Fusion`.

    Attributes:
        unsupported: Name of a check of the conformance kit that this fusion is known to fail, to the reason.
    """

    unsupported: Mapping[str, str] = field(default_factory=dict)

    supplied: ClassVar[tuple[str, ...]] = ("sources", "target")


@dataclass(frozen=True, kw_only=True)
class RepresentationEntry(Entry):
    """A representation: `build(shells, **options)` gives a `harmonet.Representation`."""

    supplied: ClassVar[tuple[str, ...]] = ("shells",)


@dataclass(frozen=True, kw_only=True)
class ConnectionEntry(Entry):
    """A connection network: `build(features, prediction, **options)` gives an `nn.Module`.

    `features` is a list of sizes (C, X, Y, Z), one for each tensor that its forward takes, `prediction` the size
    (C, X, Y, Z) that it gives.
    """

    supplied: ClassVar[tuple[str, ...]] = ("features", "prediction")


@dataclass(frozen=True, kw_only=True)
class LossEntry(Entry):
    """A loss: `build(groups, **options)` gives a function (prediction, truth, inside, variance) to a scalar tensor.

    `groups` names slices of channels, such as `l = 2`; prediction and truth are (B, C, X, Y, Z), `inside`
    (B, 1, X, Y, Z) is 1 in the mask, `variance` is None where the network predicts none.
    """

    supplied: ClassVar[tuple[str, ...]] = ("groups",)


@dataclass(frozen=True, kw_only=True)
class WeightingEntry(Entry):
    """A weighting of loss terms: `build(terms, **options)` gives a `harmonet.losses.weighting.Weighting`.

    `terms` lists (stage, platform), one for each term of the loss.
    """

    supplied: ClassVar[tuple[str, ...]] = ("terms",)


@dataclass(frozen=True, kw_only=True)
class MetricEntry(Entry):
    """A metric: `build(**options)` gives a function (prediction, truth) of two images to a number, or to None.

    None says that there is nothing to measure: no second shell, no label map.

    Attributes:
        unit: Of the number; empty for a ratio, and for squared units of the channels.
        best: The number of a perfect prediction: statistics are those of |number - best|.
        routine: Whether it is measured unless metrics are asked for by name; one that takes long is not.
        grouped: Whether it is also taken of each group of channels, as `name l = 2`; `build` then has the parameter
            `group`, the name of a group or None for all channels.
    """

    unit: str = ""
    best: float = 0.0
    routine: bool = True
    grouped: bool = False

    supplied: ClassVar[tuple[str, ...]] = ("group",)


@dataclass(frozen=True, kw_only=True)
class MethodEntry(Entry):
    """A method that is no network: `build(groups, **options)` gives a `harmonet.Method`.

    `groups` names slices of channels, such as `l = 2`; it is empty for a scalar image.

    Attributes:
        unsupported: Name of a check of the conformance kit that this method is known to fail, to the reason.
    """

    unsupported: Mapping[str, str] = field(default_factory=dict)

    supplied: ClassVar[tuple[str, ...]] = ("groups",)

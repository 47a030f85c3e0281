"""Registering from a script, without a package."""

from collections.abc import Callable
from typing import Any, TypeVar

from harmonet import plugins
from harmonet.registry import FUSIONS, NETWORKS, FusionEntry, NetworkEntry, Paper

F = TypeVar("F", bound=Callable[..., Any])


def register_network(
    name: str,
    *,
    tap: str | None = None,
    upsampling: tuple[int, ...] = (1,),
    summary: str = "",
    paper: Paper | None = None,
) -> Callable[[F], F]:
    """A decorator that registers a network from a script, without a package.

    Args:
        name: Name to type.
        tap: Dotted path of the layer that fusions read by default.
        upsampling: Factors that it can be built for.
        summary: One line; the first line of the docstring by default.
        paper: Publication.
    """

    def decorate(build: F) -> F:
        taps = {"features": tap} if tap is not None else {}
        entry = NetworkEntry(
            name=name, build=build, summary=summary or _first_line(build), paper=paper, upsampling=upsampling, taps=taps
        )
        plugins.load()
        NETWORKS.register(entry, build.__module__)
        return build

    return decorate


def register_fusion(name: str, *, summary: str = "", paper: Paper | None = None) -> Callable[[F], F]:
    """A decorator that registers a fusion from a script, without a package."""

    def decorate(build: F) -> F:
        entry = FusionEntry(name=name, build=build, summary=summary or _first_line(build), paper=paper)
        plugins.load()
        FUSIONS.register(entry, build.__module__)
        return build

    return decorate


def _first_line(build: Callable[..., Any]) -> str:
    return (build.__doc__ or build.__name__).strip().splitlines()[0]

"""Registering from a script, or from a file given by `--plugin`, without a package."""

from collections.abc import Callable
from typing import Any, TypeVar

from harmonet import plugins
from harmonet.asking import HOOKS, collect
from harmonet.registry import Entry, FusionEntry, MethodEntry, NetworkEntry, Paper

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
        _register("harmonet_networks", entry, build.__module__)
        return build

    return decorate


def register_fusion(name: str, *, summary: str = "", paper: Paper | None = None) -> Callable[[F], F]:
    """A decorator that registers a fusion from a script, without a package."""

    def decorate(build: F) -> F:
        entry = FusionEntry(name=name, build=build, summary=summary or _first_line(build), paper=paper)
        _register("harmonet_fusions", entry, build.__module__)
        return build

    return decorate


def register_method(name: str, *, summary: str = "", paper: Paper | None = None) -> Callable[[F], F]:
    """A decorator that registers a method that is no network from a script, without a package."""

    def decorate(build: F) -> F:
        entry = MethodEntry(name=name, build=build, summary=summary or _first_line(build), paper=paper)
        _register("harmonet_methods", entry, build.__module__)
        return build

    return decorate


def _register(hook: str, entry: Entry, module: str) -> None:
    """Register the entry; of a file that is being loaded as a plugin, as its answer to the hook.

    Raises:
        RegistrationError: The name is taken: whoever writes a script can choose another.
    """
    if collect(hook, entry):
        return
    plugins.load()
    registry = HOOKS[hook][0]
    registry.refuse_taken(entry)
    registry.register(entry, module)


def _first_line(build: Callable[..., Any]) -> str:
    return (build.__doc__ or build.__name__).strip().splitlines()[0]

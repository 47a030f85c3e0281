"""How plugins are found and asked. Built-ins come in by the same door as a stranger's package.

A plugin that cannot be imported, misspells a hook, answers with something that is no entry, or claims a taken name is
left out whole, with a `PluginWarning` that names the package and the reason; everything else works. The switch
`HARMONET_PLUGINS` helps to find a culprit: `off` loads none, `a,b` loads only those.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from harmonet import hookspecs
from harmonet.errors import NotFoundError, PluginWarning, RegistrationError
from harmonet.registry import (
    FUSIONS,
    NETWORKS,
    REPRESENTATIONS,
    Entry,
    FusionEntry,
    NetworkEntry,
    Paper,
    Registry,
    RepresentationEntry,
)

SWITCH = "HARMONET_PLUGINS"
BUILT_IN = "harmonet"
BUILT_IN_MODULES = ("harmonet.networks", "harmonet.fusions", "harmonet.representations")

E = TypeVar("E", bound=Entry)

# hook -> (registry that its answers go to, type of an answer)
HOOKS: dict[str, tuple[Registry[Any], type[Entry]]] = {
    "harmonet_networks": (NETWORKS, NetworkEntry),
    "harmonet_fusions": (FUSIONS, FusionEntry),
    "harmonet_representations": (REPRESENTATIONS, RepresentationEntry),
}


@dataclass(frozen=True)
class Plugin:
    """One plugin as it was found: entry-point name, package, version, names it brought, why it was left out."""

    name: str
    package: str
    version: str
    entries: tuple[str, ...] = ()
    problem: str | None = None


@cache
def load() -> tuple[Plugin, ...]:
    """Every plugin, built-ins first; the first call registers what they bring."""
    manager = pluggy.PluginManager("harmonet")
    manager.add_hookspecs(hookspecs)
    plugins = [_admit(manager, m, BUILT_IN, "", partial(import_module, m)) for m in BUILT_IN_MODULES]
    plugins += [_admit(manager, p.name, _package(p), _version(p), p.load) for p in _wanted()]
    for plugin in plugins:
        if plugin.problem is not None:
            warnings.warn(
                f"plugin {plugin.name} of {plugin.package} {plugin.version} is left out: {plugin.problem}",
                PluginWarning,
                stacklevel=2,
            )
    return tuple(plugins)


def _wanted() -> list[EntryPoint]:
    """Installed entry points that the switch lets in, in an order that does not depend on the file system."""
    switch = os.environ.get(SWITCH, "on").strip()
    found = sorted(entry_points(group=hookspecs.GROUP), key=lambda p: (_package(p), p.name))
    if switch in ("", "on", "all"):
        return found
    chosen = set() if switch in ("off", "none", "0") else {name.strip() for name in switch.split(",")}
    return [p for p in found if p.name in chosen or _package(p) in chosen]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(".")[0]


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist is not None else ""


def _admit(
    manager: pluggy.PluginManager, name: str, package: str, version: str, load_plugin: Callable[[], Any]
) -> Plugin:
    """Import one plugin, ask it, and register all of its answers or none."""
    registered_as = f"{package}:{name}"
    try:
        plugin = load_plugin()
        manager.register(plugin, registered_as)
        _refuse_misspelt(plugin)
        manager.check_pending()
        entries = _answers(manager, plugin)
        for registry, entry in entries:
            registry.refuse_taken(entry)
        names = [f"{registry.kind} {entry.name}" for registry, entry in entries]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise RegistrationError(f"it brings {', '.join(sorted(twice))} twice.")
    except (Exception, SystemExit) as error:  # a stranger's code can raise anything, and even exit
        if manager.has_plugin(registered_as):
            manager.unregister(name=registered_as)
        return Plugin(name, package, version, problem=_reason(error))
    for registry, entry in entries:
        registry.register(entry, package)
    return Plugin(name, package, version, tuple(entry.name for _, entry in entries))


def _reason(error: BaseException) -> str:
    """The error's type and text on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RegistrationError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _refuse_misspelt(plugin: Any) -> None:
    """Refuse a function called harmonet_* that is no hook: pluggy itself only sees it when it is marked."""
    for name in dir(plugin):
        if name.startswith("harmonet_") and callable(getattr(plugin, name)) and name not in HOOKS:
            close = get_close_matches(name, HOOKS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"hooks are {', '.join(HOOKS)}."
            raise RegistrationError(f"it has {name}, which is no hook: {hint}")
    marked = [name for name in HOOKS if hasattr(getattr(plugin, name, None), "harmonet_impl")]
    if not marked:
        raise RegistrationError(f"it answers no hook: mark one of {', '.join(HOOKS)} with @harmonet.hookimpl.")


def _answers(manager: pluggy.PluginManager, plugin: Any) -> list[tuple[Registry[Any], Entry]]:
    """The plugin's entries, each with the registry it belongs to."""
    answers: list[tuple[Registry[Any], Entry]] = []
    for hook, (registry, kind) in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            given = implementation.function()
            if not isinstance(given, list | tuple) or not all(isinstance(entry, kind) for entry in given):
                raise RegistrationError(f"{hook} must return a list of {kind.__name__}, found {given!r:.80}.")
            answers += [(registry, entry) for entry in given]
    return answers


def _find(registry: Registry[E], name: str) -> E:
    """The entry; if the name is unknown, the error also says which plugins were left out."""
    broken = [plugin for plugin in load() if plugin.problem is not None]
    try:
        return registry.get(name)
    except NotFoundError as error:
        if not broken:
            raise
        out = " ".join(f"Plugin {p.name} of {p.package} was left out ({p.problem})" for p in broken)
        raise NotFoundError(f"{error} {out}") from None


def network(name: str) -> NetworkEntry:
    """The card of a single network."""
    return _find(NETWORKS, name)


def fusion(name: str) -> FusionEntry:
    """The card of a fusion."""
    return _find(FUSIONS, name)


def representation(name: str) -> RepresentationEntry:
    """The card of a representation."""
    return _find(REPRESENTATIONS, name)


def list_networks(pattern: str = "*") -> list[str]:
    """Names of the registered single networks that match the wildcard pattern.

    >>> list_networks("*res*")
    ['shresnet']
    """
    load()
    return NETWORKS.names(pattern)


def list_fusions(pattern: str = "*") -> list[str]:
    """Names of the registered fusions that match the wildcard pattern."""
    load()
    return FUSIONS.names(pattern)


def list_representations(pattern: str = "*") -> list[str]:
    """Names of the registered representations that match the wildcard pattern."""
    load()
    return REPRESENTATIONS.names(pattern)


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
        load()
        NETWORKS.register(entry, build.__module__)
        return build

    return decorate


def register_fusion(name: str, *, summary: str = "", paper: Paper | None = None) -> Callable[[F], F]:
    """A decorator that registers a fusion from a script, without a package."""

    def decorate(build: F) -> F:
        entry = FusionEntry(name=name, build=build, summary=summary or _first_line(build), paper=paper)
        load()
        FUSIONS.register(entry, build.__module__)
        return build

    return decorate


def _first_line(build: Callable[..., Any]) -> str:
    return (build.__doc__ or build.__name__).strip().splitlines()[0]

"""How plugins are found and asked. Built-ins come in by the same door as a stranger's package.

A plugin that cannot be imported, misspells a hook, answers with something that is no entry, or claims a taken name is
left out whole, with a `PluginWarning` that names the package and the reason; everything else works. The switch
`HARMONET_PLUGINS` helps to find a culprit: `off` loads none, `a,b` loads only those.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
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
    CONNECTIONS,
    FUSIONS,
    LOSSES,
    METHODS,
    METRICS,
    NETWORKS,
    REPRESENTATIONS,
    WEIGHTINGS,
    ConnectionEntry,
    Entry,
    FusionEntry,
    LossEntry,
    MethodEntry,
    MetricEntry,
    NetworkEntry,
    Registry,
    RepresentationEntry,
    WeightingEntry,
)

SWITCH = "HARMONET_PLUGINS"
BUILT_IN = "harmonet"
REASON_LENGTH = 300  # characters
BUILT_IN_MODULES = (
    "harmonet.networks",
    "harmonet.fusions",
    "harmonet.representations",
    "harmonet.blocks",
    "harmonet.losses",
    "harmonet.metrics",
)

E = TypeVar("E", bound=Entry)

# hook -> (registry that its answers go to, type of an answer)
HOOKS: dict[str, tuple[Registry[Any], type[Entry]]] = {
    "harmonet_networks": (NETWORKS, NetworkEntry),
    "harmonet_fusions": (FUSIONS, FusionEntry),
    "harmonet_representations": (REPRESENTATIONS, RepresentationEntry),
    "harmonet_connections": (CONNECTIONS, ConnectionEntry),
    "harmonet_losses": (LOSSES, LossEntry),
    "harmonet_weightings": (WEIGHTINGS, WeightingEntry),
    "harmonet_metrics": (METRICS, MetricEntry),
    "harmonet_methods": (METHODS, MethodEntry),
}


@dataclass(frozen=True)
class Plugin:
    """One plugin as it was found: entry-point name, package, version, names it brought, why it was left out."""

    name: str
    package: str
    version: str
    entries: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Candidate:
    """An installed entry point: its name, package and version, and how to import it."""

    name: str
    package: str
    version: str
    load: Callable[[], Any]


@cache
def load() -> tuple[Plugin, ...]:
    """Every plugin, built-ins first; the first call registers what they bring.

    Raises:
        RegistrationError: A plugin called this while it was itself being imported or asked.
    """
    manager = pluggy.PluginManager("harmonet")
    manager.add_hookspecs(hookspecs)
    candidates = [Candidate(m, BUILT_IN, "", partial(import_module, m)) for m in BUILT_IN_MODULES]
    with _asking_plugins():
        plugins = [_admit(manager, candidate) for candidate in [*candidates, *_wanted()]]
    for plugin in plugins:
        if plugin.problem is not None:
            warnings.warn(
                f"plugin {plugin.name} of {plugin.package} {plugin.version} is left out: {plugin.problem}",
                PluginWarning,
                stacklevel=2,
            )
    return tuple(plugins)


_asking = ContextVar("_asking", default=False)


@contextmanager
def _asking_plugins() -> Iterator[None]:
    """Inside, what plugins print goes to stderr, and a plugin that asks back is refused: it would be loaded twice."""
    if _asking.get():
        raise RegistrationError(
            "it lists or registers names while it is imported or asked: answer the hooks with lists, do nothing else."
        )
    token = _asking.set(True)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _asking.reset(token)


def _wanted() -> list[Candidate]:
    """Installed plugins that the switch lets in, in an order that does not depend on the file system."""
    switch = os.environ.get(SWITCH, "on").strip()
    if switch in ("off", "none", "0"):
        return []
    found = sorted(map(_candidate, entry_points(group=hookspecs.GROUP)), key=lambda c: (c.package, c.name))
    if switch in ("", "on", "all"):
        return found
    chosen = {name.strip() for name in switch.split(",")}
    return [c for c in found if c.name in chosen or c.package in chosen]


def _candidate(point: EntryPoint) -> Candidate:
    """The entry point with its package; where a damaged installation has lost the package's name, with its module's."""
    try:
        package, version = (point.dist.name, point.dist.version) if point.dist is not None else ("", "")
    except Exception:  # without metadata, newer Pythons raise where older ones say None
        package, version = "", ""
    return Candidate(point.name, package or point.value.partition(":")[0], version or "", point.load)


def _admit(manager: pluggy.PluginManager, candidate: Candidate) -> Plugin:
    """Import one plugin, ask it, and register all of its answers or none."""
    name, package, version = candidate.name, candidate.package, candidate.version
    registered_as = f"{package}:{name}"
    try:
        plugin = candidate.load()
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
    """The error's type and text on one printable line of bearable length."""
    try:
        text = str(error)
    except Exception:  # a stranger's error can fail to say what it is
        text = ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= REASON_LENGTH else f"{text[:REASON_LENGTH]} ..."
    return text if isinstance(error, RegistrationError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _refuse_misspelt(plugin: Any) -> None:
    """Refuse a function called harmonet_* that is no hook or is not marked: pluggy itself passes over both."""
    for name in dir(plugin):
        if name.startswith("harmonet_") and callable(getattr(plugin, name)) and name not in HOOKS:
            close = get_close_matches(name, HOOKS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"hooks are {', '.join(HOOKS)}."
            raise RegistrationError(f"it has {name}, which is no hook: {hint}")
    marked = [name for name in HOOKS if hasattr(getattr(plugin, name, None), "harmonet_impl")]
    for name in HOOKS:
        if hasattr(plugin, name) and name not in marked:
            raise RegistrationError(f"its {name} is not marked: write @harmonet.hookimpl above it.")
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
    broken = left_out()
    try:
        return registry.get(name)
    except NotFoundError as error:
        raise NotFoundError(f"{error}{broken}") from None


def left_out() -> str:
    """Words to end an unknown name's error with: which plugins were left out and why; empty where none were."""
    return "".join(f" Plugin {p.name} of {p.package} was left out ({p.problem})" for p in load() if p.problem)


def network(name: str) -> NetworkEntry:
    """The card of a single network; `name@2` is the same network, begun and trained with another seed."""
    bare, _, seed = name.partition("@")
    return _find(NETWORKS, bare if seed.isdecimal() else name)


def fusion(name: str) -> FusionEntry:
    """The card of a fusion."""
    return _find(FUSIONS, name)


def representation(name: str) -> RepresentationEntry:
    """The card of a representation."""
    return _find(REPRESENTATIONS, name)


def connection(name: str) -> ConnectionEntry:
    """The card of a connection network."""
    return _find(CONNECTIONS, name)


def loss(name: str) -> LossEntry:
    """The card of a loss."""
    return _find(LOSSES, name)


def weighting(name: str) -> WeightingEntry:
    """The card of a weighting of loss terms."""
    return _find(WEIGHTINGS, name)


def metric(name: str) -> MetricEntry:
    """The card of a metric."""
    return _find(METRICS, name)


def method(name: str) -> MethodEntry:
    """The card of a method that is no network."""
    return _find(METHODS, name)


def provided_by(name: str) -> list[str]:
    """Package and version of every plugin that brings an entry of this name."""
    return [f"{plugin.package} {plugin.version}" for plugin in load() if name in plugin.entries]


def list_networks(pattern: str = "*") -> list[str]:
    """Names of the registered single networks that match the wildcard pattern.

    >>> list_networks("*res*")
    ['shresnet', 'shresnet2017']
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


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the registered methods that are no networks and match the wildcard pattern."""
    load()
    return METHODS.names(pattern)


def list_metrics(pattern: str = "*") -> list[str]:
    """Names of the registered metrics that match the wildcard pattern."""
    load()
    return METRICS.names(pattern)

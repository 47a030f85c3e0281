"""All plugins, found and asked once, and what they bring by name. Built-ins come in by a stranger's door.

A plugin that cannot be imported, takes too long, was written for another plugin API, misspells a hook or answers with
something that is no entry is left out whole, with a `PluginWarning` that names the package and the reason; everything
else works. A file that the user names is another matter: what is wrong with it ends the work.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeVar

import pluggy

from harmonet import hookspecs
from harmonet.asking import HOOKS, Plugin, ask
from harmonet.errors import NotFoundError, PluginWarning, RegistrationError
from harmonet.finding import Candidate, files, installed, version_of
from harmonet.registry import BUILT_IN as BUILT_IN
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

BUILT_IN_MODULES = (
    "harmonet.networks",
    "harmonet.fusions",
    "harmonet.representations",
    "harmonet.blocks",
    "harmonet.losses",
    "harmonet.metrics",
    "harmonet.methods",
)

E = TypeVar("E", bound=Entry)


@cache
def load() -> tuple[Plugin, ...]:
    """Every plugin, built-ins first, then packages, then single files; the first call registers what they bring.

    Raises:
        RegistrationError: A file that the user names cannot be used, or a plugin called this while it was itself being
            imported or asked.
    """
    manager = pluggy.PluginManager("harmonet")
    manager.add_hookspecs(hookspecs)
    built_in = [Candidate(m, BUILT_IN, version_of(BUILT_IN), partial(import_module, m)) for m in BUILT_IN_MODULES]
    plugins: list[Plugin] = []
    notes: list[str] = []
    with _asking_plugins():
        for candidate in [*built_in, *installed(), *files()]:
            plugins.append(_admitted(manager, candidate, notes))
    for note in notes:
        warnings.warn(note, PluginWarning, stacklevel=2)
    return tuple(plugins)


def _admitted(manager: pluggy.PluginManager, candidate: Candidate, notes: list[str]) -> Plugin:
    """The plugin, with all that it brings registered or nothing; what its author will not have wished goes to notes."""
    plugin, answers = ask(manager, candidate)
    if plugin.state == "left out":
        if plugin.file is not None:
            raise RegistrationError(f"plugin {plugin.file} cannot be used: {str(plugin.problem).removesuffix('.')}.")
        notes.append(f"plugin {plugin.name} of {plugin.package} {plugin.version} is left out: {plugin.problem}")
    for hook, entries in answers.items():
        registry = HOOKS[hook][0]
        for entry in entries:
            registry.register(entry, plugin.package)
            full = f"{plugin.package}:{entry.name}"
            if f"{BUILT_IN}:{entry.name}" in registry and registry.get(entry.name) != entry:
                notes.append(
                    f"{registry.kind} {entry.name} of {plugin.package} {plugin.version} is called {full} here: "
                    f"{entry.name} alone is the built-in {registry.kind}"
                )
    return plugin


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


def _find(registry: Registry[E], name: str) -> E:
    """The entry; if the name is unknown, the error also says which plugins were left out."""
    broken = left_out()
    try:
        return registry.get(name)
    except NotFoundError as error:
        raise NotFoundError(f"{error}{broken}") from None


def left_out() -> str:
    """Words to end an unknown name's error with: which plugins were left out and why; empty where none were."""
    broken = [plugin for plugin in load() if plugin.state == "left out"]
    return "".join(f" Plugin {p.name} of {p.package} was left out ({p.problem})" for p in broken)


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
    """Package and version of every plugin that brings an entry of this name, or `package:name`."""
    package, _, short = name.rpartition(":")
    bringing = [plugin for plugin in load() if short in plugin.entries and package in ("", plugin.package)]
    return [f"{plugin.package} {plugin.version}" for plugin in bringing]


def provider(registry: Registry[Any], name: str) -> dict[str, str]:
    """Package and version of what brought a registered entry, to be written into a run.

    Of a single file these are its name and SHA-256. What a script registered has its module's name and no version.
    """
    package = registry.provider(name)
    plugin = next((plugin for plugin in load() if plugin.package == package and plugin.entries), None)
    if plugin is None:
        return {"package": package, "version": version_of(package)}
    return {"package": plugin.file.name if plugin.file else package, "version": plugin.version}


def list_networks(pattern: str = "*") -> list[str]:
    """Names of the registered single networks that match the wildcard pattern.

    >>> list_networks("shres*")
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

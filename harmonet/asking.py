"""How one plugin is imported and asked: all that it answers is sound, or it is left out with a reason."""

import math
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pluggy

from harmonet import hookspecs
from harmonet.errors import RegistrationError
from harmonet.finding import Candidate
from harmonet.interruption import Stopped, TimedOut, time_limit
from harmonet.registry import (
    BUILT_IN,
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

TIMEOUT = "HARMONET_PLUGIN_TIMEOUT"
SECONDS = 10.0  # to be imported and asked, where the environment does not say otherwise
REASON_LENGTH = 300  # characters
API_NAME = "harmonet_api"

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

Answers = Mapping[str, list[Entry]]  # hook to entries


@dataclass(frozen=True)
class Plugin:
    """One plugin as it was found.

    Attributes:
        name: Of the entry point; of a file, its stem.
        package, version: Distribution; of a file, its stem and its SHA-256.
        api: The plugin API that it was written for; None where that was not found out.
        hooks: Hook that it answers, to the names of the entries.
        state: What became of it.
        problem: Why it is not loaded; None where it is.
        file: Where it is a single file.
    """

    name: str
    package: str
    version: str
    api: int | None = None
    hooks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: Literal["loaded", "left out", "switched off"] = "loaded"
    problem: str | None = None
    file: Path | None = None

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of all entries that it brings."""
        return tuple(name for names in self.hooks.values() for name in names)


def ask(manager: pluggy.PluginManager, candidate: Candidate) -> tuple[Plugin, Answers]:
    """The plugin and its answers; of one that is left out, why, and none.

    Raises:
        RegistrationError: The time that plugins are given is no number.
    """
    name, package, version, file = candidate.name, candidate.package, candidate.version, candidate.file
    if candidate.off:
        return Plugin(name, package, version, state="switched off", problem=candidate.off), {}
    registered_as, api, limit = f"{package}:{name}", None, _limit()
    try:
        # What is built in is ours to keep quick; on a slow disk it must not be given up.
        with nullcontext() if package == BUILT_IN else time_limit(limit), _collecting(candidate) as collected:
            plugin = candidate.load()
            api = getattr(plugin, API_NAME, hookspecs.FIRST_API)
            refuse_api(api, hookspecs.API)
            manager.register(plugin, registered_as)
            _refuse_misspelt(plugin, asked_to_answer=not collected)
            manager.check_pending()
            answers = _answers(manager, plugin, collected)
        _refuse_twice(answers)
        for hook, entries in answers.items():
            for entry in entries:
                HOOKS[hook][0].refuse_taken(entry, package)
    except BaseException as error:  # a stranger's code can raise anything, and even exit
        if isinstance(error, KeyboardInterrupt | Stopped):  # this is the user
            raise
        if manager.has_plugin(registered_as):
            manager.unregister(name=registered_as)
        problem = _reason(error, file, limit)
        return Plugin(name, package, version, _integer(api), state="left out", problem=problem, file=file), {}
    hooks = {hook: tuple(entry.name for entry in entries) for hook, entries in answers.items()}
    return Plugin(name, package, version, api, hooks, file=file), answers


def refuse_api(asked: object, here: int) -> None:
    """Refuse a plugin that was written for another plugin API than `here`, or the one before it.

    >>> refuse_api(1, 3)
    Traceback (most recent call last):
    harmonet.errors.RegistrationError: it was written for plugin API 1, this harmonet takes 2 and 3: upgrade the plugin.
    """
    if _integer(asked) is None:
        raise RegistrationError(f"its {API_NAME} is {asked!r:.80}: write a whole number, such as {API_NAME} = {here}.")
    oldest = max(hookspecs.FIRST_API, here - 1)
    taken = f"{oldest} and {here}" if oldest < here else f"{here}"
    if asked > here:  # type: ignore[operator]
        raise RegistrationError(f"it needs plugin API {asked}, this harmonet takes {taken}: upgrade harmonet.")
    if asked < oldest:  # type: ignore[operator]
        raise RegistrationError(
            f"it was written for plugin API {asked}, this harmonet takes {taken}: upgrade the plugin."
        )


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


def _limit() -> float:
    """The seconds that a plugin is given."""
    text = os.environ.get(TIMEOUT, "") or str(SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RegistrationError(f"{TIMEOUT}={text} is no time: give seconds, such as {TIMEOUT}=60.")
    return seconds


_collected: ContextVar[list[tuple[str, Entry]] | None] = ContextVar("_collected", default=None)


@contextmanager
def _collecting(candidate: Candidate) -> Iterator[list[tuple[str, Entry]]]:
    """What decorators register inside, of a plugin that is a single file; a package answers hooks alone."""
    found: list[tuple[str, Entry]] = []
    token = _collected.set(found if candidate.file is not None else None)
    try:
        yield found
    finally:
        _collected.reset(token)


def collect(hook: str, entry: Entry) -> bool:
    """Whether a plugin file is being run, of which the entry is then an answer to the hook."""
    found = _collected.get()
    if found is not None:
        found.append((hook, entry))
    return found is not None


def _refuse_misspelt(plugin: Any, asked_to_answer: bool) -> None:
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
    if asked_to_answer and not marked:
        raise RegistrationError(f"it answers no hook: mark one of {', '.join(HOOKS)} with @harmonet.hookimpl.")


def _answers(manager: pluggy.PluginManager, plugin: Any, collected: list[tuple[str, Entry]]) -> dict[str, list[Entry]]:
    """The entries that the plugin answers each hook with, and those that were collected."""
    answers: dict[str, list[Entry]] = {}
    for hook, (_, kind) in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            given = implementation.function()
            if not isinstance(given, list | tuple) or not all(isinstance(entry, kind) for entry in given):
                raise RegistrationError(f"{hook} must return a list of {kind.__name__}, found {given!r:.80}.")
            answers.setdefault(hook, []).extend(given)
    for hook, entry in collected:
        answers.setdefault(hook, []).append(entry)
    return answers


def _refuse_twice(answers: Answers) -> None:
    for hook, entries in answers.items():
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RegistrationError(f"it brings {HOOKS[hook][0].kind} {', '.join(twice)} twice.")


def _reason(error: BaseException, file: Path | None, limit: float) -> str:
    """The error's type and text, of a file with the line, on one printable line of bearable length."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, TimedOut):
        hooks = [frame.name for frame in frames if frame.name in HOOKS]
        what = f"answer {hooks[0]}" if hooks else "be imported"
        return f"it took more than {limit:g} s to {what}: do slow work in `build`, or give it more time by {TIMEOUT}."
    try:
        text = str(error)
    except Exception:  # a stranger's error can fail to say what it is
        text = ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= REASON_LENGTH else f"{text[:REASON_LENGTH]} ..."
    told = text if isinstance(error, RegistrationError) else f"{type(error).__name__}: {text}".rstrip(": ")
    lines = [frame.lineno for frame in frames if file is not None and frame.filename == str(file)]
    if isinstance(error, SyntaxError) and file is not None and error.filename == str(file):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    return f"line {lines[-1]}: {told}" if lines else told

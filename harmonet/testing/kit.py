"""Running the kit: over one entry for the command line, or as pytest's parameters."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from harmonet import plugins
from harmonet.errors import NotFoundError, nearest
from harmonet.registry import FUSIONS, NETWORKS, FusionEntry, NetworkEntry
from harmonet.testing.fusions import fusion_checks
from harmonet.testing.harness import Check, Options, title
from harmonet.testing.networks import network_checks

Checked = NetworkEntry | FusionEntry
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        check: Its name, as a card's `unsupported` knows it.
        result: `passed`, `failed`, or `unsupported`: it failed as the card declares.
        seconds: How long it took.
        words: The sentence of the failure, or the card's reason.
    """

    check: str
    result: Literal["passed", "failed", "unsupported"]
    seconds: float
    words: str = ""


def entry_of(name: str) -> Checked:
    """The network of that name, or else the fusion."""
    broken = plugins.left_out()
    for registry in (NETWORKS, FUSIONS):
        if name in registry.names():
            found: Checked = registry.get(name)
            return found
    known = [*NETWORKS.names(), *FUSIONS.names()]
    raise NotFoundError(f"no network or fusion {name!r}. {nearest(name, known)}{broken}")


def checks_of(entry: Checked | str) -> list[Check]:
    """The checks that an entry, or the network or fusion of that name, must pass."""
    found = entry_of(entry) if isinstance(entry, str) else entry
    return network_checks() if isinstance(found, NetworkEntry) else fusion_checks()


def examine(entry: Checked | str, **options: Any) -> Iterator[Result]:
    """One result after the other, of every check.

    Args:
        entry: A card, or the name of a network or fusion.
        options: Options to build it with.

    >>> [result.check for result in examine("msp") if result.result == "failed"]
    []
    """
    found = entry_of(entry) if isinstance(entry, str) else entry
    for check in checks_of(found):
        yield _judge(check, found, options)


def _judge(check: Check, entry: Checked, options: Options) -> Result:
    name = title(check)
    declared = entry.unsupported.get(name)
    began = time.perf_counter()
    try:
        check(entry, **options)
    except AssertionError as error:
        seconds = time.perf_counter() - began
        return (
            Result(name, "failed", seconds, str(error))
            if declared is None
            else Result(name, "unsupported", seconds, declared)
        )
    seconds = time.perf_counter() - began
    if declared is None:
        return Result(name, "passed", seconds)
    return Result(name, "failed", seconds, f"declared unsupported ({declared}), but it passes: take that off the card.")


def parametrize_with_checks(
    entries: Sequence[Checked | str], options: Mapping[str, Options] | None = None
) -> Callable[[F], F]:
    """A decorator that runs a test (entry, check) once for every entry and check.

    What a card declares unsupported is expected to fail, strictly: a check that then passes is a failure.

    Args:
        entries: Cards, or names of networks and fusions.
        options: Name to the options to build it with; small ones make it quick.

    Raises:
        NotFoundError: A name is not registered.
    """
    import pytest

    parameters = []
    for entry in entries:
        found = entry_of(entry) if isinstance(entry, str) else entry
        for check in checks_of(found):
            name = title(check)
            reason = found.unsupported.get(name)
            marks = () if reason is None else (pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError),)
            bound = partial(check, **(options or {}).get(found.name, {}))
            parameters.append(pytest.param(found, bound, id=f"{found.name}-{name}", marks=marks))
    decorate: Callable[[F], F] = pytest.mark.parametrize(("entry", "check"), parameters)
    return decorate

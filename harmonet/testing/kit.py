"""Running the kit: over one entry for the command line, or as pytest's parameters."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from harmonet import plugins
from harmonet.errors import NotFoundError, nearest
from harmonet.registry import FUSIONS, METHODS, NETWORKS, FusionEntry, MethodEntry, NetworkEntry, Registry
from harmonet.testing.fusions import fusion_checks
from harmonet.testing.harness import Check, Options, title
from harmonet.testing.methods import method_checks
from harmonet.testing.networks import network_checks

Checked = NetworkEntry | FusionEntry | MethodEntry
REGISTRIES: tuple[Registry[Any], ...] = (NETWORKS, FUSIONS, METHODS)

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
    """The network of that name, or else the fusion, or else the method."""
    broken = plugins.left_out()
    for registry in REGISTRIES:
        if name in registry:
            found: Checked = registry.get(name)
            return found
    known = [known for registry in REGISTRIES for known in registry.names()]
    raise NotFoundError(f"no network, fusion or method {name!r}. {nearest(name, known)}{broken}")


def checks_of(entry: Checked | str) -> list[Check]:
    """The checks that an entry, or the network, fusion or method of that name, must pass."""
    found = entry_of(entry) if isinstance(entry, str) else entry
    if isinstance(found, MethodEntry):
        return method_checks()
    return network_checks() if isinstance(found, NetworkEntry) else fusion_checks()


def examine(entry: Checked | str, **options: Any) -> Iterator[Result]:
    """One result after the other, of every check.

    Args:
        entry: A card, or the name of a network, fusion or method.
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
        entries: Cards, or names of networks, fusions and methods.
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

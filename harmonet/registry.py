"""Names and what they stand for: a registry knows an entry as `package:name`, and by its name where that is enough."""

from copy import copy
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

import catalogue

from harmonet.entries import ConnectionEntry as ConnectionEntry
from harmonet.entries import Entry as Entry
from harmonet.entries import FusionEntry as FusionEntry
from harmonet.entries import LossEntry as LossEntry
from harmonet.entries import MethodEntry as MethodEntry
from harmonet.entries import MetricEntry as MetricEntry
from harmonet.entries import NetworkEntry as NetworkEntry
from harmonet.entries import Paper as Paper
from harmonet.entries import RepresentationEntry as RepresentationEntry
from harmonet.entries import WeightingEntry as WeightingEntry
from harmonet.errors import NotFoundError, RegistrationError, nearest

BUILT_IN = "harmonet"  # the package whose entries keep their short names, whoever else claims them

E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Entries of one kind, stored in a catalogue namespace, with the package that brought each.

    Each can be had as `package:name`. `name` alone stands for a built-in, else for the one entry of that name; where
    several packages have brought one, it stands for none of them.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        # By name what came first, by package:name what came later from another package.
        self._store: Any = catalogue.create("harmonet", kind, entry_points=False)
        self._providers: dict[str, str] = {}  # name to the package that came first
        self._later: list[str] = []  # packages that came later with any name

    def register(self, entry: E, provider: str) -> E:
        """Store the entry; the same entry twice is no harm, another of that name by the same package is refused."""
        self.refuse_taken(entry, provider)
        first = self._providers.setdefault(entry.name, provider) == provider
        self._store.register(entry.name if first else f"{provider}:{entry.name}", func=entry)
        if not first and provider not in self._later:
            self._later.append(provider)
        return entry

    def refuse_taken(self, entry: E, provider: str | None = None) -> None:
        """Raise if the package, or any where None, has another entry of that name."""
        for package, other in self._claims(entry.name).items():
            if provider in (package, None) and other != entry:
                raise RegistrationError(f"{self.kind} {entry.name!r} is taken by {package}: choose another name.")

    def get(self, name: str) -> E:
        """The entry of that name; of one that is asked for as `package:name`, that is then its name.

        Raises:
            NotFoundError: No entry has that name, or several have.
        """
        package, qualified, short = name.rpartition(":")
        if name not in self:
            known = [f"{p}:{n}" for n in self._short_names() for p in self._claims(n)] if qualified else self.names()
            raise NotFoundError(f"no {self.kind} {name!r}. {nearest(name, known)}")
        entry = self._claims(short)[package or self.provider(name)]
        if qualified:
            entry = copy(entry)
            object.__setattr__(entry, "name", name)  # not `replace`, which refuses what no card may call itself
        return entry

    def provider(self, name: str) -> str:
        """The package that brought the entry.

        Raises:
            NotFoundError: Several have brought an entry of that name, and none is built in.
        """
        package, _, short = name.rpartition(":")
        claims = self._claims(short)
        first = next(iter(claims))
        if package or first == BUILT_IN:
            return package or first
        if any(entry != claims[first] for entry in claims.values()):
            words = " or ".join(f"{claimant}:{short}" for claimant in claims)
            raise NotFoundError(f"{self.kind} {short!r} is brought by {' and '.join(claims)}: write {words}.")
        return first

    def __contains__(self, name: str) -> bool:
        """Whether an entry has that name, or several have."""
        package, qualified, short = name.rpartition(":")
        claims = self._claims(short)
        return package in claims if qualified else bool(claims)

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match the wildcard pattern, sorted: short ones, and `package:name` where short says too little."""
        return sorted(
            name
            for short in self._short_names()
            for name in self._listed(short)
            if fnmatchcase(name, pattern) or fnmatchcase(short, pattern)
        )

    def _listed(self, short: str) -> list[str]:
        """By which names the entries of one short name are listed."""
        claims = self._claims(short)
        try:
            meant = [claims[self.provider(short)]]
        except NotFoundError:
            meant = []
        return [short] * len(meant) + [f"{package}:{short}" for package in claims if claims[package] not in meant]

    def _short_names(self) -> set[str]:
        return {key.rpartition(":")[2] for key in self._store.get_all()}

    def _claims(self, short: str) -> dict[str, E]:
        """Package to its entry of that name, the one that came first before the others."""
        first = self._providers.get(short, "")
        keys = {first: short} | {package: f"{package}:{short}" for package in self._later if package != first}
        return {package: self._store.get(key) for package, key in keys.items() if key in self._store}


NETWORKS: Registry[NetworkEntry] = Registry("network")
FUSIONS: Registry[FusionEntry] = Registry("fusion")
REPRESENTATIONS: Registry[RepresentationEntry] = Registry("representation")
CONNECTIONS: Registry[ConnectionEntry] = Registry("connection")
LOSSES: Registry[LossEntry] = Registry("loss")
WEIGHTINGS: Registry[WeightingEntry] = Registry("weighting")
METRICS: Registry[MetricEntry] = Registry("metric")
METHODS: Registry[MethodEntry] = Registry("method")

"""The questions that harmonet asks a plugin. A plugin answers with lists and does nothing when imported.

A package offers its answers in the entry-point group `harmonet`:

    [project.entry-points.harmonet]
    my_package = "my_package"

    harmonet_api = 1  # the API that it was written for, see `API`

    @harmonet.hookimpl
    def harmonet_networks():
        return [harmonet.NetworkEntry(name="odd", build="my_package.odd:Odd", summary="...")]
"""

import pluggy

from harmonet.registry import (
    ConnectionEntry,
    FusionEntry,
    LossEntry,
    MethodEntry,
    MetricEntry,
    NetworkEntry,
    RepresentationEntry,
    WeightingEntry,
)

GROUP = "harmonet"
API = 1  # one more when an answer that was right becomes wrong; this one and the one before it are taken
FIRST_API = 1  # of a plugin that does not say which it was written for

hookspec = pluggy.HookspecMarker("harmonet")
hookimpl = pluggy.HookimplMarker("harmonet")


@hookspec
def harmonet_networks() -> list[NetworkEntry]:  # type: ignore[empty-body]
    """Single networks to register."""


@hookspec
def harmonet_fusions() -> list[FusionEntry]:  # type: ignore[empty-body]
    """Fusions to register."""


@hookspec
def harmonet_representations() -> list[RepresentationEntry]:  # type: ignore[empty-body]
    """Representations to register."""


@hookspec
def harmonet_connections() -> list[ConnectionEntry]:  # type: ignore[empty-body]
    """Connection networks to register."""


@hookspec
def harmonet_losses() -> list[LossEntry]:  # type: ignore[empty-body]
    """Losses to register."""


@hookspec
def harmonet_weightings() -> list[WeightingEntry]:  # type: ignore[empty-body]
    """Weightings of loss terms to register."""


@hookspec
def harmonet_metrics() -> list[MetricEntry]:  # type: ignore[empty-body]
    """Metrics to register."""


@hookspec
def harmonet_methods() -> list[MethodEntry]:  # type: ignore[empty-body]
    """Methods that are no networks, to register."""

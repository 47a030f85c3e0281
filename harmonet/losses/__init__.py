"""Losses and weightings of their terms, one per file, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import LossEntry, WeightingEntry


@hookimpl
def harmonet_losses() -> list[LossEntry]:
    """The cards of the built-in losses."""
    return []


@hookimpl
def harmonet_weightings() -> list[WeightingEntry]:
    """The cards of the built-in weightings."""
    return []

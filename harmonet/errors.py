"""The family of errors. Each message is a sentence or two: what was asked, what was found, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class HarmonetError(Exception):
    """What was asked cannot be done as asked; the command line ends with `exit_status`."""

    exit_status = 2


class DataError(HarmonetError):
    """A file, table or image of the user's is damaged, inconsistent or not where it was said to be."""


class NotFoundError(HarmonetError, LookupError):
    """A name (network, fusion, platform, layer, subject) is not known here."""


class ShapeError(HarmonetError, ValueError):
    """Sizes or channels do not fit together."""


class RegistrationError(HarmonetError, ValueError):
    """An entry cannot be registered: its name is taken or its card is incomplete."""


class RecipeError(HarmonetError, ValueError):
    """A recipe has an unknown key, a wrong type or a contradiction."""


class OutputError(HarmonetError):
    """The place for the output exists already or cannot be written."""


class RunError(HarmonetError):
    """A run or check failed on its own account, with good input."""

    exit_status = 1


class PluginWarning(UserWarning):
    """A plugin, or a part of it, was left out, or is called otherwise; everything else works."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that helps with a mistyped name.

    >>> nearest("shresnett", ["diqt", "shresnet"])
    'Did you mean shresnet? Known: diqt, shresnet.'
    >>> nearest("zebra", ["diqt", "shresnet"])
    'Known: diqt, shresnet.'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    listing = f"Known: {', '.join(names)}." if names else "None are known."
    return f"Did you mean {close[0]}? {listing}" if close else listing

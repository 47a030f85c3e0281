"""What the layouts share: looking into folders and into JSON files, and checking names found there."""

import errno
import json
import os
from pathlib import Path
from typing import NamedTuple

from harmonet.errors import DataError
from harmonet.files import check_readable
from harmonet.platforms import check_name

MAX_JSON = 16 << 20  # bytes: some converters put whole DICOM headers into a sidecar, none more than this


class Listing(NamedTuple):
    """What a folder holds, sorted by name; links count as what they lead to."""

    folders: list[Path]
    files: list[Path]


def listing(folder: Path) -> Listing:
    """Folders and files in a folder, without hidden ones; empty where there is no such folder.

    A link without content is a file: its reader will say `datalad get`.

    Raises:
        DataError: The folder cannot be read, or a link in it leads back to itself.
    """
    found = Listing([], [])
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.name.startswith("."):
                    (found.folders if entry.is_dir() else found.files).append(folder / entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return Listing([], [])
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{error.filename} is a link that leads back to itself: remove it.") from error
        raise DataError(f"{folder} cannot be listed ({error.strerror}): check its permissions.") from error
    return found


def names(subject: str, platform: str, where: str) -> tuple[str, str]:
    """Subject as it is and platform in lower case, if both are fit to name folders.

    Raises:
        DataError: One is not; `where` it stands is said.
    """
    try:
        return check_name(subject, "subject"), check_name(platform.lower(), "platform")
    except DataError as error:
        raise DataError(f"{where} cannot be used: {error}") from None


def json_object(path: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    check_readable(path)
    with path.open("rb") as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise DataError(f"{path} has more than {MAX_JSON >> 20} MB, too much for facts about data: check what it is.")
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): mend or remove it.") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path} should hold a JSON object, found {type(facts).__name__}: mend or remove it.")
    return facts

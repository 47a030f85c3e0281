"""history.jsonl: one line per validation, written as it happens."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harmonet.errors import OutputError
from harmonet.files import write_whole

Line = Mapping[str, Any]
Tracker = Callable[[Line], None]


class History:
    """The file, and whatever else follows the training.

    Args:
        path: Of the file.
        trackers: Told each new line.
    """

    def __init__(self, path: Path, trackers: Iterable[Tracker] = ()) -> None:
        self.path, self._trackers = path, list(trackers)

    def begin(self, lines: Iterable[Line]) -> None:
        """Begin with these lines: of a resumed training those up to its checkpoint; later ones are dropped."""
        write_whole(self.path, "".join(map(_text, lines)).encode())

    def add(self, line: Line) -> None:
        """Append a line."""
        try:
            with self.path.open("a") as file:
                file.write(_text(line))
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error.strerror}): free space there.") from error
        for tracker in self._trackers:
            tracker(line)


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"

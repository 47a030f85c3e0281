"""The tutorials, and how-tos that say so: their Python runs, from top to bottom, as a reader would run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
RUN = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "how-to" / "strangers.md"]


def script_of(text):
    """The blocks of Python in a document, other lines left empty, so that a traceback names the document's line."""
    lines, inside = [], False
    for line in text.splitlines():
        fence = re.match(r"```(\w*)", line)
        lines.append(line if inside and not fence else "")
        if fence:
            inside = not inside and fence[1] == "python"
    return "\n".join(lines) + "\n"


def test_there_is_a_tutorial():
    assert "own-fusion.md" in [path.name for path in RUN]


@pytest.mark.parametrize("page", RUN, ids=lambda path: path.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text(script_of(page.read_text(encoding="utf-8")), encoding="utf-8")
    assert "import harmonet" in script.read_text(encoding="utf-8")
    command = [sys.executable, "-W", "error", script.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{page.name}: {done.stderr}"


def test_only_blocks_of_python_are_taken_and_keep_their_lines():
    text = "words\n```sh\nls\n```\n```python\na = 1\n```\n```\nplain\n```\n```python\nb = 2\n```\n"
    lines = script_of(text).splitlines()
    assert {number: line for number, line in enumerate(lines, 1) if line} == {6: "a = 1", 12: "b = 2"}

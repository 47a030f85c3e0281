"""The code in the documents: every block of Python and of commands runs, or says why not.

A page runs from top to bottom, as its reader would run it, in a folder of its own: a tutorial in an empty one, another
page where `heads`, `recipe.toml`, `runs/msp` and the files of one acquisition (`dwi.nii.gz` ...) are small simulated
ones. A block of Python that begins with the comment `# NAME.py` is that file. A line `<!-- not run: reason -->` before
a block leaves it out, `<!-- run with: A -> B; C -> D -->` runs it with B for A and D for C, which is smaller. Commands
of harmonet are held against the verbs and their options even where they are not run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = ("harmonet ", "pip ", "make ", "torchrun ")
SHOWN = ("", "python", "sh", "toml", "pycon", "{toctree}")  # pycon: doctests, which run where they stand in the code
MARK = re.compile(r"<!-- (not run|run with): (.+) -->")

# Blocks of pages that others read first: page, beginning of the block, reason.
NOT_RUN = (
    ("README.md", "make demo", "installs; tests/test_house.py finds both in the Makefile"),
    ("README.md", "harmonet data check heads", "trains for hours; tutorials/ten-minutes.md runs these verbs"),
    ("README.md", "import harmonet as hn", "needs a patch x; tests/test_composer.py builds this model"),
    ("docs/tutorials/first-plugin.md", "", "is the package's own files, which plugins/harmonet-example tests"),
    ("docs/how-to/write-a-plugin.md", "harmonet plugin new", "installs; tests/test_plugin_new.py does the same"),
    ("docs/how-to/write-a-plugin.md", "harmonet compose", "trains for hours; tests/test_plugin_files.py does so small"),
    ("docs/how-to/write-a-plugin.md", "def build", "is a signature, not code"),
    ("docs/how-to/write-a-plugin.md", "class Mine", "is an outline, not code"),
    ("docs/reference/methods.md", "harmonet list methods", "tests/test_methods.py runs these verbs"),
    ("docs/results/", "", "is how the numbers were made, on data that are not here"),
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of its first line of code
    language: str
    text: str
    mark: str = ""
    says: str = ""

    @property
    def runs(self):
        """Whether it is code that a reader would run: what has no language is, where it begins with a command."""
        return self.language in ("python", "sh") or (not self.language and self.text.startswith(COMMANDS))

    @property
    def reason(self):
        """Why it is not run; "" where it is."""
        if self.mark == "not run":
            return self.says
        place = self.page.relative_to(ROOT).as_posix()
        return next((why for page, text, why in NOT_RUN if place.startswith(page) and self.text.startswith(text)), "")

    @property
    def file(self):
        """Name of the file that it is."""
        name = re.match(r"# (\w+\.py)\n", self.text)
        return name[1] if name and self.language == "python" else None

    def code(self):
        """What is run: the text, smaller where the page says how."""
        text = self.text
        if self.mark == "run with":
            for change in self.says.split("; "):
                large, small = change.split(" -> ")
                assert large in text, f"{self}: has no {large!r} to run with {small!r}"
                text = text.replace(large, small)
        return text

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page, text):
    """The fenced blocks of a page."""
    found, before, inside = [], "", None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is None and line.startswith("```"):
            mark = MARK.fullmatch(before)
            inside = Block(page, number + 1, line[3:].strip(), "", *(mark.groups() if mark else ()))
            body = []
        elif inside is not None and line == "```":
            found.append(Block(page, inside.line, inside.language, "\n".join(body) + "\n", inside.mark, inside.says))
            inside = None
        elif inside is not None:
            body.append(line)
        before = line
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page, page.read_text(encoding="utf-8")) if block.runs]
RUN = [page for page in PAGES if any(block.page == page and not block.reason for block in BLOCKS)]

COMMAND = """
def _commands(code):
    import shlex, subprocess
    from harmonet.cli import app
    lines = [shlex.split(line, comments=True) for line in code.replace(chr(92) + chr(10), " ").splitlines()]
    lines = [words for words in lines if words]
    alone = all(words[0] == "harmonet" and "--plugin" not in words for words in lines) and not set("|&;><$") & set(code)
    if alone:  # without the seconds that another process takes to begin
        for words in lines:
            assert not app(words[1:], standalone_mode=False), words
    else:
        subprocess.run(["bash", "-euc", code], check=True)
"""


def script_of(blocks):
    """A page as one script, each block at the line where the page has it, so that a traceback names that."""
    lines = []
    for block in blocks:
        code = block.code()
        if block.file:
            code = f"_ = open({block.file!r}, 'w').write({code!r})\n"
        elif block.language != "python":
            code = f"_commands({code!r})\n"
        lines += [""] * (block.line - 1 - len(lines)) + code.splitlines()
    return "\n".join(lines) + "\n"


def test_the_tutorials_are_run():
    assert {"own-fusion.md", "ten-minutes.md", "strangers.md"} <= {page.name for page in RUN}


@pytest.fixture
def place(tmp_path, tiny_heads, tiny_run, tiny_recipe):
    """A folder with what the pages speak of, small."""
    from harmonet.recipe import to_toml

    shutil.copytree(tiny_heads, tmp_path / "heads", copy_function=os.link)
    shutil.copytree(tiny_run, tmp_path / "runs" / "msp")
    (tmp_path / "recipe.toml").write_text(to_toml(tiny_recipe), encoding="utf-8")
    for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz"):
        shutil.copy(tmp_path / "heads" / "sim01" / "ge" / "st" / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page, request):
    script = script_of([block for block in BLOCKS if block.page == page and not block.reason])
    full = page.parent.name != "tutorials" and re.search(r"heads|recipe\.toml|runs/|dwi\.", script)
    begun = request.getfixturevalue("place" if full else "tmp_path")
    (begun / "_page.py").write_text(script, encoding="utf-8")
    start = f"{COMMAND}\nexec(compile(open('_page.py').read(), {page.name!r}, 'exec'))"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-W", "error", "-c", start]
    done = subprocess.run(command, cwd=begun, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{page.name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


def test_a_block_that_is_not_run_says_why_in_words():
    assert [str(block) for block in BLOCKS if block.reason and len(block.reason.split()) < 3] == []


def test_code_cannot_hide_in_a_block_that_nobody_runs():
    """Another word for Python or a shell, or an indented block, would be passed over."""
    fences = [(page.name, word) for page in PAGES for word in re.findall(r"^```(.*)$", page.read_text("utf-8"), re.M)]
    assert sorted({found for found in fences if found[1] not in SHOWN}) == []
    indented = re.compile(r"^    (?:harmonet|pip|make) (?!.*\[OPTIONS\]$).*$", re.MULTILINE)
    assert [line for page in PAGES for line in indented.findall(page.read_text(encoding="utf-8"))] == []


def test_every_reason_is_that_of_a_block():
    for place, text, _ in NOT_RUN:
        pages = [b for b in BLOCKS if b.page.relative_to(ROOT).as_posix().startswith(place)]
        assert any(block.text.startswith(text) for block in pages), (place, text)


def commands_in(block):
    """The commands of harmonet in a block, as words."""
    joined = block.text.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines() if re.search(r"(^|-m )harmonet ", line)]
    return [words[words.index("harmonet") + 1 :] for words in lines if "harmonet" in words]


def options_of(words):
    """The options that the verb at the beginning of the words has; none for a verb that there is not."""
    from typer.main import get_command

    from harmonet.cli import app

    command = get_command(app)
    known = {name for option in command.params for name in option.opts}
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
        assert command is not None, f"there is no verb {word}"
    return known | {name for option in command.params for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language != "python"], ids=str)
def test_commands_name_verbs_and_options_that_there_are(block):
    for words in commands_in(block):
        asked = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert asked <= options_of(words), words


def test_blocks_keep_their_lines_and_their_marks():
    text = (
        "words\n```python\na = 1\n```\n<!-- not run: needs a cluster -->\n```sh\nsrun\n```\n```\nharmonet demo\n```\n"
    )
    found = blocks_of(DOCS / "index.md", text)
    assert [(b.line, b.language, b.reason, b.runs) for b in found] == [
        (3, "python", "", True),
        (7, "sh", "needs a cluster", True),
        (10, "", "", True),
    ]
    assert script_of([found[0], found[2]]).splitlines() == [
        *["", "", "a = 1"],
        *[""] * 6,
        "_commands('harmonet demo\\n')",
    ]


def test_a_file_of_a_page_is_written_and_a_command_is_made_smaller():
    text = "```python\n# mine.py\na = 1\n```\n<!-- run with: 50 -> 2 -->\n```sh\nharmonet demo --epochs 50\n```\n"
    file, command = blocks_of(DOCS / "index.md", text)
    assert file.file == "mine.py"
    assert command.code() == "harmonet demo --epochs 2\n"

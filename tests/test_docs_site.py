"""The site of the documents: pages have their place, links lead somewhere, what is written from the code is current."""

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ORDER = ["Tutorials", "How to", "Reference", "Explanation", "Decisions", "Results"]
TOOLS = ("sphinx", "furo", "myst_parser")


def read(path):
    return path.read_text(encoding="utf-8")


def prose(text):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def toctrees(text):
    """Caption to the entries of each table of contents."""
    found = {}
    for body in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        caption = re.search(r":caption: (.+)", body)
        found[caption[1]] = [line for line in body.splitlines() if line and not line.startswith(":")]
    return found


def anchors(text):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def links(text):
    """The places that a page's links and pictures name, without those on the web."""
    places = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    return [place for place in places if "://" not in place and not place.startswith("mailto:")]


def broken(path, text):
    """The links of a page that lead nowhere."""
    found = []
    for link in links(text):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        leads = target.exists() and not place.startswith("/")
        if leads and anchor and target.suffix == ".md":
            leads = anchor in anchors(read(target) if place else text)
        if not leads:
            found.append(link)
    return found


def test_the_index_has_its_parts_in_order():
    assert list(toctrees(read(DOCS / "index.md"))) == ORDER


def test_every_page_stands_in_one_table_of_contents():
    named = []
    for entries in toctrees(read(DOCS / "index.md")).values():
        for entry in entries:
            named += sorted(DOCS.glob(f"{entry}.md"))
            assert list(DOCS.glob(f"{entry}.md")), f"{entry} is no page"
    assert sorted(named) == [page for page in PAGES if page != DOCS / "index.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_has_one_title_and_links_that_lead_somewhere(page):
    text = read(page)
    titles = re.findall(r"^# .+$", prose(text), re.MULTILINE)
    assert len(titles) == 1
    assert text.startswith(titles[0])
    assert broken(page, text) == []


def test_links_that_lead_nowhere_are_found():
    page = DOCS / "index.md"
    text = "# A b\n[a](#a-b) [b](#c) [c](no.md) [d](architecture.md) [e](reference/data.md#bids) [f](/etc) `[g](h)`\n"
    assert broken(page, text) == ["#c", "no.md", "/etc"]


@pytest.mark.parametrize("name", ["cli", "recipe", "python"])
def test_a_page_that_is_written_from_the_code_is_current(name):
    pages = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]
    message = "refresh it: python docs/generate.py"
    assert read(DOCS / "reference" / f"{name}.md") == pages[f"reference/{name}.md"](), message


def test_every_key_of_a_recipe_has_a_meaning_on_its_page():
    from harmonet.recipe import Recipe
    from harmonet.tables import ModelTable, TrainingTable

    text = read(DOCS / "reference" / "recipe.md")
    for table in (Recipe, ModelTable, TrainingTable):
        for key in table.model_fields:
            assert re.search(rf"^\| `{key}` \| .+ \| .+ \| .{{5,}} \|$|^## `\[+{key}\]+`$", text, re.MULTILINE), key


def test_every_public_name_is_on_the_page_on_python():
    import harmonet

    assert re.findall(r"^## `(\w+)`$", read(DOCS / "reference" / "python.md"), re.MULTILINE) == harmonet.__all__


@pytest.mark.skipif(not all(map(find_spec, TOOLS)), reason="sphinx is not installed: pip install -e '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "site" / "tutorials" / "ten-minutes.html").is_file()

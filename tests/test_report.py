import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from reports import BETTER, TARGETS, WORSE, evaluation, maps, trained

from harmonet import sh
from harmonet.errors import OutputError, RunError
from harmonet.evaluation import Evaluation
from harmonet.evaluation.forms import Cell, Table
from harmonet.report import Section, write_report
from harmonet.report.images import tensor_directions, views
from harmonet.report.maps import comparison
from harmonet.report.parts import Part, section
from harmonet.report.verdict import limits, verdicts
from harmonet.report.viewer import viewer_data

EVIL = "<script>alert(1)</script>"
MANY = tuple(f"s{number:02d}" for number in range(8))
FURTHER = Section(
    "Further & more", (EVIL,), (Table("t", "made up", 1, ["a", "b"], [[Cell("x"), Cell("1", True)]], ["n"]),)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "report"
    shown = [maps(TARGETS[0]), maps(TARGETS[1], truth=False)]
    scored = evaluation(platforms=TARGETS, label=EVIL, maps=shown, notes=["odd & <i>new</i>"])
    written = write_report(scored, [run], out, command="harmonet eval 'a b' --out <x>", extra=[FURTHER])
    assert written == out / "report.html"
    return written


@pytest.fixture(scope="module")
def sweep(run, tmp_path_factory):
    """A report on two series of many runs each, several subjects, leaky, where an older report was."""
    folder = tmp_path_factory.mktemp("sweep")
    runs, prefixes = [], {}
    for name in ("one", "two"):
        for number in range(60):
            place = folder / name / f"seed-{number}"
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(run.folder)
            runs.append(replace(run, folder=place, recipe=run.recipe.model_copy(update={"seed": number})))
            prefixes[place] = f"{name}: "
    errors = {
        f"{name}: {m}" if m in ("diqt", *BETTER) and "," in m + "," * (m == "diqt") else m: e
        for m, e in BETTER.items()
        for name in ("one", "two")
    }
    kinds = {m: "stage" if ", stage" in m else "single" if "diqt" in m else "baseline" for m in errors}
    out = folder / "report"
    (out / "figures").mkdir(parents=True)
    (out / "scores.json").write_text("{}")
    (out / "figures" / "stale.png").write_bytes(b"old")
    scored = evaluation(errors, subjects=MANY, leaky=True, prefixes=prefixes)
    scored = replace(scored, kinds=kinds | {"the target itself": "floor"})
    return write_report(scored, runs, out)


class Outline(HTMLParser):
    """What a page is made of: its tags with their attributes, in order."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, *names):
        return [found for found in self.tags if found[0] in names]


def judged(run, errors, **changes):
    scored = evaluation(errors, **changes)
    return list(verdicts(scored, scored.as_json()["statistics"], run))


def test_the_page_needs_nothing_but_itself(page):
    html = page.read_text()
    outline = Outline(html)
    pictures = [attributes for _, attributes in outline.all("img")]
    assert len(pictures) == 3 + 1 + 2 + 2  # charts, platforms, each platform, curves
    assert all(one["src"].startswith("data:image/png;base64,iVBOR") and one["alt"] for one in pictures)
    assert not re.search(r"\bsrc=\"(?!data:)|url\(|@import|https?://", html)
    assert len(outline.all("script")) == 2  # the viewer's data and the viewer
    links = [attributes["href"] for _, attributes in outline.all("a", "link")]
    named = {attributes["id"] for _, attributes in outline.tags if "id" in attributes}
    for link in links:
        assert link == "data:," or link.removeprefix("#") in named or (page.parent / link).is_file(), link
    assert "tables/sh_mse_truth_differences.tex" in links


def test_sections_come_verdict_first_and_headings_leave_no_level_out(page):
    outline = Outline(page.read_text())
    sections = [attributes["id"] for _, attributes in outline.all("section")]
    assert sections == ["verdict", "scores", "extra-1", "figures", "viewer", "provenance"]
    levels = [int(tag[1]) for tag, _ in outline.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert outline.tags[0] == ("html", {"lang": "en-GB"})
    assert len(outline.all("table")) == len(outline.all("caption"))
    assert all(attributes.get("scope") in ("col", "row") for _, attributes in outline.all("th"))


def test_what_strangers_wrote_is_escaped(page):
    html = page.read_text()
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2  # label and further section
    for text in ("<b>quick</b>", "<i>new</i>", "--out <x>"):
        assert text not in html
    assert "tiny &amp; &lt;b&gt;quick&lt;/b&gt;" in html
    assert "harmonet eval &#39;a b&#39; --out &lt;x&gt;" in html


def test_the_report_has_page_scores_table_and_figures(page):
    names = {path.name for path in (page.parent / "figures").iterdir()}
    assert names == {"errors.png", "by_order.png", "paired.png", "platforms.png", *(f"{t}.png" for t in TARGETS)}
    scores = json.loads((page.parent / "scores.json").read_text())["scores"]
    with (page.parent / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sh_mse"]) for row in rows] == [score["values"]["sh_mse"] for score in scores]
    assert float(rows[0]["sh_mse l = 6"]) == scores[0]["values"]["sh_mse l = 6"]
    tables = {path.name for path in (page.parent / "tables").iterdir()}
    assert {"sh_mse.md", "sh_mse.tex", "sh_mse.csv", "sh_mse_truth_differences.md"} <= tables
    assert not list(page.parent.parent.glob(".*"))  # nothing is left aside


@pytest.mark.parametrize(
    "text", ["diqt 0.1235", "anna", "joint_epochs = 50", "1 (carl)", "1 (one split)", "3, listed below the verdict"]
)
def test_the_page_says_what_was_scored_and_where_it_came_from(page, text):
    assert text in page.read_text()


def test_the_weights_digest_is_on_the_page(page, run):
    assert run.facts["artefacts"]["weights.safetensors"] in page.read_text()


def test_the_verdict_says_worse_when_the_answer_is_worse(run):
    for verdict in judged(run, WORSE, platforms=TARGETS):
        assert (verdict.tone, verdict.symbol, verdict.word) == ("bad", "✘", "worse")
        assert "msp, stage 1 has an error of 5.000: 66.7 % higher than the best single network (diqt)" in verdict.text
        assert "2.5 times that of interpolation, 2.000; lower for 0 of 1; one subject, so no test" in verdict.details


def test_one_subject_proves_no_gain(run):
    (verdict,) = judged(run, BETTER)
    assert (verdict.tone, verdict.word) == ("hint", "lower, not proven")
    assert "60.0 % lower than its own first stage (msp, stage 0)" in verdict.text


@pytest.mark.parametrize(("count", "tone"), [(5, "hint"), (8, "good")])
def test_a_gain_for_every_subject_is_proven_where_they_are_enough(run, count, tone):
    (verdict,) = judged(run, BETTER, subjects=MANY[:count])
    assert verdict.tone == tone
    assert f"lower for {count} of {count}" in verdict.details[0]
    assert f"p = {0.5 ** (count - 1):.3g}, after Holm" in verdict.details[0]


def test_a_mixed_gain_is_no_difference_shown(run):
    scored = evaluation(BETTER | {"msp, stage 1": 0.002, "diqt": 0.002, "msp, stage 0": 0.003}, subjects=MANY)
    flips = {subject: 0.8 if number % 2 else 1.25 for number, subject in enumerate(MANY)}
    changed = [
        replace(s, values={**s.values, "sh_mse": s.sh_mse * flips[s.subject]}) if s.method == "msp, stage 1" else s
        for s in scored.scores
    ]
    mixed = replace(scored, scores=changed)
    (verdict,) = verdicts(mixed, mixed.as_json()["statistics"], run)
    assert (verdict.tone, verdict.symbol) == ("even", "=")


def test_an_answer_below_the_best_linear_baseline_is_worse_though_it_beats_every_network(run):
    scored = evaluation(BETTER | {"linear": 0.0005}, subjects=MANY)
    scored = replace(scored, kinds=dict(scored.kinds) | {"linear": "baseline"})
    (verdict,) = verdicts(scored, scored.as_json()["statistics"], run)
    assert verdict.tone == "bad"
    assert "than the best single network (diqt)" in verdict.text  # what everybody asks first
    assert "100.0 % higher [95 %: 100.0 to 100.0] than the best linear baseline (linear)" in verdict.text


def test_what_subjects_and_tests_leave_possible_is_said():
    few, many = (evaluation(BETTER, subjects=MANY[:n]) for n in (5, 8))
    assert "no p can be below 0.125: with 5 subjects" in limits(few.as_json()["statistics"], "truth")
    assert limits(many.as_json()["statistics"], "truth") == ""


def test_a_run_without_a_fusion_is_judged_by_the_network_that_it_chose(tmp_path):
    alone = trained(tmp_path / "alone", fusion=None)
    (verdict,) = judged(alone, {"interpolation": 0.002, "diqt": 0.003, "shresnet": 0.001})
    assert "diqt has an error of 3.000: 3.0 times that of the best single network (shresnet)" in verdict.text


def test_the_lowest_error_is_bold_but_never_that_of_the_noise(page):
    rows = re.findall(r'<tr class="(\w+)"><th scope="row">(.*?)</th>(.*?)</tr>', page.read_text())
    bold = {method: cells.count("best") for _, method, cells in rows}
    assert bold == {**dict.fromkeys(WORSE, 0), "interpolation": 4, "the target itself": 0}
    assert {method for kind, method, _ in rows if kind == "answer"} == {"msp, stage 1"}


def test_leaky_scores_are_marked_and_others_are_not(page, sweep):
    assert "LEAKY" in sweep.read_text()
    assert "YES, leaky" in sweep.read_text()
    assert "LEAKY" not in page.read_text()


def test_several_subjects_are_shown_with_spread_and_worst_subject(sweep):
    html = sweep.read_text()
    assert "5.500 ± 2.449<small>s07 9.000</small>" in html  # interpolation against truth: 2 to 9
    assert "8 (s00, s01, s02, s03, s04, s05, s06, s07)" in html
    assert "gain % [95 %]" in html


def test_many_runs_are_grouped_by_series_and_the_page_stays_small(sweep):
    html = sweep.read_text()
    assert "120 of 2 series" in html
    assert "<summary>60 runs: choices, splits, digests</summary>" in html
    assert len(Outline(html).all("img")) == 3 + 1 + 1 + 2  # the curves of the first run of each series
    assert "out of 120 runs in all" in html
    assert html.count("<svg") == 2
    assert len(html) < 3_000_000


def test_an_earlier_report_is_replaced_as_a_whole(sweep):
    assert not (sweep.parent / "figures" / "stale.png").exists()
    assert {path.name for path in sweep.parent.parent.iterdir()} == {"report", "one", "two"}


def test_what_cannot_be_read_or_drawn_is_said_in_red_and_by_the_error(run, tmp_path):
    moved = tmp_path / "moved"
    single = moved / "singles" / "prisma_st.diqt" / "curves.png"
    single.parent.mkdir(parents=True)
    single.write_bytes(b"no picture")
    empty = replace(maps(), mask=np.zeros((9, 10, 8), dtype=bool))
    out = tmp_path / "report"
    with pytest.raises(RunError, match="is written but incomplete") as raised:
        write_report(evaluation(maps=[empty]), [replace(run, folder=moved)], out)
    assert raised.value.exit_status == 1
    html = (out / "report.html").read_text()
    red = " ".join(re.findall(r'<p class="problem">(.*?)</p>', html))
    for text in (
        "moved: training: ",  # missing
        "moved: prisma_st.diqt alone: ",  # damaged
        "prisma_st: its images cannot be made (ValueError: the mask of prisma_st of carl is empty)",
        "Slice viewer could not be made",
        "recipe.toml cannot be read",
    ):
        assert text in red
    assert "This page is incomplete, 5 parts could not be made" in html
    assert (out / "scores.json").is_file()
    assert "Error per method: the mean" in html  # the rest is there


class Broken(Evaluation):
    """An evaluation whose statistics cannot be made."""

    def as_json(self):
        raise ZeroDivisionError("no statistics")


def test_a_section_that_needs_lost_statistics_says_so_and_the_others_stand(run, tmp_path):
    whole = evaluation()
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__ if name != "_made"}
    with pytest.raises(RunError, match=r"scores\.json could not be made \(ZeroDivisionError: no statistics\)"):
        write_report(Broken(**fields), [run], tmp_path / "report")
    html = (tmp_path / "report" / "report.html").read_text()
    for title in ("Verdict", "Figures"):
        assert f'<p class="problem">{title} could not be made (RunError: there are no comparisons' in html
    assert '<script type="application/json" id="viewer-data">' in html
    assert "joint_epochs = 50" in html


def test_a_template_that_fails_is_a_section_in_red():
    made = section("viewer", "Slice viewer", lambda: Part({}))
    assert made.problems[0].startswith("Slice viewer could not be made (UndefinedError")
    assert 'class="problem"' in made.html


def test_a_score_that_is_not_a_number_is_said_and_leaves_valid_json(run, tmp_path):
    blank = maps(prediction=np.full((9, 10, 8, 28), np.nan))
    with pytest.raises(RunError, match="msp, stage 1 on prisma_st of carl against target is not a number"):
        write_report(evaluation(WORSE | {"msp, stage 1": math.nan}, maps=[blank]), [run], tmp_path / "report")
    text = (tmp_path / "report" / "scores.json").read_text()
    scores = json.loads(text, parse_constant=pytest.fail)["scores"]
    assert [s["values"]["sh_mse"] for s in scores if s["method"] == "msp, stage 1"] == [None, None]
    assert "the error of msp, stage 1 is not a number" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(("budget", "step"), [(10**6, 1), (20_000, 2)])
def test_the_viewer_leaves_out_axial_slices_before_the_page_grows_too_large(budget, step):
    seen = views(maps())
    whole = viewer_data([seen])
    size = sum(len(v) for q in whole["platforms"][0]["quantities"].values() for v in q["volumes"].values())
    (found,) = viewer_data([seen], budget if step == 1 else -(-size // step))["platforms"]
    assert found["step"] == step
    assert found["shape"] == [9, 10, 8 // step]
    assert found["first"] + step * found["middle"] == seen.middle  # the slice that the figures show


@pytest.mark.parametrize("names", [("notes.txt",), ("notes.txt", "scores.json"), ("report.html",)])
def test_a_folder_that_is_no_report_is_refused_and_left_as_it_is(run, tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="no report of harmonet"):
        write_report(evaluation(), [run], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_place_that_cannot_be_written_is_an_output_error(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"report cannot be written"):
        write_report(evaluation(), [run], tmp_path / "file" / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_dollar_signs_in_a_label_are_no_mathematics(tmp_path):
    assert comparison(views(maps()), tmp_path / "a.png", label=r"costs $\frac{$").stat().st_size > 10_000


@pytest.mark.parametrize("fibre", [(1, 1, 0), (1, -1, 0), (0, 1, 2), (-1, 2, 3)])
def test_a_fibre_has_its_own_direction_and_not_that_of_its_mirror_image(fibre):
    axis = np.asarray(fibre) / np.linalg.norm(fibre)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    signal = np.exp(-(0.4 + 1.2 * (directions @ axis) ** 2))  # b times eigenvalues: 1.6, 0.4, 0.4
    (direction,), (anisotropy,) = tensor_directions((sh.fit_matrix(directions, 6, 0.0) @ signal)[None])
    assert abs(direction @ axis) > 0.9999
    assert anisotropy == pytest.approx(np.sqrt(0.5) * np.sqrt(2) * 1.2 / np.sqrt(1.6**2 + 2 * 0.4**2), abs=0.005)

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harmonet import sh
from harmonet.build import model_for, recipe_of
from harmonet.data.gradients import Gradients
from harmonet.data.splits import Split
from harmonet.data.standardise import Standardisation
from harmonet.errors import OutputError, RunError
from harmonet.evaluation import Evaluation, Maps, Score
from harmonet.platforms import Platform, Task
from harmonet.report import write_report
from harmonet.report.figures import picture
from harmonet.report.slices import tensor_directions
from harmonet.runs import Trained, load
from harmonet.runs.curves import draw_curves
from harmonet.runs.folder import write_run

EVIL = "<script>alert(1)</script>"
TARGETS = ("prisma_st", "connectom_st")
# Errors against the truth; against the target they are higher by the noise.
WORSE = {"identity": 0.004, "interpolation": 0.002, "diqt": 0.003, "msp, stage 0": 0.0025, "msp, stage 1": 0.005}
KINDS = {"identity": "baseline", "interpolation": "baseline", "the target itself": "floor"}
BETTER = WORSE | {"msp, stage 1": 0.001}


def recipe(fusion):
    voxel = (2.4, 2.4, 2.4)
    task = Task(Platform("ge_st", voxel, (1200.0,), 30), tuple(Platform(t, voxel, (1200.0,), 30) for t in TARGETS))
    options = {"diqt": {"layers": 1, "widths": [4, 4]}}
    return recipe_of(
        task, {name: ["diqt"] for name in TARGETS}, fusion=fusion, options=options, note="tiny & <b>quick</b>"
    )


def trained(folder: Path, fusion: str | None = "msp") -> Trained:
    plan, networks = recipe(fusion), dict.fromkeys(TARGETS, "diqt")
    statistics = Standardisation(np.zeros(28), np.ones(28))
    errors = {f"0/{name}": 1.0 for name in TARGETS}
    line = {"epoch": 1, "phase": "msp", "alpha": 0.5, "learning_rate": 1e-4, "validation": errors}
    write_run(
        folder,
        plan,
        model_for(plan, networks, networks),
        [line],
        networks=networks,
        standardise_source=statistics,
        standardise=dict.fromkeys(TARGETS, statistics),
        split=Split(("anna",), ("bert",), ("carl",)),
        gradients={name: Gradients(np.full(3, 1200.0), np.eye(3)) for name in TARGETS},
        facts={"label": "simulated", "validation": {"candidates": {"prisma_st": {"diqt": 0.123456}}}},
        draw=draw_curves,
    )
    single = folder / "singles" / "prisma_st.diqt"
    single.mkdir(parents=True)
    (single / "curves.png").write_bytes((folder / "curves.png").read_bytes())
    return load(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained") / "run")


def maps(platform="prisma_st", truth=True, prediction=None) -> Maps:
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 10, 8), dtype=bool)
    mask[1:8, 1:9, 1:7] = True
    volume = np.zeros((*mask.shape, 28), dtype=np.float32)
    volume[mask] = rng.normal(0, 0.05, (mask.sum(), 28))
    volume[mask, 0] += 1.5
    made = volume + 0.1 * mask[..., None] if prediction is None else prediction
    known = volume if truth else None
    return Maps(platform, "carl", mask, volume * 1.1, volume, known, made.astype(np.float32), "msp, stage 1")


def evaluation(errors=WORSE, *, platforms=("prisma_st",), subjects=("carl",), **changes) -> Evaluation:
    orders = {0: 3.0, 2: 2.0, 4: 1.0, 6: 0.5}
    scores = [
        Score(
            method,
            platform,
            subject,
            against,
            {"sh_mse": value} | {f"sh_mse l = {l}": value * share for l, share in orders.items()},
        )
        for method, error in (errors | {"the target itself": 0.0005}).items()
        for platform in platforms
        for number, subject in enumerate(subjects)
        for against, value in (("target", error + 0.0005), ("truth", error * (1 + 0.5 * number)))
        if (method, against) != ("the target itself", "target")
    ]
    plain = Evaluation(
        scores=scores,
        methods=list(dict.fromkeys(s.method for s in scores)),
        platforms=platforms,
        subjects=subjects,
        label="simulated travelling heads",
        leaky=False,
        measure="SH coefficients of S/S0",
        notes=(),
        maps=[maps(platform) for platform in platforms],
        kinds={m: "stage" if ", stage" in m else KINDS.get(m, "single") for m in (*errors, "the target itself")},
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "report"
    written = write_report(evaluation(platforms=TARGETS, label=EVIL), [run], out)
    assert written == out / "report.html"
    return written


def verdict(path: Path) -> str:
    return re.search(r'<div class="verdict">(.*?)</div>', path.read_text(), re.S).group(1)


def test_the_page_needs_nothing_but_itself(page):
    html = page.read_text()
    sources = re.findall(r'\bsrc\s*=\s*"([^"]*)"', html)
    assert len(sources) == 2 + 2 * (1 + 4) + 2  # charts, pictures with four frames each, curves
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not re.search(r"\bhref|<link|<script|url\(|@import|https?://", html)


def test_labels_and_notes_are_escaped(page):
    html = page.read_text()
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<b>quick</b>" not in html
    assert "tiny &amp; &lt;b&gt;quick&lt;/b&gt;" in html


def test_the_report_has_page_scores_table_and_figures(page):
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.png")}
    assert {"figures/errors.png", "figures/by_order.png", "figures/prisma_st.png", "figures/connectom_st.png"} <= names
    scores = json.loads((page.parent / "scores.json").read_text())["scores"]
    with (page.parent / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sh_mse"]) for row in rows] == [score["values"]["sh_mse"] for score in scores]
    assert float(rows[0]["sh_mse l = 6"]) == scores[0]["values"]["sh_mse l = 6"]
    tables = {path.name for path in (page.parent / "tables").iterdir()}
    assert {"sh_mse.md", "sh_mse.tex", "sh_mse.csv", "sh_mse_truth_differences.md"} <= tables
    assert not list(page.parent.parent.glob(".*"))  # nothing is left aside


def test_the_page_says_where_the_run_came_from(page):
    html = page.read_text()
    for text in ("diqt 0.1235", "anna", "bert", "carl", "joint_epochs = 50", "1 held-out test subject<", "0.000</td>"):
        assert text in html


def test_the_verdict_says_worse_when_the_answer_is_worse(page):
    text = verdict(page)
    assert "lower than that of the best single network on 0 of 2 platforms" in text
    assert "worse, 66.7 % higher than the best single network (diqt), 3.000" in text
    assert "worse, 2.5 times that of interpolation, 2.000" in text
    assert text.count('class="bad"') == 2


def test_the_verdict_does_not_say_worse_when_the_answer_is_better(run, tmp_path):
    text = verdict(write_report(evaluation(BETTER, maps=[maps(truth=False)]), [run], tmp_path / "report"))
    assert "worse" not in text
    assert "50.0 % lower than interpolation, 2.000" in text
    assert "60.0 % lower than its own first stage (msp, stage 0), 2.500" in text
    assert 'class="bad"' not in text


def test_a_run_without_a_fusion_is_judged_by_the_network_that_it_chose(tmp_path):
    alone = trained(tmp_path / "alone", fusion=None)
    scored = evaluation({"interpolation": 0.002, "diqt": 0.003, "shresnet": 0.001})
    text = verdict(write_report(scored, [alone], tmp_path / "report"))
    assert "diqt has an error of 3.000: worse, 3.0 times that of the best single network (shresnet), 1.000" in text


def test_the_lowest_error_is_bold_but_never_that_of_the_noise(page):
    rows = re.findall(r'<tr class="(\w+)"><td>(.*?)</td>(.*?)</tr>', page.read_text())
    bold = {method: cells.count("best") for _, method, cells in rows}
    assert bold == {**dict.fromkeys(WORSE, 0), "interpolation": 4, "the target itself": 0}
    assert {method for kind, method, _ in rows if kind == "answer"} == {"msp, stage 1"}


def test_leaky_scores_are_marked_and_others_are_not(run, page, tmp_path):
    leaky = write_report(evaluation(leaky=True), [run], tmp_path / "report")
    assert "LEAKY" in leaky.read_text()
    assert "LEAKY" not in page.read_text()


def test_several_subjects_are_shown_with_their_spread(run, tmp_path):
    html = write_report(evaluation(subjects=("carl", "dora")), [run], tmp_path / "report").read_text()
    assert "2.500 ± 0.707" in html  # interpolation against truth: 2 and 3
    assert "n = 2 test subjects" in html


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no picture")])
def test_missing_curves_are_said_in_red_and_by_the_error(run, tmp_path, damage):
    moved = tmp_path / "moved"
    single = moved / "singles" / "prisma_st.diqt" / "curves.png"
    single.parent.mkdir(parents=True)
    for name in ("curves.png", "recipe.toml"):
        (moved / name).write_bytes((run.folder / name).read_bytes())
    single.write_bytes((run.folder / "curves.png").read_bytes())
    damage(single)
    out = tmp_path / "report"
    with pytest.raises(RunError, match=r"incomplete: .*prisma_st\.diqt") as raised:
        write_report(evaluation(), [replace(run, folder=moved)], out)
    assert raised.value.exit_status == 1
    (red,) = re.findall(r'<p class="problem">(.*?)</p>', (out / "report.html").read_text())
    assert "prisma_st.diqt" in red
    assert (out / "scores.json").is_file()


def test_a_picture_that_cannot_be_drawn_leaves_the_rest_of_the_page(run, tmp_path):
    empty = replace(maps(), mask=np.zeros((9, 10, 8), dtype=bool))
    with pytest.raises(RunError, match=r"prisma_st\.png cannot be drawn"):
        write_report(evaluation(maps=[empty]), [run], tmp_path / "report")
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count('class="problem"') == 1
    assert "Error by SH order</figcaption>" in html


def test_a_score_that_is_not_a_number_is_said_and_leaves_valid_json(run, tmp_path):
    blank = maps(prediction=np.full((9, 10, 8, 28), np.nan))
    with pytest.raises(RunError, match="msp, stage 1 on prisma_st of carl against target is not a number"):
        write_report(evaluation(WORSE | {"msp, stage 1": math.nan}, maps=[blank]), [run], tmp_path / "report")
    text = (tmp_path / "report" / "scores.json").read_text()
    scores = json.loads(text, parse_constant=pytest.fail)["scores"]
    assert [s["values"]["sh_mse"] for s in scores if s["method"] == "msp, stage 1"] == [None, None]


def test_an_earlier_report_is_replaced_as_a_whole(run, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "figures").mkdir()
    (out / "scores.json").write_text("{}")
    (out / "figures" / "stale.png").write_bytes(b"old")
    write_report(evaluation(), [run], out)
    assert not (out / "figures" / "stale.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


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
    assert picture(maps(), tmp_path / "a.png", label=r"costs $\frac{$").stat().st_size > 10_000


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

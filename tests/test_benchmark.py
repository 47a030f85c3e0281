"""Table 1 in one command: rows under one budget, resumed and shared out, with tables and a report."""

import json
from pathlib import Path

import pytest
from bench import one_line
from conftest import TINY

from harmonet.build import recipe_of
from harmonet.data.layout import open_dataset
from harmonet.evaluation.forms import Cell
from harmonet.platforms import Task, preset
from harmonet.recipe import parse, to_toml
from harmonet.runs import load
from harmonet.runs.benchmark import rows_of, unfinished, units_of

TRAINING = {
    "epochs": 1,
    "joint_epochs": 1,
    "patches_per_subject": 4,
    "validation_patches": 4,
    "batch_size": 4,
    "learning_rate": 1e-3,
}
NAMES = ("prisma_st", "connectom_st")


@pytest.fixture(scope="module")
def budget():
    whole = preset("cdmri2017")
    task = Task(whole.source, tuple(p for p in whole.targets if p.name in NAMES))
    recipe = recipe_of(task, {name: ["diqt", "shresnet"] for name in NAMES}, options=TINY, order=2, patch_size=7)
    return parse(recipe.model_dump(exclude_none=True) | {"training": TRAINING}, "tiny")


@pytest.fixture(scope="module")
def rows(budget):
    return {row.name: row for row in rows_of(budget, ["diqt", "shresnet"], ["cpm", "msp"])}


def test_all_rows_share_what_the_budget_says(budget, rows):
    for row in rows.values():
        recipe = row.recipe
        same = ("source", "target", "representation", "split", "loss", "seed")
        assert all(getattr(recipe, part) == getattr(budget, part) for part in same)
        assert recipe.model.patch_size == 7
        if row.name != "diqt_longer":
            assert recipe.training == budget.training


def test_the_rows_are_networks_fusions_and_controls(rows):
    roles = {name: row.role for name, row in rows.items()}
    assert roles == {
        "diqt": "single",
        "shresnet": "single",
        "chosen": "control",
        "cpm": "fusion",
        "msp": "fusion",
        "ensemble": "control",
        "diqt_seeds": "control",
        "diqt_longer": "control",
        "diqt_wider": "control",
        "msp_alpha_0": "control",
        "msp_frozen": "control",
    }
    assert rows["diqt_longer"].recipe.training.epochs == 2
    assert rows["diqt_seeds"].recipe.model.candidates["prisma_st"] == ["diqt", "diqt@1"]  # as many as msp joins
    assert rows["msp_alpha_0"].recipe.model.options["msp"]["final"] == 0.0
    assert rows["msp_frozen"].recipe.model.frozen == list(NAMES)
    assert rows["diqt"].recipe.model.options == {"diqt": rows["msp"].recipe.model.options["diqt"]}


def test_the_wider_control_has_its_share_of_the_parameters_of_msp(rows):
    from harmonet.blocks.connection import count_parameters
    from harmonet.runs.members import first_composition

    wider, msp = (count_parameters(first_composition(rows[name].recipe)[0]) for name in ("diqt_wider", "msp"))
    assert wider == pytest.approx(msp, rel=0.1)


def test_without_a_platform_the_others_are_predicted(budget):
    three = preset("cdmri2017")
    recipe = recipe_of(three, {name: ["diqt"] for name in three.target_names}, options={"diqt": TINY["diqt"]})
    rows = [row for row in rows_of(recipe, ["diqt"], ["msp"], subsets=True) if row.role == "subset"]
    assert [row.recipe.task.target_names for row in rows] == [
        ("connectom_st", "connectom_sa"),
        ("prisma_st", "connectom_sa"),
        ("prisma_st", "connectom_st"),
    ]
    assert not [row for row in rows_of(budget, ["diqt"], ["msp"], subsets=True) if row.role == "subset"]


@pytest.fixture(scope="module")
def done(budget, tiny_heads, tmp_path_factory):
    """A benchmark of two networks, one fusion and their controls, trained on one split."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "recipe.toml").write_text(to_toml(budget))
    return folder


WORDS = ("--models", "diqt,shresnet,msp", "--metrics", "sh_mse", "--device", "cpu")


def test_parts_train_and_the_whole_makes_the_tables(done, tiny_heads, invoke):
    """What is told on the way, what lies there afterwards, and that nothing is trained twice."""
    words = ("benchmark", "--data", tiny_heads, "--out", done / "out", "--recipe", done / "recipe.toml", *WORDS)
    ended = invoke(*words, "--part", "1/1")
    assert ended.status == 0, ended.err
    assert "part 1/1 is trained" in ended.err
    trained = load(done / "out" / "runs" / "msp" / "seed-0")
    assert trained.recipe.model.fusion == "msp"
    assert not (trained.folder / "singles").exists()
    before = {path: path.stat().st_mtime_ns for path in (done / "out" / "runs").rglob("weights.safetensors")}
    assert len(before) == 10 + 4 + 2 + 2 + 2  # the rows, and the single networks inside those that train such

    ended = invoke(*words)
    assert ended.status == 0, ended.err
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    out = ended.out
    assert "Table 1." in out
    for label in ("identity", "rish_linear", "best single on validation", "msp, members frozen", "diqt, wider"):
        assert label in out
    assert "stage 0" not in out
    assert "Gains against truth" in out
    assert "One subject shows no spread" in ended.err
    table = (done / "out" / "tables" / "table1.md").read_text()
    assert table.count("**") >= 2 * 2 * len(NAMES)
    assert (done / "out" / "tables" / "table1.tex").read_text().count("toprule") == 1
    page = (done / "out" / "report" / "report.html").read_text()
    assert "Gains against truth" in page
    assert "diqt, trained longer" in page


def test_fusions_take_the_networks_that_were_trained_alone(done):
    alone = load(done / "out" / "runs" / "diqt" / "seed-0" / "singles" / "prisma_st.diqt")
    frozen = load(done / "out" / "runs" / "msp_frozen" / "seed-0")
    if frozen.networks["prisma_st"] == "diqt":
        one, other = (run.model.singles["prisma_st"].state_dict() for run in (alone, frozen))
        assert all(tensor.equal(other[name]) for name, tensor in one.items())
    errors = frozen.facts["validation"]["candidates"]["prisma_st"]
    assert errors["diqt"] == pytest.approx(alone.facts["validation"]["score"], rel=1e-5)


def test_json_has_the_tables_and_the_scores(done, tiny_heads, invoke):
    words = ("benchmark", "--data", tiny_heads, "--out", done / "out", "--recipe", done / "recipe.toml", *WORDS)
    content = json.loads(invoke(*words, "--json").out)
    assert {"table1", "gains_truth", "gains_target", "budgets", "evaluation"} <= set(content)
    assert {row["method"] for row in content["table1"]["rows"]} >= {"msp", "diqt", "linear"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--models", "msp"), "names no single network"),
        (("--models", "diqt,diqt,msp"), "names diqt twice"),
        (("--models", "diqtt,msp"), "no network 'diqtt'"),
        (("--control", "shresnet", "--models", "diqt,msp"), "is none of the networks compared"),
        (("--preset", "paper"), "both give the budget"),
        (("--folds", "9"), "needs 9 subjects"),
        (("--part", "3/2"), "--part '3/2' is not understood"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(done, tiny_heads, tmp_path, invoke, words, says):
    ended = invoke(
        "benchmark", "--data", tiny_heads, "--out", tmp_path / "out", "--recipe", done / "recipe.toml", *words
    )
    assert says in one_line(ended)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(done, tiny_heads, tmp_path, invoke):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    ended = invoke("benchmark", "--data", tiny_heads, "--out", tmp_path / "out", "--force")
    assert "it holds thesis.tex" in one_line(ended)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_what_is_unfinished_is_named(budget, rows, tiny_heads, tmp_path):
    units = units_of(list(rows.values()), open_dataset(tiny_heads), None, 2)
    assert len(unfinished(tmp_path, list(rows.values()), units)) == 2 * len(rows)
    assert unfinished(Path(tmp_path), list(rows.values()), units)[0] == "diqt/seed-0"


def test_a_cell_of_the_matrix_says_what_others_gave():
    from harmonet.evaluation.benchmark import _helped

    alone = {"a": 0.004, "b": 0.002}
    assert _helped(None, alone) == Cell("")
    assert _helped(alone, alone) == Cell("3.000")
    assert _helped({"a": 0.002, "b": 0.001}, alone).text == "1.500 (+50.0 % [50.0, 50.0])"

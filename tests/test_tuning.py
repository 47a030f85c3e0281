"""`--tune` measures before training, writes what it chose into the run, and a resumed run keeps to it."""

import json
import tomllib

import pytest

from harmonet.build import recipe_of
from harmonet.errors import OutputError, RecipeError
from harmonet.platforms import preset
from harmonet.recipe import parse, read_recipe, to_toml
from harmonet.runs.tuning import Setting, Tuning, _faster, adopted, as_json, refuse_untunable, tuned
from harmonet.training.engine import ALONE, Engine

TASK = preset("cdmri2017")
ONE, TWO, FUSED = Setting(1), Setting(2), Setting(1, fused=True)


@pytest.fixture
def recipe():
    return recipe_of(TASK, {name: ["diqt"] for name in TASK.target_names})


@pytest.mark.parametrize(
    ("found", "best"),
    [({ONE: 1.0, TWO: 0.6}, TWO), ({ONE: 1.0, TWO: 0.98}, ONE), ({ONE: 1.0, FUSED: 2.0}, ONE)],
)
def test_only_what_is_clearly_faster_is_chosen(found, best):
    assert _faster(found, ONE) == best


def test_a_resumed_run_keeps_what_was_chosen_and_nothing_else_may_differ(recipe, tmp_path):
    assert adopted(tmp_path, recipe) == recipe
    tuning = Tuning("diqt for prisma_st", {"1 thread": 0.1}, Setting(3, fused=True))
    (tmp_path / "recipe.toml").write_text(to_toml(tuned(recipe, tuning)))
    assert adopted(tmp_path, recipe) == recipe  # its own recipe says 3 threads, not its tuning
    (tmp_path / "tuning.json").write_bytes(as_json(tuning))
    again = adopted(tmp_path, recipe).training
    assert (again.threads, again.fused, again.compile) == (3, True, False)
    other = recipe.model_copy(update={"seed": 9})
    assert adopted(tmp_path, other) != read_recipe(tmp_path / "recipe.toml")


def test_tuning_is_refused_in_several_processes_and_for_a_run_that_has_begun(recipe, tmp_path):
    refuse_untunable(tmp_path, ALONE, resume=True)
    with pytest.raises(RecipeError, match="--tune measures in one process, found 2"):
        refuse_untunable(tmp_path, Engine(ranks=2), resume=False)
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    with pytest.raises(OutputError, match="began without: leave out --tune"):
        refuse_untunable(tmp_path, ALONE, resume=True)


def test_a_tuned_run_is_trained_recorded_and_resumed(tiny_heads, tmp_path, invoke, monkeypatch):
    monkeypatch.setattr("harmonet.training.engine.COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CXX", raising=False)
    options = {"diqt": {"layers": 0, "widths": [2, 4]}}
    made = recipe_of(TASK, {name: ["diqt"] for name in TASK.target_names}, options=options, order=2, patch_size=7)
    training = {"epochs": 1, "patches_per_subject": 4, "validation_patches": 2, "batch_size": 2}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(parse(made.model_dump(exclude_none=True) | {"training": training}, "test")))
    words = ["train", recipe, "--data", tiny_heads, "--out", tmp_path / "run", "--tune"]
    ended = invoke(*words)
    assert ended.status == 0, ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("tuned on ")]
    assert "1 thread" in line
    assert "there is no C++ compiler" in line
    told = json.loads((tmp_path / "run" / "tuning.json").read_text())
    found = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["training"]
    assert told["chosen"] == {key: found[key] for key in ("threads", "fused", "compile")}
    assert found["threads"] >= 1
    assert all(seconds > 0 for seconds in told["seconds"].values())
    (tmp_path / "run" / "model.json").unlink()
    again = invoke(*words, "--resume")
    assert (again.status, "tuned on" in again.err) == (0, False)
    assert tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["training"] == found

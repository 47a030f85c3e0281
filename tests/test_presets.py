"""Presets can be read and are written into the recipe whole; `paper` is what the paper says, and the default."""

import math
import tomllib

import pytest

from harmonet.build import recipe_of
from harmonet.errors import NotFoundError, RecipeError
from harmonet.platforms import preset as platforms
from harmonet.presets import PRESETS, preset, text_of
from harmonet.recipe import LossTable, TrainingTable, parse, read_recipe

TASK = platforms("cdmri2017")
NETWORKS = {name: ["diqt"] for name in TASK.target_names}


def test_the_papers_preset_is_what_the_paper_says_and_the_default():
    tables = preset("paper")
    found = tables["training"]
    assert (found["batch_size"], found["learning_rate"], found["epochs"], found["decay_every"]) == (12, 1e-4, 50, 15)
    assert found["decay"] == pytest.approx(1 / math.sqrt(2))
    assert TrainingTable(**found) == TrainingTable()
    assert LossTable(**tables["loss"]) == LossTable()
    alpha = recipe_of(TASK, NETWORKS, fusion="msp", preset="paper").model.options["msp"]
    assert (alpha["start"], alpha["ramp"] * found["joint_epochs"], alpha["final"]) == (0, 25, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_is_in_the_recipe_and_its_name_in_the_note(name):
    recipe = recipe_of(TASK, NETWORKS, fusion="msp", preset=name)
    tables = recipe.model_dump()
    for table, values in preset(name).items():
        options = {key: (tables[table]["options"][key], given) for key, given in values.get("options", {}).items()}
        if table == "model":
            assert all({key: found[key] for key in given} == given for found, given in options.values())
            values = {key: value for key, value in values.items() if key != "options"}
        assert {key: tables[table][key] for key in values} == values
    assert recipe.note == f"preset {name}"
    assert text_of(name).startswith("# ")
    assert set(tomllib.loads(text_of(name))) <= {"training", "loss", "model"}


def test_what_is_asked_for_beside_a_preset_goes_before_it():
    made = recipe_of(TASK, NETWORKS, fusion="msp", preset="paper", loss="huber", rates={"fusion": 2.0}, note="mine")
    assert (made.loss.name, made.training.rates, made.note) == ("huber", {"fusion": 2.0}, "mine")


def test_compose_writes_the_recommended_schedule(tmp_path, invoke):
    out = tmp_path / "recipe.toml"
    ended = invoke("compose", "--single", "diqt", "--fusion", "msp", "--preset", "recommended", "--out", out)
    assert ended.status == 0, ended.err
    recipe = read_recipe(out)
    assert recipe.training == TrainingTable(**preset("recommended")["training"])
    assert recipe.training != TrainingTable()


def test_an_unknown_preset_is_refused_with_the_nearest(invoke):
    with pytest.raises(NotFoundError, match=r"no preset 'papre' of a training. Did you mean paper?"):
        preset("papre")
    ended = invoke("compose", "--single", "diqt", "--preset", "fast")
    assert (ended.status, "no preset 'fast' of a training. Known: paper, recommended." in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        (
            "loss",
            "platforms",
            {"prisma": 2.0},
            "loss.platforms names 'prisma', which is no target. Did you mean prisma_st",
        ),
        ("loss", "platforms", {"fusion": 2.0}, "loss.platforms names 'fusion', which is no target"),
        ("training", "rates", {"fussion": 2.0}, "training.rates names 'fussion', .* not fusion. Did you mean fusion"),
        ("training", "rates", {"ge_st": 2.0}, "training.rates names 'ge_st'"),
    ],
)
def test_factors_for_unknown_platforms_and_parts_are_refused(table, key, value, words):
    tables = recipe_of(TASK, NETWORKS, fusion="msp").model_dump(exclude_none=True)
    with pytest.raises(RecipeError, match=words):
        parse(tables | {table: tables[table] | {key: value}}, "test")


def test_the_recipe_of_one_network_alone_has_no_factors_of_the_compositions_parts():
    from harmonet.runs.train import single_recipe

    tables = recipe_of(TASK, NETWORKS, fusion="msp", rates={"fusion": 2.0}).model_dump(exclude_none=True)
    recipe = parse(tables | {"loss": tables["loss"] | {"platforms": {"connectom_sa": 0.5}}}, "test")
    alone = single_recipe(recipe, "prisma_st", "diqt")
    assert (alone.loss.platforms, alone.training.rates) == ({}, {})
    assert parse(alone.model_dump(exclude_none=True), "alone") == alone

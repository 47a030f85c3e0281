"""Recipes: complete, strict, and the same after a round trip."""

import tomllib

import pytest

from harmonet.build import recipe_of
from harmonet.cli.compose import _options, _tap, candidates_of
from harmonet.errors import HarmonetError, NotFoundError, RecipeError
from harmonet.platforms import preset
from harmonet.recipe import parse, read_recipe, read_task, to_toml

TASK = preset("cdmri2017")
BOTH = {name: ["diqt", "shresnet"] for name in TASK.target_names}


@pytest.fixture
def recipe():
    return recipe_of(TASK, BOTH, fusion="msp", options={"diqt": {"layers": 2}})


def test_a_recipe_survives_the_round_trip_through_toml(recipe, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe))
    assert read_recipe(path) == recipe


def test_every_default_is_written_out(recipe):
    tables = tomllib.loads(to_toml(recipe))
    assert tables["model"]["options"]["diqt"] == {"layers": 2, "widths": [50, 100], "recompute": False}
    more = {"final_relu": False, "rish_projection": False, "shells": 1}
    assert tables["model"]["options"]["shresnet"] == {"blocks": 2, "width": 100, **more}
    assert tables["model"]["options"]["msp"] == {
        "stages": 2,
        "connection": "two_convs",
        "schedule": "linear",
        "start": 0.0,
        "ramp": 0.5,
        "final": 1.0,
        "weights": "mean",
    }
    assert tables["representation"]["options"] == {"order": 6, "laplace_beltrami": 0.006}
    assert tables["training"]["batch_size"] == 12
    assert tables["model"]["refine"] == list(TASK.target_names)


def test_the_task_in_a_recipe_is_the_task_that_it_was_made_for(recipe):
    assert recipe.task == TASK


BAD = [
    ({"modle": {}}, "unknown key modle. Did you mean model?"),
    ({"training": {"epoch": 3}}, "unknown key training.epoch. Did you mean epochs?"),
    ({"training": {"epochs": True}}, "training.epochs"),
    ({"training": {"epochs": 0}}, "training.epochs"),
    ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
    ({"training": {"learning_rate": "1e-4"}}, "training.learning_rate"),
    ({"format": 2}, "format"),
    ({"split": {"test": -1}}, "split.test"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_a_wrong_key_or_value_is_named(recipe, change, words):
    tables = tomllib.loads(to_toml(recipe))
    for key, value in change.items():
        tables[key] = {**tables[key], **value} if isinstance(value, dict) and key in tables else value
    with pytest.raises(RecipeError, match=words):
        parse(tables, "test")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"refine": ["nowhere"]}, "refine names 'nowhere'"),
        ({"candidates": {"prisma_st": ["diqt"]}}, "no network for connectom_sa, connectom_st"),
        ({"refine": []}, "fusion and model.refine go together"),
    ],
)
def test_contradictions_are_refused(recipe, model, words):
    tables = recipe.model_dump(exclude_none=True)
    with pytest.raises(RecipeError, match=words):
        parse(tables | {"model": tables["model"] | model}, "test")


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"a = 1\na = 2", b"[" * 10_000])
def test_what_is_no_toml_is_refused_with_the_file_name(tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.toml is no TOML"):
        read_recipe(path)


def test_a_missing_or_huge_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(RecipeError, match="this is no recipe"):
        read_recipe(tmp_path / "huge.toml")


def test_platforms_can_be_read_from_a_file_of_their_own(tmp_path, recipe):
    tables = tomllib.loads(to_toml(recipe))
    import tomli_w

    path = tmp_path / "platforms.toml"
    path.write_text(tomli_w.dumps({"source": tables["source"], "target": tables["target"]}))
    assert read_task(path) == TASK


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"fusion": "mps"}, NotFoundError, "Did you mean msp"),
        ({"options": {"diqt": {"layer": 1}}}, NotFoundError, "diqt has no option 'layer'"),
        ({"options": {"unet": {"a": 1}}}, NotFoundError, "options are given for 'unet'"),
        ({"refine": ["ge_st"], "fusion": "msp"}, RecipeError, "refine names 'ge_st'"),
    ],
)
def test_unknown_names_are_refused_when_the_recipe_is_made(settings, error, words):
    with pytest.raises(error, match=words):
        recipe_of(TASK, BOTH, **settings)


def test_bare_names_are_candidates_everywhere_and_pins_replace_them():
    targets = ["a", "b", "c"]
    assert candidates_of(["diqt,shresnet"], targets) == {t: ["diqt", "shresnet"] for t in targets}
    assert candidates_of(["diqt", "b=shresnet"], targets) == {"a": ["diqt"], "b": ["shresnet"], "c": ["diqt"]}
    assert candidates_of(["a=runs/x,b=diqt,c=diqt"], targets) == {"a": ["runs/x"], "b": ["diqt"], "c": ["diqt"]}


@pytest.mark.parametrize("singles", [["z=diqt"], ["a="], ["=diqt"], ["a=diqt"], [""]])
def test_singles_that_leave_a_platform_without_a_network_are_refused(singles):
    with pytest.raises(HarmonetError):
        candidates_of(singles, ["a", "b"])


def test_options_are_read_as_toml_values_and_belong_to_the_fusion_unless_named():
    assert _options(["ramp=0.25", "diqt.layers=1", "diqt.widths=[4, 6]", "x.mode=plain"], "msp") == {
        "msp": {"ramp": 0.25},
        "diqt": {"layers": 1, "widths": [4, 6]},
        "x": {"mode": "plain"},
    }
    assert _tap("prisma_st.shresnet=tail.1") == ("prisma_st.shresnet", ["tail.1"])
    for bad in ("ramp", "=1"):
        with pytest.raises(RecipeError, match="not understood"):
            _options([bad], "msp")
    with pytest.raises(RecipeError, match="names no layer"):
        _tap("diqt")

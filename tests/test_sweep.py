"""Folds and seeds: many runs from one command, shared out over machines, none done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from bench import listing, one_line
from conftest import TINY

from harmonet.build import recipe_of
from harmonet.data.acquisition import Acquisition
from harmonet.data.layout import TravellingHeads
from harmonet.errors import DataError, NotFoundError, OutputError, RecipeError, RunError
from harmonet.platforms import Task, preset
from harmonet.recipe import parse, read_recipe, to_toml
from harmonet.runs import load
from harmonet.runs.material import split_of
from harmonet.runs.sweep import Part, attempt, refuse_foreign, share, sweep

TRAINING = {"epochs": 1, "patches_per_subject": 4, "validation_patches": 4, "batch_size": 4, "learning_rate": 1e-3}


def small_recipe(*candidates, **training):
    """Small networks to choose from for one platform, and one epoch of one step."""
    whole = preset("cdmri2017")
    task = Task(whole.source, tuple(p for p in whole.targets if p.name == "prisma_st"))
    options = {name: TINY[name] for name in candidates}
    recipe = recipe_of(task, {"prisma_st": list(candidates)}, options=options, order=2)
    return parse(recipe.model_dump(exclude_none=True) | {"training": TRAINING | training}, "tiny")


RECIPE = small_recipe("diqt", "shresnet")


def heads_of(number, tmp_path, lacking=0):
    """As many subjects by name; files are not needed to deal subjects out."""
    names = [f"s{i:02d}" for i in range(number)]
    found = [(name, "ge_st") for name in names] + [(name, "prisma_st") for name in names[lacking:]]
    files = tmp_path / "dwi.nii.gz", None, None, None
    return TravellingHeads(tmp_path, {key: Acquisition(*key, *files) for key in found}, "challenge")


def changed(recipe=RECIPE, **split):
    return recipe.model_copy(update={"split": recipe.split.model_copy(update=split)})


@pytest.mark.parametrize(
    ("subjects", "folds", "seeds", "names"),
    [
        (5, "2", 1, ["fold-1of2_seed-0", "fold-2of2_seed-0"]),
        (5, None, 3, ["seed-0", "seed-1", "seed-2"]),
        (5, "2", 2, ["fold-1of2_seed-0", "fold-1of2_seed-1", "fold-2of2_seed-0", "fold-2of2_seed-1"]),
        (3, "loso", 1, ["fold-1of3_seed-0", "fold-2of3_seed-0", "fold-3of3_seed-0"]),
        (12, "loso", 1, [f"fold-{fold:02d}of12_seed-0" for fold in range(1, 13)]),
    ],
)
def test_each_fold_and_seed_is_a_folder_of_its_own(subjects, folds, seeds, names, tmp_path):
    parts = sweep(RECIPE, heads_of(subjects, tmp_path), folds, seeds)
    assert [part.name for part in parts] == names
    assert len({to_toml(part.recipe) for part in parts}) == len(names)


@pytest.mark.parametrize(("folds", "subjects"), [("2", 7), ("5", 7), ("loso", 7)])
@pytest.mark.parametrize("first", [0, 8])
def test_every_subject_tests_once_for_each_seed_and_seeds_test_the_same(folds, subjects, first, tmp_path):
    heads = heads_of(subjects, tmp_path)
    parts = sweep(RECIPE.model_copy(update={"seed": first}), heads, folds, 3)
    by_seed = {seed: [part for part in parts if part.recipe.seed == seed] for seed in range(first, first + 3)}
    for of_seed in by_seed.values():
        assert sorted(name for part in of_seed for name in part.test) == list(heads.subjects)
        assert [part.test for part in of_seed] == [part.test for part in by_seed[first]]
    for part in parts:
        split = split_of(part.recipe, heads)  # what the run itself will make of it
        assert split.test == part.test
        assert not {*split.test} & {*split.train, *split.validation}


def test_who_tests_is_who_would_have_tested_without_several_seeds(tmp_path):
    heads = heads_of(7, tmp_path)
    for recipe in (RECIPE, RECIPE.model_copy(update={"seed": 3}), changed(seed=4)):
        assert {part.test for part in sweep(recipe, heads, None, 4)} == {split_of(recipe, heads).test}


def test_subjects_without_every_platform_are_in_no_fold(tmp_path):
    heads = heads_of(6, tmp_path, lacking=2)
    parts = sweep(RECIPE, heads, "loso", 1)
    assert sorted(name for part in parts for name in part.test) == list(heads.subjects[2:])


@pytest.mark.parametrize("machines", [1, 2, 3, 8, 20])
def test_machines_share_the_runs_without_rest_or_overlap(machines, tmp_path):
    parts = sweep(RECIPE, heads_of(7, tmp_path), "loso", 2)
    shares = [share(parts, f"{machine}/{machines}") for machine in range(1, machines + 1)]
    assert sorted(part.name for one in shares for part in one) == sorted(part.name for part in parts)
    sizes = [len(one) for one in shares]
    assert max(sizes) - min(sizes) <= 1
    assert share(parts, None) == parts


@pytest.mark.parametrize(
    ("recipe", "folds", "seeds", "error", "words"),
    [
        (RECIPE, "1", 1, RecipeError, "--folds '1' is not understood: give 2 or more, or 'loso'"),
        (RECIPE, "0", 1, RecipeError, "--folds '0' is not understood"),
        (RECIPE, "-2", 1, RecipeError, "--folds '-2' is not understood"),
        (RECIPE, "2.5", 1, RecipeError, "--folds '2.5' is not understood"),
        (RECIPE, "LOSO", 1, RecipeError, "--folds 'LOSO' is not understood"),
        (RECIPE, "", 1, RecipeError, "--folds '' is not understood"),
        (
            RECIPE,
            "99",
            1,
            DataError,
            "--folds 99 needs 99 subjects or more .* found 5: add subjects, or give 5 or fewer",
        ),
        (RECIPE, None, 0, RecipeError, "--seeds 0 is how many runs .*: give 1 to 1000"),
        (RECIPE, None, -1, RecipeError, "--seeds -1 is how many runs"),
        (RECIPE, None, 20260101, RecipeError, "not a seed: .* set the first seed in the recipe"),
        (changed(scheme="paper"), "2", 1, RecipeError, "'paper' by patch: remove one of them"),
        (changed(test=["s01"]), "2", 1, RecipeError, r"\[split\] has test = \['s01'\]: leave out --folds"),
        (changed(test="2/5"), "5", 1, RecipeError, r"has test = '2/5': leave out --folds"),
        (changed(validation=["s01"]), "2", 1, RecipeError, r"has validation = \['s01'\]: leave out --folds"),
        (changed(validation=4), "2", 1, DataError, "5 subjects in 2 folds leave 2 beside the test subjects"),
        (changed(test=["nobody"]), None, 2, NotFoundError, "no subject 'nobody'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_dealt_out_is_refused_before_anything_is_trained(recipe, folds, seeds, error, words, tmp_path):
    with pytest.raises(error, match=words):
        sweep(recipe, heads_of(5, tmp_path), folds, seeds)


@pytest.mark.parametrize("subjects", [0, 1])
def test_too_few_subjects_to_leave_one_out_are_said_to_be_too_few(subjects, tmp_path):
    with pytest.raises(DataError, match=f"--folds loso needs 2 subjects or more .* found {subjects}: add subjects"):
        sweep(RECIPE, heads_of(subjects, tmp_path), "loso", 1)


@pytest.mark.parametrize("part", ["3/2", "0/2", "1/0", "2", "a/b", "1/2/3", "-1/2", "1 / 2", "1/2 ", ""])
def test_a_share_that_is_none_is_refused(part):
    with pytest.raises(RecipeError, match="is not understood: write 2/8 for the second of eight machines"):
        share([Part("seed-0", RECIPE, ())], part)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], None),
        (["seed-0/recipe.toml", "seed-1/.lock", ".DS_Store"], None),
        (["seed-2/recipe.toml"], "holds seed-2, which is none of these folds and seeds: choose another folder"),
        (["recipe.toml", "model.json"], "holds model.json, which is none"),
        (["seed-0/recipe.toml", "thesis.doc"], "holds thesis.doc, which is none"),
    ],
)
def test_the_folder_of_the_runs_holds_nothing_else(found, words, tmp_path):
    for name in found:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if words is None:
        refuse_foreign(tmp_path, ["seed-0", "seed-1"])
        return
    with pytest.raises(OutputError, match=words):
        refuse_foreign(tmp_path, ["seed-0", "seed-1"])


@pytest.mark.parametrize(
    ("error", "alone", "ends"),
    [
        (RunError, True, False),
        (DataError, True, False),
        (RunError, False, True),
        (DataError, False, True),
        (RecipeError, True, True),
        (OutputError, True, True),
        (NotFoundError, True, True),
    ],
)
def test_a_failure_of_one_run_lets_the_others_go_on_but_not_one_that_all_would_meet(error, alone, ends):
    def train():
        raise error("it broke.")

    part = Part("fold-1of2_seed-0", RECIPE, ("s01",))
    if ends:
        with pytest.raises(error, match=r"^fold-1of2_seed-0: it broke\.$"):
            attempt(part, train, alone=alone)
    else:
        result = attempt(part, train, alone=alone)
        assert (result.part, result.test, result.failure) == (part.name, ("s01",), "it broke.")


# From here on, the command itself.


def command(recipe, heads, out, *words):
    return ["train", recipe, "--data", heads, "--out", out, *words]


LOSO = ("--folds", "loso")
NAMES = [f"fold-{fold}of3_seed-0" for fold in (1, 2, 3)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(to_toml(RECIPE))
    return path


@pytest.fixture(scope="module")
def shared(recipe, tiny_heads, tmp_path_factory):
    """What two machines that share a folder write together, with what each said."""
    out = tmp_path_factory.mktemp("runs") / "cv"
    words = [sys.executable, "-m", "harmonet", *map(str, command(recipe, tiny_heads, out, *LOSO, "--json"))]
    machines = [
        subprocess.Popen([*words, "--part", part], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for part in ("1/2", "2/2")
    ]
    try:
        said = [machine.communicate(timeout=300) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    return out, [json.loads(out) for out, _ in said]


@pytest.fixture
def swept(shared, tmp_path):
    return shutil.copytree(shared[0], tmp_path / "cv")


def test_two_machines_write_one_folder_side_by_side(shared):
    out, tables = shared
    assert [[row["part"] for row in table] for table in tables] == [[NAMES[0], NAMES[2]], [NAMES[1]]]
    assert sorted(path.name for path in out.iterdir()) == NAMES
    runs = [load(out / name) for name in NAMES]
    assert sorted(name for run in runs for name in run.split.test) == ["sim01", "sim02", "sim03"]
    assert read_recipe(out / NAMES[1] / "recipe.toml").split.test == "2/3"
    rows = {row["part"]: row for table in tables for row in table}
    for name, run in zip(NAMES, runs, strict=True):
        assert rows[name]["test"] == list(run.split.test)
        errors = run.facts["validation"]["candidates"]["prisma_st"]
        assert rows[name]["networks"] == {"prisma_st": min(errors, key=errors.get)}
        assert rows[name]["errors"] == {"prisma_st": min(errors.values())}
        assert rows[name]["score"] == pytest.approx(min(errors.values()))  # nothing is trained after


def test_finished_runs_are_not_done_again_and_stand_in_the_table(swept, recipe, tiny_heads, invoke):
    before = listing(swept)
    for words in ([], ["--resume"]):
        ended = invoke(*command(recipe, tiny_heads, swept, *LOSO, *words))
        assert ended.status == 0, ended.err
        assert f"run 2 of 3: {NAMES[1]}, finished before" in ended.err
        assert listing(swept) == before
        for name in NAMES:
            run = load(swept / name)
            (row,) = [line.split() for line in ended.out.splitlines() if name in line]
            error = f"{run.facts['validation']['score']:.4f}"
            assert row == [name, *run.split.test, run.networks["prisma_st"], error, error]


def test_only_what_is_unfinished_is_resumed_and_only_when_asked(swept, recipe, tiny_heads, invoke):
    weights = (swept / NAMES[1] / "weights.safetensors").read_bytes()
    (swept / NAMES[1] / "model.json").unlink()
    shutil.rmtree(swept / NAMES[2])
    before = listing(swept)
    ended = invoke(*command(recipe, tiny_heads, swept, *LOSO))
    assert f"{NAMES[1]} holds a run: add --resume to continue it" in one_line(ended)
    assert listing(swept) == before  # not even the run that could begin has begun
    ended = invoke(*command(recipe, tiny_heads, swept, *LOSO, "--resume", "--json"))
    assert ended.status == 0, ended.err
    assert [(row["part"], row["failure"]) for row in json.loads(ended.out)] == [(name, "") for name in NAMES]
    assert (swept / NAMES[1] / "weights.safetensors").read_bytes() == weights
    now = listing(swept)
    assert {path for path in before if now[path] != before[path] and path.parts[-2] == NAMES[0]} == set()


def test_force_replaces_this_machines_share_and_no_other(swept, recipe, tiny_heads, invoke):
    before = listing(swept)
    ended = invoke(*command(recipe, tiny_heads, swept, *LOSO, "--force", "--part", "2/3"))
    assert ended.status == 0, ended.err
    now, model = listing(swept), swept / NAMES[1] / "model.json"
    assert now[model] != before[model]
    assert all(now[path] == before[path] for path in before if NAMES[1] not in path.parts)


def test_a_finished_run_of_another_recipe_is_refused_by_name(swept, tiny_heads, tmp_path, invoke):
    other = tmp_path / "other.toml"
    other.write_text(to_toml(small_recipe("diqt")))
    before = listing(swept)
    for words in ([], ["--resume"]):
        told = one_line(invoke(*command(other, tiny_heads, swept, *LOSO, *words)))
        assert f"{NAMES[0]} was begun with another recipe" in told
    assert listing(swept) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", 1], "--folds '1' is not understood"),
        (["--folds", 99], "--folds 99 needs 99 subjects"),
        (["--folds", 2], "3 subjects in 2 folds"),
        (["--seeds", 0], "--seeds 0 is how many runs"),
        ([*LOSO, "--part", "3/2"], "--part '3/2' is not understood"),
        (["--part", "1/2"], "--part 1/2 shares out folds and seeds, and there are none"),
        ([*LOSO, "--resume", "--force"], "--resume continues what --force would replace"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_mistaken_command_ends_with_a_sentence_and_writes_nothing(words, told, recipe, tiny_heads, tmp_path, invoke):
    assert told in one_line(invoke(*command(recipe, tiny_heads, tmp_path / "cv", *words)))
    assert not (tmp_path / "cv").exists()


def test_a_file_in_place_of_the_folder_is_named(recipe, tiny_heads, tmp_path, invoke):
    (tmp_path / "cv").write_text("mine")
    told = one_line(invoke(*command(recipe, tiny_heads, tmp_path / "cv", *LOSO)))
    assert f"{tmp_path / 'cv'} is a file: choose a folder for the runs" in told


def test_a_machine_too_many_has_nothing_to_do(recipe, tiny_heads, tmp_path, invoke):
    ended = invoke(*command(recipe, tiny_heads, tmp_path / "cv", *LOSO, "--part", "5/8"))
    assert (ended.status, ended.out) == (0, "")
    assert "there are 3 runs, none of which falls to --part 5/8: nothing to do" in ended.err


def test_one_run_alone_prints_its_result_as_json_when_asked(swept, tiny_heads, invoke):
    run = swept / NAMES[0]
    ended = invoke(*command(run / "recipe.toml", tiny_heads, run, "--resume", "--json"))
    (row,) = json.loads(ended.out)
    assert (ended.status, row["part"], row["networks"]) == (0, NAMES[0], dict(load(run).networks))


def test_a_run_that_fails_lets_the_others_go_on_and_is_told_at_the_end(recipe, tiny_heads, tmp_path, invoke):
    heads, out = shutil.copytree(tiny_heads, tmp_path / "heads"), tmp_path / "cv"
    scan = heads / "sim02" / "prisma" / "st" / "dwi.nii.gz"  # two folds read it, in the third it tests
    scan.write_bytes(scan.read_bytes()[:-100])
    ended = invoke(*command(recipe, heads, out, *LOSO))
    assert (ended.status, "Traceback" in ended.err) == (1, False)
    assert ended.err.splitlines()[-1].startswith("harmonet: 2 of 3 runs failed, for the reasons above")
    rows = {line.split()[0]: line for line in ended.out.splitlines() if "fold-" in line}
    assert sorted(rows) == NAMES
    for name, row in rows.items():
        tests = "sim02" in row
        assert (" failed " in row) != tests
        assert (out / name / "model.json").exists() == tests
        reasons = [line for line in ended.err.splitlines() if line.startswith(f"{name} failed: ")]
        assert len(reasons) == (0 if tests else 2)  # when it happened, and once more at the end
        assert all("sim02/prisma/st/dwi.nii.gz is truncated" in line for line in reasons)


def test_a_signal_leaves_its_run_resumable_and_the_later_ones_not_begun(tiny_heads, tmp_path, invoke):
    recipe, out = tmp_path / "recipe.toml", tmp_path / "cv"
    recipe.write_text(to_toml(small_recipe("diqt", epochs=1_000_000, steps=100, patches_per_subject=40)))
    ended = threading.Event()

    def stop_the_second():
        while not ended.is_set():
            if (out / NAMES[0] / "model.json").exists() and list((out / NAMES[1]).rglob("last.pt")):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=stop_the_second)
    watcher.start()
    try:
        stopped = invoke(*command(recipe, tiny_heads, out, *LOSO))
    finally:
        ended.set()
        watcher.join()
    assert (stopped.status, stopped.out) == (143, ""), stopped.err
    assert stopped.err.splitlines()[-1].startswith(f"harmonet: terminated; {out / NAMES[1]} is saved")
    assert sorted(path.name for path in out.iterdir()) == NAMES[:2]
    assert not (out / NAMES[1] / "model.json").exists()
    (lines,) = (out / NAMES[1] / "singles").rglob("history.jsonl")
    history = lines.read_text().splitlines()
    first = listing(out / NAMES[0])
    resumed = invoke(*command(recipe, tiny_heads, out, *LOSO, "--part", "2/3", "--resume", "--json"))
    assert resumed.status == 0, resumed.err
    assert [row["part"] for row in json.loads(resumed.out)] == NAMES[1:2]
    assert listing(out / NAMES[0]) == first
    later = lines.read_text().splitlines()
    assert later[: len(history)] == history
    assert len(later) > len(history) > 0

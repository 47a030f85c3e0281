"""The command line as people use it: the whole chain, the doctor, JSON, signals, start-up."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import tomli_w
from bench import SMALL, Ended, listing, one_line, process

from harmonet.cli.train import reading_of
from harmonet.files import sha256
from harmonet.recipe import read_recipe, to_toml
from harmonet.training.checkpoint import Checkpoints

HEAVY = ("torch", "dipy", "scipy", "nibabel", "matplotlib", "pydantic")
VERBS = ("demo", "simulate", "data check", "list", "show", "compose", "train", "eval", "predict", "export", "check")
VERBS += ("plugin new",)
PLATFORMS = {"prisma_st", "connectom_st", "connectom_sa"}
# `harmonet` in a process of its own, with Ctrl-C as a terminal gives it: a background job inherits it ignored.
COMMAND = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
COMMAND += "sys.argv[0] = 'harmonet'; from harmonet.cli import main; main()"


def test_paths_with_brackets_are_shown_as_they_are(tiny_heads, tmp_path, invoke):
    missing = tmp_path / "[bold]sub[/red]" / "[1]"
    assert str(missing) in one_line(invoke("data", "check", missing))
    heads = shutil.copytree(tiny_heads / "sim01", missing / "[x]sim" / "sim01", copy_function=os.link).parent
    ended = invoke("data", "check", heads)
    assert (ended.status, "all usable" in ended.out) == (0, True)
    assert str(heads) in ended.out.replace("\n", "")


def test_the_whole_chain_from_compose_to_predicted_nifti(tiny_heads, tmp_path, invoke):
    """compose, train, eval and predict, each from what the one before has written."""
    heads, recipe, run = listing(tiny_heads), tmp_path / "new" / "recipe.toml", tmp_path / "runs" / "msp"
    words = ["--single", "diqt", "--single", "prisma_st=shresnet", "--fusion", "msp", "--tap", "shresnet=enter", *SMALL]
    composed = invoke("compose", *words, "--data", tiny_heads, "--order", 4, "--out", recipe)
    assert (composed.status, f"wrote {recipe}" in composed.err) == (0, True)
    tables = read_recipe(recipe).model_dump(exclude_none=True)
    assert tables["model"]["candidates"]["prisma_st"] == ["shresnet"]
    tables["training"] |= {"epochs": 1, "joint_epochs": 1, "patches_per_subject": 8, "validation_patches": 8}
    recipe.write_text(tomli_w.dumps(tables))

    trained = invoke("train", recipe, "--data", tiny_heads, "--out", run)
    assert (trained.status, trained.out) == (0, ""), trained.err
    assert "data: simulated" in trained.err
    assert "prisma_st: shresnet is used" in trained.err
    files = {path.name for path in run.iterdir()}
    assert files == {
        "recipe.toml",
        "weights.safetensors",
        "model.json",
        "history.jsonl",
        "curves.png",
        "checkpoints",
        ".lock",
        "providers.json",
        "inputs.json",
        "singles",
    }

    results = tmp_path / "results"
    scored = invoke("eval", run, "--data", tiny_heads, "--out", results, "--json")
    assert scored.status == 0, scored.err
    assert "Traceback" not in scored.err
    printed = json.loads(scored.out)
    assert {score["method"] for score in printed["scores"]} >= {"identity", "interpolation", "diqt", "msp, stage 1"}
    assert set(printed["platforms"]) == PLATFORMS
    assert printed["scores"] == json.loads((results / "scores.json").read_text())["scores"]
    written = {path.name for path in results.iterdir()}
    assert written == {"report.html", "scores.json", "scores.csv", "figures", "tables"}

    scan = tiny_heads / json.loads((run / "model.json").read_text())["split"]["test"][0] / "ge" / "st"
    words = ["--dwi", scan / "dwi.nii.gz", "--bval", scan / "dwi.bval", "--bvec", scan / "dwi.bvec"]
    words = ["predict", run, *words, "--mask", scan / "mask.nii.gz", "--out", tmp_path / "predicted"]
    predicted = invoke(*words)
    assert (predicted.status, predicted.out) == (0, ""), predicted.err
    kinds = ("sh.nii.gz", "sh.json", "dwi.nii.gz", "dwi.bval", "dwi.bvec", "dwi.json", "mask.nii.gz")
    expected = {f"dwi_space-{platform}_{kind}" for platform in PLATFORMS for kind in kinds}
    assert {path.name for path in (tmp_path / "predicted").iterdir()} == expected
    image = nib.load(tmp_path / "predicted" / "dwi_space-connectom_sa_sh.nii.gz")
    assert image.shape == (31, 33, 31, 15)
    assert np.abs(image.get_fdata()).max() > 0

    before = listing(tmp_path)
    assert "_sh.nii.gz exists: add --force" in invoke(*words).err.splitlines()[-1]
    again = invoke("train", recipe, "--data", tiny_heads, "--out", run)
    assert (again.status, "holds a run: add --resume" in again.err.splitlines()[-1]) == (2, True)
    assert listing(tmp_path) == before
    assert listing(tiny_heads) == heads  # no verb writes into its input


def test_resume_of_a_finished_run_says_so_and_changes_nothing(bench, invoke):
    run = shutil.copytree(bench.run, bench.root / "out")
    before = listing(run)
    ended = invoke(*bench.train("--resume"))
    assert (ended.status, f"wrote {run}" in ended.err) == (0, True)
    assert listing(run) == before


def test_an_unfinished_run_is_finished_with_resume(bench, invoke):
    """The road that the refusal of an unfinished run names."""
    out = shutil.copytree(bench.run, bench.root / "out")
    (out / "model.json").unlink()
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    assert invoke(*bench.train("--resume")).status == 0
    assert sha256(out / "weights.safetensors") == sha256(bench.run / "weights.safetensors")


@pytest.mark.parametrize(
    "words",
    [
        lambda b: b.compose("--out", b.root / "file" / "x"),
        lambda b: ["simulate", b.root / "file" / "x", "--subjects", 1, "--shape", 16, 16, 16],
        lambda b: b.train(out="file/x"),
        lambda b: b.eval(out="file/x"),
        lambda b: b.predict("--out", b.root / "file" / "x"),
    ],
    ids=["compose", "simulate", "train", "eval", "predict"],
)
def test_a_place_below_a_file_cannot_be_written_and_is_named(words, bench, invoke):
    bench.file("file", "mine")
    before = listing(bench.root)
    ended = invoke(*words(bench))
    assert (ended.status, "Traceback" in ended.err) == (2, False)
    assert re.search(r"^harmonet: .*/file.* cannot be (written|made) .*choose another", ended.err.splitlines()[-1])
    assert listing(bench.root) == before


def test_eval_replaces_nothing_but_a_report_even_when_forced(bench, invoke):
    mine = bench.file("out/thesis.txt", "precious")
    ended = invoke(*bench.eval("--force"))
    assert ended.status == 2
    assert "out exists and is no report of harmonet (it holds thesis.txt)" in ended.err.splitlines()[-1]
    assert list(mine.parent.iterdir()) == [mine]


def test_a_trained_run_can_be_composed_by_its_folder(bench, invoke):
    words = ["--single", f"prisma_st={bench.run}", "--fusion", "msp"]
    ended = invoke(*bench.compose(*words))
    assert ended.status == 0, ended.err
    assert read_recipe(bench.root / "out.toml").model.candidates["prisma_st"] == [str(bench.run)]


def test_force_removes_only_what_a_run_holds(bench, invoke):
    out = bench.unfinished()
    bench.file("begun/thesis/chapter.txt", "precious")
    ended = invoke(*bench.train("--force", recipe=out / "recipe.toml", out=out))
    assert ended.status in (0, 2)
    assert (out / "thesis" / "chapter.txt").read_text() == "precious"


def test_a_healthy_data_set_is_all_usable(tiny_heads, invoke):
    ended = invoke("data", "check", tiny_heads)
    assert ended.status == 0
    assert ended.out.splitlines()[-1] == "12 acquisitions, all usable"
    assert "data: simulated travelling heads" in ended.err
    told = json.loads(invoke("data", "check", tiny_heads, "--json").out)
    assert told["problems"] == []
    (row,) = [r for r in told["acquisitions"] if (r["subject"], r["platform"]) == ("sim02", "connectom_sa")]
    assert (row["voxels"], row["mm"], row["directions"], row["verdict"]) == (
        "31 x 33 x 31",
        "1.2 x 1.2 x 1.2",
        60,
        "usable",
    )


def test_the_doctor_names_every_problem_in_text_and_in_json(bench, invoke):
    bench.cut(bench.heads / "sim01" / "prisma" / "st" / "dwi.nii.gz")
    bench.replace(bench.heads / "sim02" / "ge" / "st" / "mask.nii.gz", bench.mask((9, 9, 9)).read_bytes())
    shutil.rmtree(bench.heads / "sim03" / "connectom" / "sa")
    before = listing(bench.root)
    ended = invoke("data", "check", bench.heads)
    problems = [line for line in ended.out.splitlines() if line.startswith("error (")]
    assert (ended.status, ended.out.splitlines()[-1]) == (1, "11 acquisitions, 2 unusable, 2 errors, 1 warning")
    for problem, words in zip(
        problems,
        (
            r"sim01/prisma/st/dwi\.nii\.gz is truncated.*copy it again",
            r"sim02/ge/st/mask\.nii\.gz has shape \(9, 9, 9\).*resample the mask",
        ),
        strict=True,
    ):
        assert re.search(words, problem)
    told = invoke("data", "check", bench.heads, "--json")
    assert told.status == 1
    assert [line.split(": ", 1)[1] for line in problems] == json.loads(told.out)["problems"]
    assert "warning (missing): sim03 lacks connectom_sa" in ended.out
    assert [r["verdict"] for r in json.loads(told.out)["acquisitions"]].count("unusable") == 2
    assert listing(bench.root) == before


def test_the_doctor_names_a_missing_table(bench, invoke):
    (bench.scan / "dwi.bval").unlink()
    ended = invoke("data", "check", bench.heads)
    assert ended.status == 1
    assert "ge/st/dwi.bval is missing beside dwi.nii.gz: copy it there" in ended.out


def test_a_missing_table_does_not_hide_the_other_problems(bench, invoke):
    (bench.heads / "sim02" / "prisma" / "st" / "dwi.bval").unlink()
    bench.cut(bench.scan / "dwi.nii.gz")
    ended = invoke("data", "check", bench.heads)
    assert ended.status == 1
    assert "dwi.bval is missing" in ended.out
    assert "is truncated" in ended.out


def test_the_doctor_says_when_there_is_no_source_to_hold_grids_against(tiny_heads, invoke):
    ended = invoke("data", "check", tiny_heads, "--source", "ge_sst")
    assert ended.status == 1
    assert "has no platform 'ge_sst'" in ended.out
    assert "name it with --source. Did you mean ge_st?" in ended.out


def test_a_mask_is_made_when_asked_and_said_so(bench, invoke):
    for mask in bench.heads.rglob("mask.nii.gz"):
        mask.unlink()
    without = invoke("data", "check", bench.heads)
    assert (without.status, without.out.count("no mask beside")) == (1, 12)
    ended = invoke("data", "check", bench.heads, "--mask", "auto")
    assert "mask: made with dipy's median_otsu" in ended.err
    assert (ended.status, "12 acquisitions, all usable" in ended.out) == (0, True)


def test_that_masks_are_made_is_told_to_whoever_listens(tmp_path, capsys):
    said = []
    assert reading_of(tmp_path, "auto", None, said.append).auto_mask
    assert said == ["mask: made with dipy's median_otsu where there is none"]
    assert capsys.readouterr() == ("", "")  # of several processes, one speaks


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(verb, invoke):
    ended = invoke(*verb.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    assert f"Example: harmonet {verb} " in " ".join(ended.out.split())


@pytest.mark.parametrize(
    "what",
    [
        ["networks"],
        ["networks", "*res*"],
        ["fusions"],
        ["representations"],
        ["connections"],
        ["losses"],
        ["weightings", "*w*"],
        ["plugins"],
    ],
    ids=" ".join,
)
def test_list_as_json_holds_what_the_table_holds(what, invoke):
    table = " ".join(invoke("list", *what).out.split())
    rows = json.loads(invoke("list", *what, "--json").out)
    assert rows
    for row in rows:
        assert (row.get("name") or row["plugin"]) in table
        assert (row.get("from") or row["package"]) in table


def test_a_pattern_that_matches_nothing_is_said_on_stderr(invoke):
    ended = invoke("list", "networks", "zebra*")
    assert (ended.status, ended.out, ended.err) == (0, "", "no networks match 'zebra*'\n")
    assert json.loads(invoke("list", "networks", "zebra*", "--json").out) == []


@pytest.mark.parametrize("name", ["tiny", "msp", "sh_signal", "two_convs", "huber", "dwa"])
def test_show_as_json_holds_what_the_table_holds(name, invoke):
    table = invoke("show", name).out
    card = json.loads(invoke("show", name, "--json").out)
    assert card["name"] == name
    for option in card["options"]:
        assert f"{option} = " in table
    for layer in card.get("layers", ()):
        assert layer["layer"] in table
        assert " x ".join(map(str, layer["size"])) in table
    assert ("layers" in card) == (card["kind"] == "network")


def test_compose_as_json_holds_what_the_tree_holds(invoke):
    words = ["compose", "--single", "diqt,shresnet", "--fusion", "msp", *SMALL]
    told = invoke(*words)
    wiring = json.loads(invoke(*words, "--json").out)
    assert len(wiring["wiring"]) == 6
    assert f"{wiring['parameters']:,} parameters" in told.err
    for wire in wiring["wiring"]:
        words = f" {wire['platform']}: {wire['network']}, candidate, "
        (row,) = [line for line in told.out.splitlines() if words in line]
        assert f"{wire['parameters']:,}" in row
        assert f"{wire['prediction'][0]} @ {' x '.join(map(str, wire['prediction'][1:]))}" in row


def test_eval_as_table_names_every_method_and_platform(tiny_run, tiny_heads, invoke):
    ended = invoke("eval", tiny_run, "--data", tiny_heads)
    assert ended.status == 0
    for word in (*PLATFORMS, "identity", "interpolation", "shresnet", "msp, stage 0", "msp, stage 1", "1 test subject"):
        assert word in ended.out
    assert "data: simulated travelling heads" in ended.err


def test_forced_outputs_are_replaced(bench, invoke):
    old = bench.file("out.toml", "old")
    assert invoke(*bench.compose("--force")).status == 0
    assert read_recipe(old).representation.options["order"] == 4


PROBE = """
import json, sys
sys.argv = ["harmonet", *sys.argv[1:]]
from harmonet.cli import main
try:
    main()
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
    ("words", "status", "light"),
    [
        (["--help"], 0, HEAVY),
        (["--version"], 0, HEAVY[:-1]),
        (["train", "--help"], 0, HEAVY[:-1]),
        (["list", "networks"], 0, HEAVY[:-1]),
        (["list", "plugins"], 0, HEAVY[:-1]),
        (["list", "weightings"], 0, HEAVY[:-1]),
        (["compose", "--single", "diqt", "--gradients", "nope"], 2, HEAVY[:-1]),
        (["list", "nonsense"], 2, HEAVY[:-1]),
        (["train", "--nope"], 2, HEAVY[:-1]),
        (["show", "nonsense"], 2, HEAVY[:-1]),
        (["data", "check", "nowhere"], 2, ("torch", "dipy", "matplotlib")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_quick_answers_do_not_import_what_is_slow(words, status, light):
    ended = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, timeout=60)
    code, modules = json.loads(ended.stdout.splitlines()[-1])
    assert code == status
    assert set(modules).isdisjoint(light)


def test_a_process_ends_with_the_status_and_keeps_stdout_for_data(tmp_path):
    bad = process("data", "check", tmp_path / "no")
    one_line(Ended(bad.returncode, bad.stdout, bad.stderr))
    good = process("list", "fusions", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert "msp" in {row["name"] for row in json.loads(good.stdout)}


def test_a_terminal_that_knows_only_ascii_gets_question_marks(tiny_heads):
    listed = process("list", "networks", PYTHONIOENCODING="ascii")
    assert (listed.returncode, "shresnet" in listed.stdout) == (0, True)
    checked = process("data", "check", tiny_heads, PYTHONIOENCODING="ascii")
    assert (checked.returncode, "b (s/mm?)" in checked.stdout) == (0, True)


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ter")]
)
def test_a_stopped_training_leaves_a_checkpoint_and_no_half_file(
    number, status, word, tiny_heads, tiny_recipe, tmp_path
):
    training = tiny_recipe.training.model_copy(update={"epochs": 100_000})
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(to_toml(tiny_recipe.model_copy(update={"training": training})))
    command = [sys.executable, "-c", COMMAND, "train", recipe, "--data", tiny_heads, "--out", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            until = time.monotonic() + 90
            while not (found := list(out.rglob("last.pt"))) and child.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            child.send_signal(number)
            printed, told = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, printed) == (status, "")
    assert told.splitlines()[-1].startswith(f"harmonet: {word}")
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("*.partial"))
    assert Checkpoints(found[0].parent).load()["at"]["steps"] > 0
    refused = process("predict", out, *[f"--{name}=x" for name in ("dwi", "bval", "bvec", "mask", "out")])
    assert refused.returncode == 2
    assert "finish it with `harmonet train --resume`" in refused.stderr

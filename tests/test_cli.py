"""The command line as people use it: the whole chain, bad input, JSON, signals, start-up."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tomli_w
import torch

from harmonet.cli import main
from harmonet.files import sha256
from harmonet.recipe import read_recipe, to_toml

HEAVY = ("torch", "dipy", "scipy", "nibabel", "matplotlib", "pydantic")
VERBS = ("demo", "simulate", "data check", "list", "show", "compose", "train", "eval", "predict")
PLATFORMS = {"prisma_st", "connectom_st", "connectom_sa"}
NOTES = ("data: simulated", "the model was trained on: simulated", "reading: ")
SMALL = ["diqt.layers=1", "diqt.widths=[4, 6]", "shresnet.blocks=1", "shresnet.width=4"]
SMALL = [word for text in SMALL for word in ("--option", text)]
# `harmonet` in a process of its own, with Ctrl-C as a terminal gives it: a background job inherits it ignored.
COMMAND = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
COMMAND += "sys.argv[0] = 'harmonet'; from harmonet.cli import main; main()"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def invoke(capsys, monkeypatch):
    """Runs `harmonet ARGS` in this process, which is left as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["harmonet", *map(str, args)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def process(*args, **environment):
    """`harmonet ARGS` as a process of its own."""
    command = [sys.executable, "-m", "harmonet", *map(str, args)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def listing(folder):
    """Every file below a folder, with what tells whether it was touched."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()}


def one_line(ended, status=2):
    """The one line that a command ended with, after nothing but notes on the data."""
    assert (ended.status, ended.out) == (status, "")
    *notes, line = ended.err.splitlines()
    assert all(note.startswith(NOTES) for note in notes), notes
    assert line.startswith("harmonet: ")
    assert line.endswith((".", "]"))
    return line


@dataclass(frozen=True, eq=False)
class Bench:
    """A place to spoil things: the data set is a copy whose files are links, so they are replaced, never written."""

    root: Path
    heads: Path
    run: Path
    recipe: Path

    @property
    def scan(self):
        return self.heads / "sim01" / "ge" / "st"

    def file(self, name, content=""):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def replace(self, path, content):
        path.unlink()
        path.write_bytes(content)
        return path

    def cut(self, path):
        return self.replace(path, path.read_bytes()[:-100])

    def mask(self, shape=(16, 17, 16), shift=0.0):
        affine = nib.load(self.scan / "dwi.nii.gz").affine.copy()
        affine[0, 3] += shift
        image = np.zeros(shape, np.uint8)
        image[4:8, 4:8, 4:8] = 1
        nib.save(nib.Nifti1Image(image, affine), self.root / "other_mask.nii.gz")
        return self.root / "other_mask.nii.gz"

    def predict(self, *more, run=None, scan=None, **files):
        scan = scan or self.scan
        found = {"dwi": "dwi.nii.gz", "bval": "dwi.bval", "bvec": "dwi.bvec", "mask": "mask.nii.gz"}
        found = {name: files.get(name, scan / file) for name, file in found.items()}
        words = [word for name, path in found.items() for word in (f"--{name}", path)]
        return ["predict", run or self.run, *words, "--out", self.root / "out", *more]

    def train(self, *more, recipe=None, heads=None, out="out"):
        return ["train", recipe or self.recipe, "--data", heads or self.heads, "--out", self.root / out, *more]

    def eval(self, *more, run=None, heads=None, out="out"):
        return ["eval", run or self.run, "--data", heads or self.heads, "--out", self.root / out, *more]

    def compose(self, *more, single="diqt"):
        return ["compose", "--single", single, *SMALL[:4], "--order", "4", "--out", self.root / "out.toml", *more]

    def unfinished(self):
        return self.file("begun/recipe.toml", self.recipe.read_text()).parent

    def misspelt(self, old, new):
        return self.file("recipe2.toml", self.recipe.read_text().replace(old, new))


@pytest.fixture
def bench(tmp_path, tiny_heads, tiny_run, tiny_recipe):
    heads = shutil.copytree(tiny_heads, tmp_path / "heads", copy_function=os.link)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(tiny_recipe))
    return Bench(tmp_path, heads, tiny_run, recipe)


BAD = {
    "predict: no such image": (lambda b: b.predict(dwi=b.root / "no.nii.gz"), "no.nii.gz does not exist: check"),
    "predict: truncated image": (lambda b: b.predict(dwi=b.cut(b.scan / "dwi.nii.gz")), "dwi.nii.gz is truncated"),
    "predict: text as image": (
        lambda b: b.predict(dwi=b.file("a.nii", "<!DOCTYPE html>")),
        "a.nii is a web page, not data: download",
    ),
    "predict: too few bvals": (
        lambda b: b.predict(bval=b.file("a.bval", "0 1200")),
        "a.bval has 2 b-values, .*dwi.nii.gz has 32 volumes",
    ),
    "predict: words in bvals": (lambda b: b.predict(bval=b.file("a.bval", "0 high")), "a.bval .* 'high' on line 1"),
    "predict: too few bvecs": (lambda b: b.predict(bvec=b.file("a.bvec", "1 0\n0 1\n0 0\n")), "a.bvec has 2 b-vectors"),
    "predict: mask of another size": (
        lambda b: b.predict(mask=b.mask((10, 10, 10))),
        r"other_mask.nii.gz has shape \(10, 10, 10\), .* resample the mask",
    ),
    "predict: mask elsewhere": (lambda b: b.predict(mask=b.mask(shift=5)), "other_mask.nii.gz lies up to 5.00 mm away"),
    "predict: no such mask": (lambda b: b.predict(mask=b.root / "no.nii"), "no.nii does not exist: check the name"),
    "predict: no such run": (lambda b: b.predict(run=b.root / "no"), "there is no run folder .*no: give a folder"),
    "predict: no run in the folder": (lambda b: b.predict(run=b.heads), "heads holds no finished run"),
    "predict: unfinished run": (lambda b: b.predict(run=b.unfinished()), "begun holds no finished run.*--resume"),
    "predict: voxels of another size": (
        lambda b: b.predict(scan=b.heads / "sim01" / "connectom" / "sa"),
        r"voxels of 1\.2 x 1\.2 x 1\.2 mm, the recipe says 2\.4",
    ),
    "predict: unknown platform": (lambda b: b.predict("--target", "prisma_sa"), "Did you mean prisma_st"),
    "predict: a name that leaves the folder": (lambda b: b.predict("--name", "../x"), "name '../x' is not a plain"),
    "eval: no such run": (lambda b: b.eval(run=b.root / "no"), "there is no run folder .*no: give a folder"),
    "eval: no run in the folder": (lambda b: b.eval(run=b.heads), "heads holds no finished run"),
    "eval: unfinished run": (lambda b: b.eval(run=b.unfinished()), "begun holds no finished run"),
    "eval: no such data": (lambda b: b.eval(heads=b.root / "no"), "no is no folder: name the data set's folder"),
    "eval: existing output": (lambda b: b.eval(out=b.file("had/it").parent), "had exists: add --force"),
    "eval: output in its input": (lambda b: b.eval(out="heads/out"), "heads/out lies in .*heads, which is only read"),
    "eval: a mask file": (lambda b: b.eval("--mask", "no.nii.gz"), "--mask 'no.nii.gz' is not understood here"),
    "train: no such data": (lambda b: b.train(heads=b.root / "no"), "no is no folder: name the data set's folder"),
    "train: empty data": (lambda b: b.train(heads=b.file("a/b").parent), "holds no acquisition: the layout is DIR/"),
    "train: no such recipe": (lambda b: b.train(recipe=b.root / "no.toml"), "no.toml cannot be read: No such file"),
    "train: no TOML": (lambda b: b.train(recipe=b.file("a.toml", "a: 1")), "a.toml is no TOML: .*line 1"),
    "train: mistyped key": (
        lambda b: b.train(recipe=b.misspelt("\nepochs", "\nepoch")),
        r"unknown key training\.epoch\. Did you mean epochs\?",
    ),
    "train: wrong type": (
        lambda b: b.train(recipe=b.misspelt("\nepochs = 2", '\nepochs = "2"')),
        r"recipe2.toml: training\.epochs: .*integer, found '2'",
    ),
    "train: existing run": (
        lambda b: b.train(out=b.unfinished()),
        "begun holds a run: add --resume to continue it, --force to replace it",
    ),
    "train: foreign output, forced": (lambda b: b.train("--force", out=b.file("had/it").parent), "had .* holds no run"),
    "train: output is a file": (lambda b: b.train(out=b.file("had")), "had is a file: choose a folder"),
    "train: output in its input": (lambda b: b.train(out="heads/out"), "heads/out lies in .*heads, which is only read"),
    "train: a mask file": (lambda b: b.train("--mask", "no.nii.gz"), "--mask 'no.nii.gz' is not understood here"),
    "compose: unknown network": (lambda b: b.compose(single="shresnett"), "Did you mean shresnet?"),
    "compose: unknown fusion": (lambda b: b.compose("--fusion", "mps"), "no fusion 'mps'. Did you mean msp?"),
    "compose: unknown target": (
        lambda b: b.compose("--fusion", "msp", "--target", "prisma_sa"),
        "'prisma_sa', which is no target. Did you mean prisma_st?",
    ),
    "compose: unknown platform": (
        lambda b: b.compose(single="prisma_sa=diqt"),
        "--single prisma_sa=diqt: 'prisma_sa' is no target platform. Did you mean prisma_st?",
    ),
    "compose: no network named": (lambda b: b.compose(single="prisma_st="), "names no network: write NAME, PLATFORM"),
    "compose: a platform without network": (
        lambda b: b.compose(single="prisma_st=diqt"),
        "no network for connectom_st, connectom_sa: add --single",
    ),
    "compose: no run in the folder": (
        lambda b: b.compose("--single", "diqt", single=f"prisma_st={b.heads}"),
        "heads",
    ),
    "compose: unknown layer": (
        lambda b: b.compose("--fusion", "msp", "--tap", "diqt=rev9"),
        "'rev9'.* Did you mean rev[0-9]",
    ),
    "compose: no layer named": (lambda b: b.compose("--tap", "diqt"), r"--tap 'diqt' names no layer: write \[PLATFORM"),
    "compose: unknown option": (lambda b: b.compose("--option", "diqt.layer=1"), "'layer'.*Did you mean layers?"),
    "compose: option of the unused": (
        lambda b: b.compose("--option", "shresnet.width=1"),
        "'shresnet', which this rec",
    ),
    "compose: half an option": (lambda b: b.compose("--option", "diqt.layers"), "'diqt.layers' is not understood"),
    "compose: odd order": (lambda b: b.compose("--order", "5"), "SH order 5 .*use 4, 6 or 8"),
    "compose: unknown preset": (lambda b: b.compose("--platforms", "cdmri2018"), "Did you mean cdmri2017?"),
    "compose: existing recipe": (
        lambda b: b.compose("--out", b.file("had.toml", "mine")),
        "had.toml exists: add --force to replace it",
    ),
    "simulate: existing output": (
        lambda b: ["simulate", b.file("had/it").parent, "--force"],
        "had exists and is not empty: it is no simulated data set, choose another folder",
    ),
    "simulate: existing heads": (lambda b: ["simulate", b.heads], "heads exists .*: add --force to replace it"),
    "simulate: unknown preset": (lambda b: ["simulate", b.root / "out", "--preset", "x"], "no preset 'x'.*cdmri2017"),
    "simulate: too small": (lambda b: ["simulate", b.root / "out", "--shape", 8, 8, 8], "at least 16 along each axis"),
    "simulate: a table without image": (
        lambda b: ["simulate", b.root / "out", "--bval", b.scan / "dwi.bval"],
        "give it with --from-dwi",
    ),
    "simulate: an image without table": (
        lambda b: ["simulate", b.root / "out", "--from-dwi", b.scan / "dwi.nii.gz"],
        "--from-dwi needs --bval, --bvec and --mask",
    ),
    "demo: existing output": (
        lambda b: ["demo", "--force", "--out", b.file("had/it").parent],
        "had exists: choose another folder",
    ),
    "show: unknown name": (lambda b: ["show", "shresnett"], "nothing is registered as 'shresnett'. Did you mean shres"),
    "show: impossible upsampling": (lambda b: ["show", "diqt", "--upsampling", 3], "diqt is built for upsampling 1 or"),
    "data check: no such folder": (lambda b: ["data", "check", b.root / "no"], "no is no folder: name the folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_helpful_line_and_nothing_on_disk(case, bench, invoke):
    words, help_ = BAD[case]
    args = words(bench)
    before = listing(bench.root)
    line = one_line(invoke(*args))
    assert re.search(help_, line), line
    assert listing(bench.root) == before
    assert not (bench.root / "out").exists()


SPOILED = {
    "a truncated image": ("prisma/st/dwi.nii.gz", lambda b, p: b.cut(p), "prisma/st/dwi.nii.gz is truncated"),
    "an image of zeros": ("ge/st/dwi.nii.gz", lambda b, p: b.replace(p, bytes(99)), "dwi.nii.gz is not gzip inside"),
    "a missing table": ("connectom/st/dwi.bval", lambda b, p: p.unlink(), "dwi.bval is missing beside dwi.nii.gz"),
    "a short table": ("ge/st/dwi.bval", lambda b, p: b.replace(p, b"0 1200"), "has 2 b-values, .* has 32 volumes"),
    "a missing mask": ("ge/st/mask.nii.gz", lambda b, p: p.unlink(), "no mask beside .*--mask auto"),
    "a foreign mask": ("ge/st/mask.nii.gz", lambda b, p: b.replace(p, b.mask((9, 9, 9)).read_bytes()), "resample the"),
    "no source platform": ("ge/st", lambda b, p: shutil.rmtree(p), r"0 subjects \(\) do not leave at least one"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_training_on_spoiled_data_names_the_file_and_leaves_no_run(case, bench, invoke):
    name, spoil, help_ = SPOILED[case]
    for path in sorted(bench.heads.rglob(name)):
        spoil(bench, path)
    before = listing(bench.root)
    line = one_line(invoke(*bench.train()))
    assert re.search(help_, line), line
    assert listing(bench.root) == before
    assert not (bench.root / "out").exists()


USAGE = {
    "an unknown option": (["list", "networks", "--nope"], "--nope"),
    "an unknown verb": (["frobnicate"], "frobnicate"),
    "an unknown kind": (["list", "netwoks"], "'networks', 'fusions'"),
    "a word for a number": (["simulate", "out", "--subjects", "two"], "'--subjects': Input should be a valid integer"),
    "a number too small": (
        ["demo", "--out", "out", "--subjects", "2"],
        "'--subjects': Input should be greater than or equal to 3",
    ),
    "a missing option": (["compose", "--fusion", "msp"], "Missing option '--single'"),
    "a missing argument": (["train", "--out", "out"], "Missing argument 'recipe'"),
    "nothing at all": ([], "Usage: "),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_ends_with_2_and_says_which_word_is_wrong(case, invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, help_ = USAGE[case]
    ended = invoke(*words)
    assert (ended.status, ended.out) == (2, "")
    assert help_ in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_run_and_a_leak_are_failures_and_end_with_1(bench, invoke):
    run = shutil.copytree(bench.run, bench.root / "run")
    facts = json.loads((run / "model.json").read_text())
    facts["split"]["test"] = facts["split"]["train"]
    (run / "model.json").write_text(json.dumps(facts))
    assert "use --allow-leak" in one_line(invoke(*bench.eval(run=run)), 1)
    bench.cut(run / "weights.safetensors")
    assert "weights.safetensors was changed or damaged" in one_line(invoke(*bench.predict(run=run)), 1)
    assert not (bench.root / "out").exists()


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
    assert {"report.html", "scores.json", "scores.csv", "figures"} == {path.name for path in results.iterdir()}

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
    problems = [line for line in ended.out.splitlines() if line.startswith("problem: ")]
    assert (ended.status, ended.out.splitlines()[-1]) == (1, "11 acquisitions, 3 problems")
    for problem, words in zip(
        problems,
        (
            r"sim01/prisma/st/dwi\.nii\.gz is truncated.*copy it again",
            r"sim02/ge/st/mask\.nii\.gz has shape \(9, 9, 9\).*resample the mask",
            r"sim03 lacks connectom_sa",
        ),
        strict=True,
    ):
        assert re.search(words, problem)
    told = invoke("data", "check", bench.heads, "--json")
    assert told.status == 1
    assert [f"problem: {problem}" for problem in json.loads(told.out)["problems"]] == problems
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


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(verb, invoke):
    ended = invoke(*verb.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    assert f"Example: harmonet {verb} " in " ".join(ended.out.split())


@pytest.mark.parametrize("what", [["networks"], ["networks", "*res*"], ["fusions"], ["representations"], ["plugins"]])
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


@pytest.mark.parametrize("name", ["tiny", "msp", "sh_signal"])
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


def test_compose_as_json_holds_what_the_table_holds(invoke):
    words = ["compose", "--single", "diqt,shresnet", "--fusion", "msp", *SMALL]
    told = invoke(*words)
    wiring = json.loads(invoke(*words, "--json").out)
    assert len(wiring["wiring"]) == 6
    assert f"{wiring['parameters']:,} parameters" in told.err
    for wire in wiring["wiring"]:
        (row,) = [line for line in told.out.splitlines() if f" {wire['platform']} " in line and wire["network"] in line]
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
    assert torch.load(found[0], weights_only=True)
    refused = process("predict", out, *[f"--{name}=x" for name in ("dwi", "bval", "bvec", "mask", "out")])
    assert refused.returncode == 2
    assert "finish it with `harmonet train --resume`" in refused.stderr

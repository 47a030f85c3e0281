"""What a user would do wrong: one helpful line, the right exit status, nothing left behind."""

import json
import re
import shutil

import pytest
from bench import listing, one_line

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
        "had exists and is no demo of harmonet: choose another folder",
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
    "a missing option": (["compose", "--fusion", "msp"], "name networks with --single"),
    "a missing argument": (["train", "--out", "out"], "Missing argument 'RECIPE'"),
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

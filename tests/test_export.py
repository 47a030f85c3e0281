"""Models that travel: whole by themselves, without names and paths, proven by their own output; bad zips refused."""

import json
import shutil
import stat
import zipfile

import pytest
import safetensors.torch
import torch

import harmonet as hn
from harmonet.build import recipe_of
from harmonet.data.layout import open_dataset
from harmonet.errors import DataError, OutputError, RunError
from harmonet.files import sha256
from harmonet.recipe import parse
from harmonet.runs.export import PARTS, TOLERANCE, export, opened, verify
from harmonet.runs.export import _checked as checked
from harmonet.runs.program import write_program
from harmonet.runs.train import train


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def travelled(tiny_run, tmp_path_factory):
    """The small run as a folder that was exported."""
    out = tmp_path_factory.mktemp("travelled") / "model"
    export(hn.load(tiny_run), out, licence="CC-BY-4.0", failures=["It is tiny."])
    return out


@pytest.fixture
def copy(travelled, tmp_path):
    return shutil.copytree(travelled, tmp_path / "copy")


def altered(folder, change):
    """Change model.json as someone would who forges the digests too."""
    path = folder / "model.json"
    facts = json.loads(path.read_text())
    change(facts)
    facts["artefacts"] = {name: sha256(folder / name) for name in facts["artefacts"]}
    path.write_text(json.dumps(facts))


def test_an_export_is_a_run_of_the_same_model(travelled, tiny_run):
    ours, theirs = hn.load(tiny_run), hn.load(travelled)
    assert sorted(path.name for path in travelled.iterdir()) == sorted(PARTS)
    x = torch.randn(1, 15, 11, 11, 11)
    for before, after in zip(ours.model(x), theirs.model(x), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert theirs.recipe.model.candidates == {name: [network] for name, network in ours.networks.items()}
    assert theirs.label == ours.label


def test_every_file_is_listed_with_its_digest(travelled):
    facts = json.loads((travelled / "model.json").read_text())
    assert facts["artefacts"] == {name: sha256(travelled / name) for name in PARTS if name != "model.json"}


def test_no_name_of_a_subject_and_no_path_travels(travelled, tiny_run, tiny_heads):
    text = "".join((travelled / name).read_text() for name in ("model.json", "recipe.toml", "README.md"))
    for secret in ("sim01", "sim02", "sim03", str(tiny_run.parent), str(tiny_heads.parent)):
        assert secret not in text
    split = hn.load(travelled).split
    assert (len(split.train), len(split.validation), len(split.test)) == (1, 1, 1)
    assert len({*split.train, *split.validation, *split.test}) == 3


def test_names_of_subjects_in_the_recipe_do_not_travel(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    recipe = run / "recipe.toml"
    recipe.write_text(
        recipe.read_text().replace("validation = 1\ntest = 1", 'validation = ["sim02"]\ntest = ["sim03"]')
    )
    altered(run, lambda facts: None)
    assert hn.load(run).recipe.split.test == ["sim03"]
    export(hn.load(run), tmp_path / "out")
    assert hn.load(tmp_path / "out").recipe.split.test == 1


@pytest.mark.parametrize(
    "words",
    [
        "Trained on: simulated travelling heads",
        "ge_st, 2.4 x 2.4 x 2.4 mm, b = 1200",
        "connectom_sa, 1.2 x 1.2 x 1.2 mm",
        "sh_signal (order 4",
        "| fusion | msp |",
        "1 trained, 1 validated, 1 held out",
        "doi:10.48550/arXiv.1907.11629",
        "- It is tiny.",
        "seen simulated heads only",
        "CC-BY-4.0",
    ],
)
def test_the_card_says_what_a_stranger_must_know(travelled, words):
    assert words in (travelled / "README.md").read_text(encoding="utf-8")


def test_simulated_data_are_named_before_anything_else(travelled):
    lines = (travelled / "README.md").read_text(encoding="utf-8").splitlines()
    assert "simulated" in [line for line in lines if line][1]


def test_members_that_were_trained_elsewhere_travel_in_the_weights(tiny_run, tiny_heads, tiny_recipe, tmp_path):
    member = shutil.copytree(tiny_run / "singles" / "connectom_sa.diqt", tmp_path / "elsewhere" / "member")
    candidates = {"prisma_st": ["shresnet"], "connectom_sa": [str(member)]}
    task = type(tiny_recipe.task)(tiny_recipe.source.platform(), tuple(map(tiny_recipe.task.target, candidates)))
    options = {"shresnet": {"blocks": 1, "width": 4}}
    tables = recipe_of(task, candidates, fusion="msp", options=options, order=4).model_dump(exclude_none=True)
    training = tiny_recipe.training.model_dump() | {"epochs": 1, "joint_epochs": 1}
    run = train(parse(tables | {"training": training}, "pinned"), open_dataset(tiny_heads), tmp_path / "run", quiet)
    export(run, tmp_path / "model.zip")
    shutil.rmtree(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    with opened(tmp_path / "model.zip") as folder:
        found = hn.load(folder)
        assert found.recipe.model.candidates["connectom_sa"] == ["diqt"]
        assert set(found.facts["validation"]["candidates"]["connectom_sa"]) == {"run member"}
        assert max(verify(found).values()) <= TOLERANCE
        assert str(tmp_path) not in (folder / "model.json").read_text() + (folder / "recipe.toml").read_text()


def test_show_verifies_an_export(travelled, invoke):
    ended = invoke("show", travelled, "--verify", "--json")
    told = json.loads(ended.out)
    assert ended.status == 0
    assert set(told["differences"]) == {"prisma_st", "connectom_st", "connectom_sa"}
    assert max(told["differences"].values()) <= told["tolerance"] == 1e-5


def shifted_weight(folder):
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    name = next(name for name, tensor in state.items() if name.startswith("singles.") and tensor.dim() == 5)
    state[name] *= 1.001
    (folder / "weights.safetensors").write_bytes(safetensors.torch.save(state))
    altered(folder, lambda facts: None)


def other_source_mean(folder):
    altered(folder, lambda facts: facts["standardisation"]["ge_st"]["mean"].__setitem__(0, 0.5))


def other_target_spread(folder):
    altered(folder, lambda facts: facts["standardisation"]["prisma_st"]["std"].__setitem__(3, 0.5))


def other_activation(folder):
    altered(folder, lambda facts: facts["options"]["prisma_st"][0].__setitem__("final_relu", True))


@pytest.mark.parametrize("damage", [shifted_weight, other_source_mean, other_target_spread, other_activation])
def test_verify_sees_what_digests_and_sizes_do_not(damage, copy, invoke):
    hn.load(copy)
    damage(copy)
    ended = invoke("show", copy, "--verify")
    assert (ended.status, "does not reproduce" in ended.err) == (1, True)


def test_verify_says_where_there_is_nothing_to_verify(tiny_run, invoke):
    ended = invoke("show", tiny_run, "--verify")
    assert (ended.status, "harmonet export" in ended.err) == (2, True)


def test_a_run_is_shown_by_its_path(tiny_run, invoke):
    ended = invoke("show", tiny_run)
    assert (ended.status, "64,384" in ended.out) == (0, True)


def test_an_expectation_of_other_sizes_is_refused(copy, invoke):
    (copy / "check.safetensors").write_bytes(safetensors.torch.save({"input": torch.zeros(2, 15, 11, 11, 11)}))
    altered(copy, lambda facts: None)
    assert invoke("show", copy, "--verify").status == 1


def test_predict_takes_a_zip_and_gives_what_the_run_gives(bench, tiny_run, tmp_path, invoke):
    assert invoke("export", tiny_run, tmp_path / "model.zip").status == 0
    image = bench.heads / "sim03" / "ge" / "st"
    asked = ["--dwi", image / "dwi.nii.gz", "--bval", image / "dwi.bval", "--bvec", image / "dwi.bvec"]
    asked += ["--mask", image / "mask.nii.gz", "--target", "prisma_st"]
    for model, out in ((tiny_run, tmp_path / "a"), (tmp_path / "model.zip", tmp_path / "b")):
        ended = invoke("predict", model, *asked, "--out", out)
        assert ended.status == 0, ended.err
    name = "dwi_space-prisma_st_dwi.nii.gz"
    assert sha256(tmp_path / "a" / name) == sha256(tmp_path / "b" / name)


def test_a_single_network_travels_too(tiny_run, tmp_path):
    export(hn.load(tiny_run / "singles" / "prisma_st.diqt"), tmp_path / "single")
    assert max(verify(hn.load(tmp_path / "single")).values()) <= TOLERANCE


def test_an_export_can_be_exported_again(travelled, tmp_path):
    export(hn.load(travelled), tmp_path / "again", licence="MIT")
    assert sha256(tmp_path / "again" / "weights.safetensors") == sha256(travelled / "weights.safetensors")


def test_the_same_run_gives_the_same_zip(tiny_run, tmp_path):
    for name in ("a.zip", "b.zip"):
        export(hn.load(tiny_run), tmp_path / name)
    assert sha256(tmp_path / "a.zip") == sha256(tmp_path / "b.zip")


def test_nothing_is_overwritten_without_force_and_nothing_foreign_with_it(copy, tiny_run, invoke):
    before = sha256(copy / "README.md")
    assert invoke("export", tiny_run, copy).status == 2
    assert sha256(copy / "README.md") == before
    assert invoke("export", tiny_run, copy, "--force").status == 0
    assert sha256(copy / "README.md") != before
    (copy / "thesis.tex").write_text("years of work")
    ended = invoke("export", tiny_run, copy, "--force")
    assert (ended.status, (copy / "thesis.tex").read_text()) == (2, "years of work")


@pytest.mark.parametrize("place", ["", "inside", "inside.zip"])
def test_nothing_is_written_into_the_run(place, tiny_run):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    with pytest.raises(OutputError, match="only read"):
        export(hn.load(tiny_run), tiny_run / place, force=True)
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_a_failed_export_leaves_what_was_there(copy, tiny_run, tmp_path):
    before = {path.name: sha256(path) for path in copy.iterdir()}
    with pytest.raises(DataError):
        export(hn.load(tiny_run), copy, scores=tmp_path / "no scores", force=True)
    assert {path.name: sha256(path) for path in copy.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def scores_of(name, label=""):
    """A scores.json as `harmonet eval` writes it, for one platform and one metric."""
    row = {"metric": "sh_mse", "against": "target", "platform": "prisma_st", "method": "msp, stage 1"}
    rows = [
        row | {"role": "interpolation", "problem": "", "n": 6, "difference": -0.25, "interval": [-0.5, -0.125]},
        row | {"role": "the best single network", "problem": "", "n": 6, "difference": 0.5, "interval": [0.25, 0.75]},
    ]
    score = {"method": "msp, stage 1", "platform": "prisma_st", "against": "target", "run": name}
    return {
        "label": label,
        "leaky": True,
        "measure": "SH coefficients",
        "subjects": ["ann", "bob"],
        "platforms": ["prisma_st"],
        "methods": [{"method": "msp, stage 1", "kind": "stage"}],
        "scores": [score | {"subject": s, "values": {"sh_mse": v}} for s, v in (("ann", 1.0), ("bob", 2.0))],
        "statistics": rows,
    }


def test_scores_enter_the_card_with_intervals_and_bad_ones_among_known_failures(tiny_run, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores_of(tiny_run.name)))
    export(hn.load(tiny_run), tmp_path / "out", scores=path)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| prisma_st | msp, stage 1 | 1.5 | 2 |" in card
    assert "| interpolation | -0.25 | -0.5 ... -0.125 | 6 |" in card
    assert "LEAKY" in card
    assert "no better than the best single network" in card
    assert "no better than interpolation" not in card
    assert "bob" not in card


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", json.dumps(scores_of("another run")).encode()])
def test_scores_of_another_run_or_of_none_are_refused(content, tiny_run, tmp_path):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="harmonet eval"):
        export(hn.load(tiny_run), tmp_path / "out", scores=path)


def entry(name, mode=stat.S_IFREG | 0o644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "members",
    [
        [(entry("/etc/evil"), b"x")],
        [(entry("../evil"), b"x")],
        [(entry("a/../../evil"), b"x")],
        [(entry("a\\..\\evil"), b"x")],
        [(entry("c:evil"), b"x")],
        [(entry("a/b/c/evil"), b"x")],
        [(entry("link", stat.S_IFLNK | 0o777), b"/etc/passwd")],
        [(entry("pipe", stat.S_IFIFO | 0o644), b"")],
        [(entry("model.json"), b"x"), (entry("MODEL.json"), b"y")],
        [(entry(f"file{number}"), b"x") for number in range(101)],
        [(entry("bomb"), bytes(4_000_000))],
    ],
    ids=lambda members: members[0][0].filename,
)
def test_a_zip_that_no_export_wrote_is_refused_before_anything_is_unpacked(members, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "place"))
    (tmp_path / "place").mkdir()
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"bad\.zip"), opened(tmp_path / "bad.zip"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.zip", "place"]


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", bytes(3_000_000))
    path.write_bytes(path.read_bytes().replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"bad\.zip"), opened(path):
        pass


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_cut_zip_is_refused(share, tiny_run, tmp_path, invoke):
    path = tmp_path / "model.zip"
    export(hn.load(tiny_run), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert invoke("show", path, "--verify").status == 2


def test_a_flipped_bit_in_a_zip_is_seen(tiny_run, tmp_path, invoke):
    path = tmp_path / "model.zip"
    export(hn.load(tiny_run), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert invoke("show", path, "--verify").status == 2


def test_a_missing_zip_is_named(tmp_path, invoke):
    ended = invoke("show", tmp_path / "no.zip")
    assert (ended.status, "no.zip" in ended.err) == (2, True)


def test_the_check_is_of_double_precision_where_the_networks_are_able(travelled):
    tensors = safetensors.torch.load_file(travelled / "check.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float64}


class OnlyFloat32(torch.nn.Module):
    """A network that makes a constant of single precision, as strangers' do."""

    def __init__(self, in_channels, out_channels, upsampling):
        super().__init__()
        self.mix = torch.nn.Linear(in_channels, out_channels)

    def forward(self, x):
        return self.mix(x.movedim(1, -1).float()).movedim(-1, 1)


def test_a_network_of_single_precision_travels_too(tiny_run, tmp_path):
    run = hn.load(tiny_run / "singles" / "prisma_st.diqt")
    run.model.singles["prisma_st"] = OnlyFloat32(15, 15, 1)
    tensors = checked(run)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_program_gives_what_the_model_gives_for_any_number_of_patches(tiny_run, tmp_path):
    run = hn.load(tiny_run)
    platforms = write_program(run, tmp_path / "model.pt2")
    edge = run.recipe.model.patch_size
    for number in (1, 3):
        x = torch.randn(
            number, run.representation.channels, edge, edge, edge, generator=torch.Generator().manual_seed(1)
        )
        with torch.no_grad():
            expected = hn.answers(run.model(x))
            given = torch.export.load(tmp_path / "model.pt2").module()(x)  # our own file, made a moment ago
        assert set(platforms) == set(expected)
        for platform, y in zip(platforms, given, strict=True):
            assert torch.allclose(y, expected[platform], atol=1e-5), platform


@pytest.mark.parametrize(("name", "words"), [("model.zip", "names no program"), ("old.pt2", "exists: add --force")])
def test_a_program_is_not_written_where_it_should_not_be(name, words, tiny_run, tmp_path):
    (tmp_path / "old.pt2").write_bytes(b"mine")
    with pytest.raises(OutputError, match=words):
        write_program(hn.load(tiny_run), tmp_path / name)
    assert (tmp_path / "old.pt2").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_json_without_what_is_needed_is_named(copy):
    facts = json.loads((copy / "model.json").read_text())
    del facts["providers"]
    (copy / "model.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match=r"is damaged \(no providers\): copy the run"):
        hn.load(copy)

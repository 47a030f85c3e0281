"""The doctor finds every planted fault, says it in one sentence, and is content with a healthy data set."""

import json
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from faults import FAULTS, SET_FAULTS, image, moved
from test_orientation import written

import harmonet.data.doctor
from harmonet.data.doctor import COLUMNS, Check, diagnose
from harmonet.data.doctor.single import highest_order
from harmonet.data.orientation import AxisMap
from harmonet.data.simulate import spread_directions

ROOT = Path(__file__).resolve().parent.parent


def examined(root, **settings):
    return diagnose(root, **{"source": "ge_st", "watch": lambda *_: None} | settings)


@pytest.fixture
def heads(tiny_heads, tmp_path):
    """Three subjects on two platforms, to be spoilt."""
    root = tmp_path / "heads"
    shutil.copytree(tiny_heads, root, ignore=shutil.ignore_patterns("connectom", "truth.nii.gz"))
    return root


def serious(diagnosis):
    return [finding for finding in diagnosis.findings if finding.level != "note"]


def found(diagnosis, fault):
    """The finding that a fault must make."""
    (finding,) = [
        f
        for f in diagnosis.findings
        if (f.level, f.check) == (fault.level, fault.check) and re.search(fault.words, f.sentence)
    ][:1] or [None]
    assert finding, [str(f) for f in diagnosis.findings]
    return finding


def test_a_healthy_data_set_has_notes_at_most(tiny_heads):
    diagnosis = examined(tiny_heads)
    assert serious(diagnosis) == []
    assert {f.check for f in diagnosis.findings} == {"axes", "orientation"}
    assert {row.verdict for row in diagnosis.rows} == {"usable"}
    assert (diagnosis.healthy, diagnosis.verdict) == (True, "12 acquisitions, all usable")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found_and_only_there(heads, fault):
    folder = heads / "sim03" / "prisma" / "st"
    fault.plant(folder)
    diagnosis = examined(heads)
    finding = found(diagnosis, fault)
    if fault.file:
        assert finding.file == folder / fault.file
    assert {f.check for f in serious(diagnosis)} <= {fault.check, *fault.also}
    assert "\n" not in str(finding)
    assert finding.sentence.endswith(".")
    verdicts = {(row.subject, row.platform): row.verdict for row in diagnosis.rows}
    verdict = {"error": "unusable", "warning": "doubtful", "note": "usable"}[fault.level]
    assert verdicts.pop(("sim03", "prisma_st"), verdict) == verdict
    assert set(verdicts.values()) == {"usable"}
    assert diagnosis.healthy == (fault.level != "error")


@pytest.mark.parametrize("fault", SET_FAULTS.values(), ids=SET_FAULTS)
def test_a_fault_of_the_whole_data_set_is_found(heads, fault):
    fault.plant(heads)
    diagnosis = examined(heads)
    found(diagnosis, fault)
    assert {f.check for f in serious(diagnosis)} <= {fault.check, *fault.also}
    assert diagnosis.healthy == (fault.level != "error")


def test_faults_do_not_hide_each_other(tiny_heads, tmp_path):
    """A fault in each of the acquisitions, but for one subject's, with which platforms are compared."""
    root = shutil.copytree(tiny_heads, tmp_path / "heads", ignore=shutil.ignore_patterns("truth.nii.gz"))
    for number in (1, 2, 3):  # other subjects, as far as their voxels go
        other = shutil.copytree(root / f"sim0{number}", root / f"sim0{number + 3}")
        for path in other.rglob("dwi.nii.gz"):
            image(path.parent, lambda values, _: values * 1.25)
    folders = sorted(path.parent for path in root.glob("sim0[2-6]/*/*/mask.nii.gz"))
    alone = [fault for fault in FAULTS.values() if fault.check not in ("grid", "platform") and not fault.also]
    planted = list(zip(folders, alone, strict=False))
    assert len(planted) == 20
    for folder, fault in planted:
        fault.plant(folder)
    diagnosis = examined(root)
    for folder, fault in planted:
        subject, scanner, protocol = folder.parts[-3:]
        here = [f for f in diagnosis.findings if (f.subject, f.platform) == (subject, f"{scanner}_{protocol}")]
        same = [f for f in here if (f.level, f.check) == (fault.level, fault.check)]
        assert any(re.search(fault.words, f.sentence) for f in same), (folder, fault)
        assert all(f.file == folder / fault.file for f in same if fault.file), (folder, fault)
    assert len(diagnosis.of("error")) == sum(fault.level == "error" for _, fault in planted)


def test_reversed_b_vectors_are_found(heads):
    for subject in ("A", "B", "C"):
        spoil = AxisMap(reversed=0) if subject == "B" else AxisMap()
        written(heads / subject / "ge" / "st", spoil=spoil, seed=ord(subject))
    for folder in heads.glob("sim*"):
        shutil.rmtree(folder)
    diagnosis = examined(heads)
    (error,) = diagnosis.of("error")
    assert (error.check, error.subject, error.file) == ("orientation", "B", heads / "B" / "ge" / "st" / "dwi.bvec")
    assert "x is reversed" in error.sentence
    assert [f for f in diagnosis.of("note") if f.check == "orientation"] == []


def test_a_half_voxel_shift_at_ratio_two_is_found(tiny_heads, tmp_path):
    root = shutil.copytree(tiny_heads, tmp_path / "heads", ignore=shutil.ignore_patterns("prisma", "truth.nii.gz"))
    moved([0.6, 0.6, 0.6])(root / "sim02" / "connectom" / "sa")
    (warning,) = serious(examined(root))
    assert (warning.level, warning.check, warning.subject) == ("warning", "grid", "sim02")
    assert "resampled" in warning.sentence


@pytest.mark.parametrize(("fault", "level"), [("oblique grids", "warning"), ("another place in the world", "error")])
def test_a_damaged_source_does_not_hide_that_grids_lie_apart(heads, fault, level):
    FAULTS["a flipped bit"].plant(heads / "sim03" / "ge" / "st")
    FAULTS[fault].plant(heads / "sim03" / "prisma" / "st")
    told = [(f.level, f.check, f.platform) for f in serious(examined(heads))]
    assert told == [("error", "voxels", "ge_st"), (level, "grid", "prisma_st")]


@pytest.mark.parametrize(("scanner", "use"), [("ge", "cannot be used without the source"), ("prisma", "is used for")])
def test_what_becomes_of_a_subject_who_lacks_a_platform_is_told(heads, scanner, use):
    shutil.rmtree(heads / "sim02" / scanner)
    (warning,) = [f for f in examined(heads).of("warning") if f.check == "missing"]
    assert use in warning.sentence


def test_all_headers_are_looked_at_before_any_image(heads):
    seen = []
    examined(heads, watch=lambda what, done, total, _: seen.append((what, done, total)))
    assert seen == [("headers", n, 6) for n in range(1, 7)] + [("images", n, 6) for n in range(1, 7)]


def test_a_mask_is_made_where_that_is_asked_for(heads):
    for mask in heads.rglob("mask.nii.gz"):
        mask.unlink()
    assert len(examined(heads).of("error")) == 6
    assert examined(heads, auto_mask=True).healthy


@pytest.mark.parametrize(("order", "warned"), [(4, 0), (6, 0), (8, 6)])
def test_an_order_that_directions_do_not_carry_is_a_warning(heads, order, warned):
    warnings = examined(heads, order=order).of("warning")
    assert [f.check for f in warnings] == ["directions"] * warned


@pytest.mark.parametrize(("n", "order"), [(5, 0), (6, 2), (14, 2), (20, 4), (30, 6), (60, 8)])
def test_directions_carry_the_order_that_their_number_allows(n, order):
    assert highest_order(spread_directions(n, 0)) == order


def test_directions_and_their_opposites_count_once():
    half = spread_directions(15, 0)
    assert highest_order(np.vstack([half, -half])) == 4


def test_the_table_tells_what_was_scanned(tiny_heads):
    row = next(r for r in examined(tiny_heads).rows if (r.subject, r.platform) == ("sim02", "prisma_st"))
    assert row.as_json() == dict(
        zip(
            COLUMNS,
            (
                "sim02",
                "prisma_st",
                "16 x 17 x 16",
                "2.4 x 2.4 x 2.4",
                "LAS",
                "30 x 1200",
                30,
                6,
                3,
                "89 / -",
                row.mask,
                "usable",
            ),
            strict=True,
        )
    )
    assert re.fullmatch(r"\d\d%", row.mask)


def test_the_whole_diagnosis_is_json(heads):
    shutil.rmtree(heads / "sim02" / "prisma")
    FAULTS["a flipped bit"].plant(heads / "sim03" / "ge" / "st")
    told = json.loads(json.dumps(examined(heads).as_json()))
    assert (told["healthy"], told["missing"]) == (False, {"sim02": ["prisma_st"]})
    assert told["problems"] == [f["sentence"] for f in told["findings"] if f["level"] == "error"]
    assert [f["level"] for f in told["findings"]] == sorted(
        (f["level"] for f in told["findings"]), key="error warning note".index
    )
    assert told["findings"][0]["file"] == str(heads / "sim03" / "ge" / "st" / "dwi.nii.gz")
    assert told["verdict"].startswith("5 acquisitions, 1 unusable, 1 error, ")


def test_every_check_stands_in_the_reference():
    page = (ROOT / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(set(rows)) == sorted(get_args(Check))


def test_every_check_can_find_something():
    assert {f.check for f in (*FAULTS.values(), *SET_FAULTS.values())} | {"orientation", "axes"} == set(get_args(Check))


def test_the_doctor_keeps_no_reader_of_its_own():
    """Whatever is refused must be refused by what every verb calls."""
    folder = Path(harmonet.data.doctor.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert "raise " not in text
    assert "open(" not in text

"""Checkpoints: one whole state is there at any instant, damage is found, nothing is executed."""

import hashlib
import io

import pytest
import torch

from harmonet.errors import OutputError, RunError
from harmonet.training.checkpoint import BEFORE, LAST, MAGIC, NEXT, Checkpoints


def state(number):
    return {"weights": torch.full((1000,), float(number)), "number": number}


@pytest.fixture
def kept(tmp_path):
    said = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", said.append)
    checkpoints.said = said
    return checkpoints


def test_the_newest_state_comes_back(kept):
    assert kept.load() is None
    for number in range(3):
        kept.save(state(number))
        assert kept.load()["number"] == number
    assert sorted(path.name for path in kept.folder.iterdir()) == [BEFORE, LAST]
    assert torch.equal(kept.load()["weights"], state(2)["weights"])
    assert kept.said == []


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "foreign", "text"])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(kept, damage):
    kept.save(state(1))
    kept.save(state(2))
    last = kept.folder / LAST
    content = last.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    wrong = {"cut": content[:middle], "empty": b"", "bit": flipped, "foreign": content[5:], "text": b"hello"}
    last.write_bytes(wrong[damage])
    assert kept.load()["number"] == 1
    assert len(kept.said) == 1
    assert "last.pt" in kept.said[0]
    assert "is damaged: training goes on from the one before" in kept.said[0]


def test_where_every_state_is_damaged_nothing_is_trained_on(kept):
    for number in range(2):
        kept.save(state(number))
    for path in kept.folder.iterdir():
        path.write_bytes(b"no")
    with pytest.raises(RunError, match=r"last\.pt .* and .*before\.pt .*: delete .* to train that part again"):
        kept.load()


def test_a_kill_between_the_two_renames_loses_nothing(kept):
    kept.save(state(1))
    kept.save(state(2))
    (kept.folder / LAST).rename(kept.folder / NEXT)  # as after a kill before the second rename
    assert kept.load()["number"] == 2
    kept.save(state(3))
    assert kept.load()["number"] == 3


def test_what_a_killed_write_left_is_swept(kept):
    kept.save(state(1))
    stray = kept.folder / ".last.pt.123.partial"
    stray.write_bytes(b"half")
    assert kept.load()["number"] == 1
    assert not stray.exists()


def test_a_state_that_could_run_code_is_not_loaded(kept, monkeypatch, capsys):
    class Bad:
        def __reduce__(self):
            return (print, ("executed",))

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    buffer = io.BytesIO()
    torch.save({"model": Bad()}, buffer)
    kept.folder.mkdir()
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    (kept.folder / LAST).write_bytes(MAGIC + digest + b"\n" + buffer.getvalue())
    with pytest.raises(RunError, match="holds more than data"):
        kept.load()
    assert "executed" not in capsys.readouterr().out


def test_a_place_that_cannot_be_written_keeps_the_last_state(kept):
    kept.save(state(1))
    (kept.folder / f".{NEXT}").mkdir()
    (kept.folder / NEXT).mkdir()  # a folder where the file is to go
    with pytest.raises(OutputError, match="cannot be written"):
        kept.save(state(2))
    (kept.folder / NEXT).rmdir()
    assert kept.load()["number"] == 1

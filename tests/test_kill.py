"""Exact resume: killed, stopped, out of space or damaged anywhere, a run ends with the bits of an uninterrupted one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from harmonet.build import recipe_of
from harmonet.platforms import preset
from harmonet.recipe import parse, to_toml
from harmonet.runs.lock import locked
from harmonet.training.checkpoint import BEFORE, LAST, Checkpoints
from harmonet.training.stopping import deferred

if sys.platform == "win32":
    pytest.skip("signals and fork are those of POSIX", allow_module_level=True)

OPTIONS = {"fcsnet": {"widths": [4, 4, 4, 4], "dropout": 0.3}, "diqt": {"layers": 1, "widths": [4, 6]}}
TRAINING = {
    "epochs": 2,
    "joint_epochs": 2,
    "patches_per_subject": 12,
    "validation_patches": 8,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "augment": "flips",
    "checkpoint_minutes": 1e-6,  # a checkpoint after each step
}

# A process that has imported what takes long, and then forks one that trains for each line: what to do before, and the
# words of the command. A process of its own, since pytest's has threads.
WORKSHOP = """
import json, os, signal, sys
from pathlib import Path
from matplotlib.figure import Figure
import scipy.special, torch._dynamo  # which a training imports
import harmonet.runs.train
from harmonet.cli import main
# Drawing takes longer than all else together, and is not what is tried here; a file of that size is.
Figure.savefig = lambda self, file, **_: file.write(bytes(40_000))
for line in sys.stdin:
    before, words, told = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(told, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        sys.argv = ["harmonet", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
        exec(before)
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# What is done before a training, with PLACE, TIME and N.
KILL_AT_RENAME = """
times = []
def replace(source, target, real=os.replace):
    if str(target).endswith(PLACE):
        times.append(target)
        if len(times) == TIME:
            if ".partial" in str(source):
                os.truncate(source, os.path.getsize(source) // 2)  # killed while writing, as far as the disk knows
            os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target)
os.replace = replace
"""
IN_STEP = """
from harmonet.cli.console import Progress
def tell(self, what, done, total, words="", told=Progress.__call__):
    told(self, what, done, total, words)
    if what.startswith("fcsnet") and done == 2:
        DO
Progress.__call__ = tell
"""
SIGNAL_IN_STEP = IN_STEP.replace("DO", "os.kill(os.getpid(), N)")
SECOND_TRAINING_IN_STEP = IN_STEP.replace(
    "DO",
    """
        import subprocess
        words = [sys.executable, "-m", "harmonet", *sys.argv[1:], "--force"]
        second = subprocess.run(words, capture_output=True, text=True)
        print("second:", second.returncode, second.stderr.splitlines()[-1], file=sys.stderr)""",
)
SIGNAL_IN_LAST_VALIDATION = """
from harmonet.training import loop
times = []
def validate(*words, real=loop.validate):
    times.append(1)
    if len(times) == 2:
        os.kill(os.getpid(), N)
        print("went on", file=sys.stderr)
    return real(*words)
loop.validate = validate
"""
SECOND_SIGNAL_WHILE_SAVING = """
from harmonet.training.checkpoint import Checkpoints
save = Checkpoints.save
def saves(self, state):
    os.kill(os.getpid(), N)
    os.kill(os.getpid(), N)
    print("went on", file=sys.stderr)
    save(self, state)
Checkpoints.save = saves
"""
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (N, N))
"""


@dataclass(frozen=True, eq=False)
class Workshop:
    """Trains in processes of their own."""

    process: subprocess.Popen
    heads: Path
    root: Path

    def train(self, recipe, out, *more, before="", **words_of_before):
        """Exit status of a training, negative where a signal killed it, and what it told."""
        words = ["train", recipe, "--data", self.heads, "--out", out, *more]
        told = self.root / "told.txt"
        before = "".join(f"{name} = {value!r}\n" for name, value in words_of_before.items()) + before
        self.process.stdin.write(json.dumps([before, [str(word) for word in words], str(told)]) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return status, told.read_text()


@pytest.fixture(scope="module")
def workshop(tiny_heads, tmp_path_factory):
    root = tmp_path_factory.mktemp("workshop")
    command = [sys.executable, "-c", WORKSHOP]
    environment = os.environ | {"HARMONET_CACHE": str(root / "cache")}  # what was read is not read again
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Workshop(process, tiny_heads, root)
        process.stdin.close()


def written(folder, candidates, fusion, **training):
    """A recipe in the folder."""
    task = preset("cdmri2017")
    tables = recipe_of(task, {name: ["diqt"] for name in task.target_names}, fusion="msp")
    tables = tables.model_dump(exclude_none=True)
    tables["target"] = [table for table in tables["target"] if table["name"] in candidates]
    tables["representation"]["options"]["order"] = 2
    tables["model"] = {"candidates": candidates, "patch_size": 7, "options": OPTIONS}
    if fusion:
        tables["model"] |= {"fusion": fusion, "refine": list(candidates)}
    path = folder / "recipe.toml"
    path.write_text(to_toml(parse(tables | {"training": TRAINING | training}, "tiny")))
    return path


@pytest.fixture(scope="module")
def composed(workshop, tmp_path_factory):
    """A recipe of two networks, one with dropout, and their composition; the run of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("composed")
    recipe = written(folder, {"prisma_st": ["fcsnet"], "connectom_sa": ["diqt"]}, "msp")
    assert workshop.train(recipe, folder / "run")[0] == 0
    return recipe, folder / "run"


@pytest.fixture(scope="module")
def single(workshop, tmp_path_factory):
    """A recipe of one network with dropout, without checkpoints inside epochs; the run of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("single")
    recipe = written(folder, {"prisma_st": ["fcsnet"]}, None, checkpoint_minutes=60)
    assert workshop.train(recipe, folder / "run")[0] == 0
    return recipe, folder / "run"


def outcome(run):
    """What must be equal in two runs: every network's weights to the bit, and history but for times."""
    weights = {path.relative_to(run): path.read_bytes() for path in run.rglob("weights.safetensors")}
    lines = {
        path.relative_to(run): [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]
        for path in run.rglob("history.jsonl")
    }
    return weights, lines


def assert_same(run, other):
    weights, lines = outcome(run)
    others, other_lines = outcome(other)
    assert lines == other_lines
    assert weights.keys() == others.keys()
    assert [name for name, content in weights.items() if content != others[name]] == []
    assert not list(other.rglob("*.partial"))


def state_of(run):
    """The state in the checkpoint of the single network."""
    return Checkpoints(run / FIRST / "checkpoints").load()


FIRST = "singles/prisma_st.fcsnet"
PLACES = [  # what is being written, and for which time
    ("out/recipe.toml", 1),
    (f"{FIRST}/checkpoints/next.pt", 2),
    (f"{FIRST}/checkpoints/before.pt", 2),
    (f"{FIRST}/checkpoints/last.pt", 2),
    (f"{FIRST}/checkpoints/next.pt", 1),
    (f"{FIRST}/weights.safetensors", 1),
    ("singles/connectom_sa.diqt/history.jsonl", 1),
    ("singles/connectom_sa.diqt/model.json", 1),
    ("out/history.jsonl", 1),  # before the composition
    ("out/checkpoints/last.pt", 3),
    ("out/weights.safetensors", 1),
    ("out/model.json", 1),
]


def test_a_run_that_is_killed_wherever_it_writes_ends_with_the_same_bits(workshop, composed, tmp_path):
    recipe, run = composed
    for place, time_ in PLACES:
        status, told = workshop.train(
            recipe, tmp_path / "out", "--resume", before=KILL_AT_RENAME, PLACE=place, TIME=time_
        )
        assert status == -signal.SIGKILL, (place, told)
    status, told = workshop.train(recipe, tmp_path / "out", "--resume")
    assert status == 0, told
    assert_same(run, tmp_path / "out")


def test_a_process_that_is_killed_at_a_random_moment_is_resumed_to_the_same_bits(workshop, composed, tmp_path):
    recipe, run = composed
    out, moment = tmp_path / "out", random.SystemRandom().uniform(0, 1.5)
    command = [sys.executable, "-m", "harmonet", "train", recipe, "--data", workshop.heads, "--out", out]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 90
        while not list(out.rglob(LAST)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(moment)
        process.kill()
    status, told = workshop.train(recipe, out, "--resume")
    assert status == 0, (moment, told)
    assert_same(run, out)


def test_force_replaces_what_a_kill_left_before_the_recipe_was_written(workshop, single, tmp_path):
    recipe, run = single
    workshop.train(recipe, tmp_path / "out", before=KILL_AT_RENAME, PLACE="recipe.toml", TIME=1)
    assert list((tmp_path / "out").glob("*.partial"))
    status, told = workshop.train(recipe, tmp_path / "out", "--force")
    assert status == 0, told
    assert_same(run, tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_within_a_step_with_a_checkpoint_and_the_run_resumes_to_the_same_bits(
    number, workshop, single, tmp_path
):
    recipe, run = single
    status, told = workshop.train(recipe, tmp_path / "out", before=SIGNAL_IN_STEP, N=int(number))
    assert (status, "Traceback" in told) == (128 + number, False)
    assert "with --resume goes on from there" in told.splitlines()[-1]
    assert state_of(tmp_path / "out")["at"]["steps"] == 2
    assert workshop.train(recipe, tmp_path / "out", "--resume")[0] == 0
    assert_same(run, tmp_path / "out")


def test_a_signal_does_not_wait_for_a_validation_nor_is_it_forgotten_after_the_last(workshop, single, tmp_path):
    recipe, run = single
    status, told = workshop.train(recipe, tmp_path / "out", before=SIGNAL_IN_LAST_VALIDATION, N=int(signal.SIGTERM))
    assert (status, "went on" in told) == (143, False)
    at = state_of(tmp_path / "out")["at"]
    assert (at["epoch"], at["step"], at["steps"]) == (1, 3, 6)
    assert workshop.train(recipe, tmp_path / "out", "--resume")[0] == 0
    assert_same(run, tmp_path / "out")


def test_a_second_signal_ends_at_once(workshop, single, tmp_path):
    recipe, run = single
    before = SECOND_SIGNAL_WHILE_SAVING
    status, told = workshop.train(recipe, tmp_path / "out", before=before, N=int(signal.SIGTERM))
    assert (status, "went on" in told) == (143, False)
    assert state_of(tmp_path / "out") is None
    assert workshop.train(recipe, tmp_path / "out", "--resume")[0] == 0
    assert_same(run, tmp_path / "out")


def test_a_signal_that_nobody_asked_for_is_not_forgotten():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, deferred():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_training_in_a_folder_is_refused_and_the_first_is_unharmed(workshop, single, tmp_path):
    recipe, run = single
    status, told = workshop.train(recipe, tmp_path / "out", before=SECOND_TRAINING_IN_STEP)
    (second,) = [line for line in told.splitlines() if line.startswith("second:")]
    assert second.startswith(f"second: 2 harmonet: another process trains in {tmp_path / 'out'}: wait for it to end")
    assert status == 0
    assert_same(run, tmp_path / "out")


def test_a_training_is_refused_where_the_lock_is_held_and_goes_on_when_it_is_free(workshop, single, tmp_path):
    recipe, run = single
    assert workshop.train(recipe, tmp_path / "out", before=SIGNAL_IN_STEP, N=int(signal.SIGTERM))[0] == 143
    with locked(tmp_path / "out"):
        status, told = workshop.train(recipe, tmp_path / "out", "--resume")
    assert (status, "another process trains in" in told.splitlines()[-1]) == (2, True)
    assert workshop.train(recipe, tmp_path / "out", "--resume")[0] == 0
    assert_same(run, tmp_path / "out")


def refused(status, told, words):
    """Whether a training ended with one sentence, and exit status 2."""
    return status == 2 and "Traceback" not in told and words in told.splitlines()[-1]


def test_a_checkpoint_that_finds_no_space_ends_with_a_sentence_and_the_last_one_is_intact(workshop, single, tmp_path):
    recipe, run = single
    out = tmp_path / "out"
    assert workshop.train(recipe, out, before=SIGNAL_IN_STEP, N=int(signal.SIGTERM))[0] == 143
    small = (out / FIRST / "checkpoints" / LAST).stat().st_size // 2
    told = workshop.train(recipe, out, "--resume", before=SMALL_FILES, N=small)
    assert refused(*told, "next.pt cannot be written (File too large): free space there"), told
    assert state_of(out)["at"]["steps"] == 2
    assert workshop.train(recipe, out, "--resume")[0] == 0
    assert_same(run, out)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("a disk of one megabyte can be mounted by root alone")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_ends_with_a_sentence_wherever_it_is_found_full(workshop, single, small_disk):
    recipe, run = single
    filler = small_disk / "filler"
    for free in (0, 12, 40, 96):  # KiB: less than a recipe, less than a checkpoint, and so on
        filler.unlink(missing_ok=True)
        disk = os.statvfs(small_disk)
        filler.write_bytes(bytes(max(disk.f_bavail * disk.f_frsize - free * 1024, 0)))
        told = workshop.train(recipe, small_disk / "out", "--resume")
        assert refused(*told, "cannot be written (No space left on device): free space"), (free, told)
    filler.unlink()
    assert workshop.train(recipe, small_disk / "out", "--resume")[0] == 0
    assert_same(run, small_disk / "out")


def test_checkpoints_that_cannot_be_written_are_named_and_written_when_they_can(workshop, single, tmp_path):
    recipe, run = single
    place = tmp_path / "out" / FIRST / "checkpoints"
    workshop.train(recipe, tmp_path / "out", before=KILL_AT_RENAME, PLACE="next.pt", TIME=1)
    shutil.rmtree(place)
    place.write_text("a file")
    told = workshop.train(recipe, tmp_path / "out", "--resume")
    assert refused(*told, f"{place} cannot be made (File exists): choose another place"), told
    place.unlink()
    assert workshop.train(recipe, tmp_path / "out", "--resume")[0] == 0
    assert_same(run, tmp_path / "out")


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_with_the_same_bits(workshop, composed, tmp_path):
    recipe, run = composed
    place = tmp_path / "out" / FIRST / "checkpoints"
    workshop.train(recipe, tmp_path / "out", before=KILL_AT_RENAME, PLACE="next.pt", TIME=4)
    content = bytearray((place / LAST).read_bytes())
    content[len(content) // 2] ^= 1
    (place / LAST).write_bytes(content)
    status, told = workshop.train(recipe, tmp_path / "out", "--resume")
    assert f"checkpoint {place / LAST} (its digest does not match) is damaged: training goes on from the one" in told
    assert status == 0
    assert_same(run, tmp_path / "out")
    assert (place / "last.bad").read_bytes() == content


def test_a_damaged_checkpoint_never_takes_the_place_of_the_whole_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in range(2):
        checkpoints.save({"number": number})
    for wrong in (1, 2):
        (tmp_path / LAST).write_bytes(b"no")
        again = Checkpoints(tmp_path)
        assert again.load() == {"number": 0}
        again.save({"number": wrong})
    assert Checkpoints(tmp_path).load() == {"number": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEFORE, "last.bad", LAST]

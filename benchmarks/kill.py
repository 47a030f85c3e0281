"""Kills a training again and again, and compares what it ends with to an uninterrupted one, bit for bit.

    python benchmarks/kill.py [--kills 30] [--seed N]

Every training is a process, forked from this one, which has imported what takes long, and runs the command line. It is
killed (SIGKILL) at a random time, or in the writing of one file after the other, half of which is then on disk; resumed
with --resume until it ends, and begun anew until there were so many kills. Two networks, one with dropout, their
composition, turned patches, weights of the loss that are learned, a checkpoint after each step.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import timing  # noqa: F401  first: sets the number of threads

# isort: split
import torch
from matplotlib.figure import Figure

import harmonet.runs.train  # noqa: F401  what takes long
from harmonet.build import recipe_of
from harmonet.cli import main as command_line
from harmonet.data.simulate import simulate
from harmonet.platforms import preset
from harmonet.recipe import parse, to_toml
from harmonet.training.checkpoint import Checkpoints

OPTIONS = {"fcsnet": {"widths": [4, 4, 4, 4], "dropout": 0.3}, "diqt": {"layers": 1, "widths": [4, 6]}}
CANDIDATES = {"prisma_st": ["fcsnet"], "connectom_sa": ["diqt"]}
TRAINING = {"epochs": 3, "joint_epochs": 3, "patches_per_subject": 20, "validation_patches": 8, "batch_size": 4}
TRAINING |= {"learning_rate": 1e-3, "augment": "octahedral", "checkpoint_minutes": 1e-6}
SAVED = ["history.jsonl", "checkpoints/next.pt", "checkpoints/last.pt", "checkpoints/before.pt"]
SAVED += ["weights.safetensors", "model.json"]
FILES = [f"singles/{name}/{file}" for name in ("prisma_st.fcsnet", "connectom_sa.diqt") for file in SAVED]
FILES = ["out/recipe.toml", "out/inputs.json", *FILES, *(f"out/{file}" for file in SAVED)]  # as they are written
BY_TIME, IN_WRITING = "at a random time", "while writing"


def written(folder: Path) -> Path:
    """The recipe."""
    task = preset("cdmri2017")
    tables = recipe_of(task, {name: ["diqt"] for name in task.target_names}, fusion="msp").model_dump(exclude_none=True)
    tables["target"] = [table for table in tables["target"] if table["name"] in CANDIDATES]
    tables["representation"]["options"]["order"] = 2
    tables["model"] = {"candidates": CANDIDATES, "patch_size": 7, "options": OPTIONS}
    tables["model"] |= {"fusion": "msp", "refine": list(CANDIDATES)}
    path = folder / "recipe.toml"
    path.write_text(
        to_toml(parse(tables | {"training": TRAINING, "loss": {"weighting": "uncertainty"}}, "of this file"))
    )
    return path


def kill_in(file: str, times: int) -> None:
    """Let this process end with half of a file, when it has been written so many times."""
    real, left = os.replace, [times]

    def replace(source: Path, target: Path) -> None:
        left[0] -= str(target).endswith(file)
        if not left[0]:
            if str(source).endswith(".partial"):
                os.truncate(source, Path(source).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace


def begun(words: list[str], log: Path, at: tuple[str, int] | None = None) -> int:
    """The process of a training, which is killed in the writing of a file, and for which time."""
    child = os.fork()
    if not child:
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        if at:
            kill_in(*at)
        sys.argv = ["harmonet", *words]
        command_line()
    return child


def ended(child: int) -> int:
    """Its exit status; negative where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def place(out: Path) -> str:
    """Where a training was when it was killed, by what it has left."""
    partial = [*out.rglob(".*.partial"), *out.rglob("next.pt")]
    if any(path.parent.name == "checkpoints" for path in partial):
        return "writing a checkpoint"
    if not (out / "inputs.json").exists():
        return "reading the data, or beginning the run"
    open_ = [out / "singles" / name for name in ("prisma_st.fcsnet", "connectom_sa.diqt")]
    open_ = [folder for folder in open_ if not (folder / "model.json").exists()]
    folder = open_[0] if open_ else out
    part = "pre-training" if open_ else "joint training"
    if (folder / "model.json").exists():
        return "after the run was written"
    if (folder / "weights.safetensors").exists() or any(path.name.startswith(".weights") for path in partial):
        return "writing the run" if folder is out else "writing a single network's run"
    if not (folder / "checkpoints").exists():
        begins = open_ and folder.name.startswith("prisma")
        return (
            "before the first checkpoint"
            if begins
            else "between networks"
            if open_
            else "between pre-training and composition"
        )
    state = Checkpoints(folder / "checkpoints").load() if list((folder / "checkpoints").glob("*.pt")) else None
    inside = state is not None and state["at"]["step"]
    return f"{part}, inside an epoch" if inside else f"{part}, at an epoch's end"


def outcome(run: Path) -> dict[str, object]:
    """What must be equal: weights to the bit, history but for times."""
    weights = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("weights.safetensors")}
    lines = {
        str(path.relative_to(run)): [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]
        for path in run.rglob("history.jsonl")
    }
    return {**weights, **lines}


def main() -> int:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    draw = random.Random(seed)
    root = Path(tempfile.mkdtemp())
    figure = Figure()
    figure.subplots().set_title("what every picture needs is imported, and fonts are found")
    figure.savefig(root / "picture.png")
    simulate(root / "heads", subjects=3, seed=7, shape=(16, 17, 16))
    words = ["train", str(written(root)), "--data", str(root / "heads"), "--resume", "--out"]
    log = root / "log.txt"

    since = time.monotonic()
    if ended(begun([*words, str(root / "whole")], log)):
        print(log.read_text())
        return 1
    whole, seconds = outcome(root / "whole"), time.monotonic() - since
    print(f"seed {seed}, torch {torch.__version__}, an uninterrupted run takes {seconds:.1f} s")

    kills: Counter[tuple[str, str]] = Counter()
    runs, same, out = 0, True, root / "out"
    while kills.total() < given.kills:
        runs += 1
        shutil.rmtree(out, ignore_errors=True)
        here, files = 0, [(file, draw.randint(1, 3 if "checkpoints" in file else 1)) for file in FILES]
        while True:
            by_time = not files or draw.random() < 0.4
            child = begun([*words, str(out)], log, None if by_time else files.pop(0))
            if by_time:
                time.sleep(draw.uniform(0, seconds / 2))
                os.kill(child, signal.SIGKILL)
            status = ended(child)
            if status != -signal.SIGKILL:
                break
            kills[place(out), BY_TIME if by_time else IN_WRITING] += 1
            here += 1
        if status:
            print(f"  run {runs}: ended with status {status} after {here} kills: {log.read_text()}")
            same = False
            continue
        found = outcome(out)
        wrong = [name for name in {*whole, *found} if whole.get(name) != found.get(name)]
        left = [path.name for path in out.rglob(".*.partial")]
        same &= not wrong and not left
        print(
            f"  run {runs}: {here} kills, {'differs in ' + ', '.join(wrong + left) if wrong or left else 'same bits'}"
        )

    print(f"  {'place':<46}{BY_TIME:>18}{IN_WRITING:>18}")
    for where in sorted({where for where, _ in kills}):
        print(f"  {where:<46}{kills[where, BY_TIME]:>18}{kills[where, IN_WRITING]:>18}")
    result = "same bits" if same else "DIFFERENT BITS"
    print(f"  {kills.total()} kills in {runs} runs, {len(whole)} files of weights and history each: {result}")
    shutil.rmtree(root)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

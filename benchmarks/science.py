"""The paper's comparison and its null control on simulated travelling heads, by `harmonet benchmark`.

    python benchmarks/science.py OUT [shared] [unrelated] [real] [--subjects 10] [--seeds 3] [--folds 2] [--part M/N]

shared     simulated heads whose platforms see one anatomy: does MSP gain, and over what?
unrelated  the same scanners, each of which sees heads of its own: MSP must show no gain over the ensemble.
real       a real head (HARMONET_REAL_DATA), degraded and cut into slabs that stand in for subjects.

The networks are those of the zoo at reduced width and depth, the same in every row; what they are is in OUT/*.toml. An
interrupted run goes on when the same command is given again; machines that share OUT each take a --part, and the
command without one makes the tables.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from harmonet.build import recipe_of
from harmonet.platforms import preset
from harmonet.recipe import parse, to_toml

OPTIONS = {
    "diqt": {"layers": 1, "widths": [24, 48]},
    "shresnet": {"blocks": 1, "width": 24},
    "cnn_rish": {"width": 24},
}
TRAINING = {
    "epochs": 8,
    "joint_epochs": 8,
    "patches_per_subject": 80,
    "validation_patches": 80,
    "batch_size": 12,
    "learning_rate": 3e-3,
    "threads": 1,
}
MODELS = "diqt,cnn_rish,shresnet,cpm,hned,msp"
SEED = 7  # of the heads
REAL = tuple(f"achieva_32dir/{name}" for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz"))


def main() -> None:
    """Simulate, train and score what was asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("which", nargs="*", default=["shared", "unrelated"], help="shared, unrelated, real")
    words.add_argument("--subjects", type=int, default=10)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--folds", default="2")
    words.add_argument("--part", default=None)
    words.add_argument("--models", default=MODELS)
    words.add_argument("--matrix", action="store_true")
    asked = words.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    recipe = asked.out / "recipe.toml"
    if not recipe.exists():
        recipe.write_text(to_toml(budget()))
    for which in asked.which:
        heads = asked.out / f"{which}-heads"
        if not heads.exists():
            harmonet("simulate", heads, *simulating(which, asked.subjects))
        part = [] if asked.part is None else ["--part", asked.part]
        matrix = ["--matrix"] if asked.matrix else []
        common = ["--data", heads, "--out", asked.out / which, "--recipe", recipe, "--models", asked.models]
        harmonet("benchmark", *common, "--seeds", asked.seeds, "--folds", asked.folds, *matrix, *part)


def budget() -> object:
    """The recipe that gives all rows their budget: the preset `recommended`, shortened."""
    task = preset("cdmri2017")
    recipe = recipe_of(
        task,
        {name: list(OPTIONS) for name in task.target_names},
        fusion="msp",
        options=OPTIONS,
        patch_size=7,
        preset="recommended",
    )
    tables = recipe.model_dump(exclude_none=True)
    return parse(tables | {"training": tables["training"] | TRAINING, "seed": 0}, "of this file")


def simulating(which: str, subjects: int) -> list[object]:
    """The words that make the heads."""
    if which == "real":
        folder = os.environ.get("HARMONET_REAL_DATA")
        if not folder:
            sys.exit("real: HARMONET_REAL_DATA names no folder of real acquisitions")
        dwi, bval, bvec, mask = (Path(folder) / name for name in REAL)
        return ["--from-dwi", dwi, "--bval", bval, "--bvec", bvec, "--mask", mask, "--slabs", 3, "--seed", SEED]
    kind = {"shared": "cdmri2017", "unrelated": "unrelated"}[which]
    return ["--subjects", subjects, "--seed", SEED, "--preset", kind]


def harmonet(*words: object) -> None:
    """Run one verb; what it prints is shown."""
    command = [sys.executable, "-m", "harmonet", *map(str, words)]
    print("+ harmonet", *map(str, words), flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

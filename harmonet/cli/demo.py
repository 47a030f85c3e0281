"""`harmonet demo`: the whole job on simulated travelling heads."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from harmonet.cli.console import Force, Progress, note
from harmonet.errors import OutputError

# The architectures as published, narrower and shallower: a full-width SHResNet step costs about 280 GFLOP.
OPTIONS: dict[str, dict[str, Any]] = {
    "diqt": {"layers": 1, "widths": [24, 48]},
    "shresnet": {"blocks": 1, "width": 24},
}
REDUCED = (
    "demo: DIQT (1 reversible layer per stack, widths 24 and 48) and SHResNet (1 block, width 24), reduced for speed"
)
TRAINING = {
    "epochs": 5,
    "joint_epochs": 6,
    "patches_per_subject": 40,
    "validation_patches": 24,
    "batch_size": 4,
    "learning_rate": 3e-3,
}

PARTS = ("heads", "recipe.toml", "run", "predicted", "report")  # what the demo makes


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("harmonet-demo"),
    subjects: Annotated[int, typer.Option(help="Simulated heads: one validates, one tests.", min=3)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the heads and of the training.", min=0)] = 0,
    force: Force = False,
) -> None:
    """Do the whole job on simulated travelling heads: simulate, train, compose, evaluate, predict.

    Example: harmonet demo --out harmonet-demo
    """
    from harmonet.files import foreign_in

    if out.exists():
        ours = (out / "heads" / "dataset.json").is_file() and foreign_in(out, PARTS) is None
        if not (force and ours):
            hint = ": add --force to replace it" if ours else " and is no demo of harmonet: choose another folder"
            raise OutputError(f"{out} exists{hint}.")

    from harmonet.build import recipe_of
    from harmonet.cli.compose import print_tree
    from harmonet.cli.evaluate import print_scores, typed
    from harmonet.data.layout import open_dataset
    from harmonet.data.scan import read_scan
    from harmonet.data.simulate import simulate
    from harmonet.evaluation import evaluate
    from harmonet.files import write_whole
    from harmonet.platforms import preset
    from harmonet.recipe import parse, to_toml
    from harmonet.report import write_report
    from harmonet.report.wiring import outline, wiring_of
    from harmonet.runs.predict import predict, write_predictions
    from harmonet.runs.train import train

    shutil.rmtree(out, ignore_errors=True)
    with Progress() as progress:
        note("1/5 simulate: travelling heads, four platforms")
        simulate(out / "heads", subjects=subjects, seed=seed, progress=progress)
        dataset = open_dataset(out / "heads")
        note("2/5 compose: diqt and shresnet are candidates for every platform, msp joins the best")
        note(f"     {REDUCED}")
        task = preset("cdmri2017")
        tables = recipe_of(
            task,
            {name: ["diqt", "shresnet"] for name in task.target_names},
            fusion="msp",
            options=OPTIONS,
            preset="recommended",
            note=REDUCED,
        ).model_dump(exclude_none=True)
        recipe = parse(tables | {"seed": seed, "training": tables["training"] | TRAINING}, "of the demo")
        write_whole(out / "recipe.toml", to_toml(recipe).encode())
        print_tree(outline(wiring_of(recipe)))
        note("3/5 train: each candidate alone, then the composition of the best")
        run = train(recipe, dataset, out / "run", progress)
        note("4/5 evaluate on a head that no network has seen")
        evaluation = evaluate([run], dataset, progress)
        note("5/5 predict the same head as NIfTI")
        subject = run.split.test[0]
        scan = read_scan(dataset.acquisition(subject, task.source.name))
        write_predictions(run, scan, predict(run, scan, watch=progress), out / "predicted", subject)
    print_scores(evaluation)
    page = write_report(evaluation, [run], out / "report", command=typed())
    note(f"report: {page}\nNIfTI: {out / 'predicted'}")

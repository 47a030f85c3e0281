"""A small run and a small evaluation, made up, for tests of the report."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from harmonet.build import model_for, recipe_of
from harmonet.data.gradients import Gradients
from harmonet.data.splits import Split
from harmonet.data.standardise import Standardisation
from harmonet.evaluation import Evaluation, Maps, Score
from harmonet.platforms import Platform, Task
from harmonet.runs import Trained, load
from harmonet.runs.curves import draw_curves
from harmonet.runs.folder import write_run

TARGETS = ("prisma_st", "connectom_st")
# Errors against the truth; against the target they are higher by the noise.
WORSE = {"identity": 0.004, "interpolation": 0.002, "diqt": 0.003, "msp, stage 0": 0.0025, "msp, stage 1": 0.005}
KINDS = {"identity": "baseline", "interpolation": "baseline", "the target itself": "floor"}
BETTER = WORSE | {"msp, stage 1": 0.001}


def recipe(fusion):
    voxel = (2.4, 2.4, 2.4)
    task = Task(Platform("ge_st", voxel, (1200.0,), 30), tuple(Platform(t, voxel, (1200.0,), 30) for t in TARGETS))
    options = {"diqt": {"layers": 1, "widths": [4, 4]}}
    return recipe_of(
        task, {name: ["diqt"] for name in TARGETS}, fusion=fusion, options=options, note="tiny & <b>quick</b>"
    )


def trained(folder: Path, fusion: str | None = "msp") -> Trained:
    plan, networks = recipe(fusion), dict.fromkeys(TARGETS, "diqt")
    statistics = Standardisation(np.zeros(28), np.ones(28))
    errors = {f"0/{name}": 1.0 for name in TARGETS}
    line = {"epoch": 1, "phase": "msp", "alpha": 0.5, "learning_rate": 1e-4, "validation": errors}
    write_run(
        folder,
        plan,
        model_for(plan, networks, networks),
        [line],
        networks=networks,
        standardise_source=statistics,
        standardise=dict.fromkeys(TARGETS, statistics),
        split=Split(("anna",), ("bert",), ("carl",)),
        gradients={name: Gradients(np.full(3, 1200.0), np.eye(3)) for name in TARGETS},
        facts={"label": "simulated", "validation": {"candidates": {"prisma_st": {"diqt": 0.123456}}}},
        draw=draw_curves,
    )
    single = folder / "singles" / "prisma_st.diqt"
    single.mkdir(parents=True)
    (single / "curves.png").write_bytes((folder / "curves.png").read_bytes())
    return load(folder)


def maps(platform="prisma_st", truth=True, prediction=None) -> Maps:
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 10, 8), dtype=bool)
    mask[1:8, 1:9, 1:7] = True
    volume = np.zeros((*mask.shape, 28), dtype=np.float32)
    volume[mask] = rng.normal(0, 0.05, (mask.sum(), 28))
    volume[mask, 0] += 1.5
    made = volume + 0.1 * mask[..., None] if prediction is None else prediction
    known = volume if truth else None
    return Maps(platform, "carl", mask, volume * 1.1, volume, known, made.astype(np.float32), "msp, stage 1")


def evaluation(errors=WORSE, *, platforms=("prisma_st",), subjects=("carl",), **changes) -> Evaluation:
    orders = {0: 3.0, 2: 2.0, 4: 1.0, 6: 0.5}
    scores = [
        Score(
            method,
            platform,
            subject,
            against,
            {"sh_mse": value} | {f"sh_mse l = {l}": value * share for l, share in orders.items()},
        )
        for method, error in (errors | {"the target itself": 0.0005}).items()
        for platform in platforms
        for number, subject in enumerate(subjects)
        for against, value in (("target", error + 0.0005), ("truth", error * (1 + 0.5 * number)))
        if (method, against) != ("the target itself", "target")
    ]
    plain = Evaluation(
        scores=scores,
        methods=list(dict.fromkeys(s.method for s in scores)),
        platforms=platforms,
        subjects=subjects,
        label="simulated travelling heads",
        leaky=False,
        measure="SH coefficients of S/S0",
        notes=(),
        maps=[maps(platform) for platform in platforms],
        kinds={m: "stage" if ", stage" in m else KINDS.get(m, "single") for m in (*errors, "the target itself")},
    )
    return replace(plain, **changes)

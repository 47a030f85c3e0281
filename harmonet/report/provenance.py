"""Where the numbers come from: runs, their choices, splits, recipes and digests, versions, the command."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from harmonet.report.parts import Part
from harmonet.report.scored import EvaluationLike
from harmonet.report.verdict import series_of
from harmonet.runs import Trained

PACKAGES = ("harmonet", "torch", "numpy", "dipy", "nibabel", "scipy", "matplotlib")
UNSAID = "not recorded: the report was made from Python"


def provenance(evaluation: EvaluationLike, runs: Sequence[Trained], command: str) -> Part:
    """The section: each series' first run in full, and a line for every run."""
    series = {name: _series(members) for name, members in series_of(evaluation, runs).items()}
    return Part(
        {
            "command": command or UNSAID,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "series": series,
            "measure": evaluation.measure,
            "patch_size": runs[0].recipe.model.patch_size,
        },
        [one["problem"] for one in series.values() if one["problem"]],
    )


def _series(runs: Sequence[Trained]) -> dict[str, Any]:
    first = runs[0]
    recipe, problem = "", ""
    try:
        recipe = (first.folder / "recipe.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{first.folder / 'recipe.toml'} cannot be read ({error})"
    return {
        "recipe": recipe,
        "problem": problem,
        "runs": [_row(run) for run in runs],
        "fusion": first.recipe.model.fusion,
        "networks": dict(first.networks),
        "candidates": _candidates(first),
        "alphas": _alphas(first),
        "split": {"train": first.split.train, "validation": first.split.validation, "test": first.split.test},
        "scheme": first.split.scheme,
    }


def _row(run: Trained) -> dict[str, str]:
    """One run in a line."""
    facts = run.facts
    validation = facts.get("validation", {})
    return {
        "run": run.folder.resolve().name,
        "seed": str(run.recipe.seed),
        "tests": ", ".join(run.split.test),
        "networks": ", ".join(sorted(set(run.networks.values()))),
        "validation error": _number(validation.get("score")),
        "best epoch": str(validation.get("best_epoch", "")),
        "data": str(facts.get("data", {}).get("root", "")),
        "data label": run.label,
        "created": str(facts.get("created", "")),
        "harmonet, torch": ", ".join(str(facts[name]) for name in ("harmonet", "torch") if name in facts),
        "weights, SHA-256": str(facts.get("artefacts", {}).get("weights.safetensors", "")),
    }


def _candidates(run: Trained) -> Mapping[str, Mapping[str, str]]:
    found = run.facts.get("validation", {}).get("candidates", {})
    return {p: {name: _number(error) for name, error in errors.items()} for p, errors in found.items()}


def _alphas(run: Trained) -> dict[str, str]:
    return {
        name.removeprefix("fusions.").removesuffix(".alpha"): f"{float(buffer):.3f}"
        for name, buffer in run.model.named_buffers()
        if name.endswith(".alpha")
    }


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""

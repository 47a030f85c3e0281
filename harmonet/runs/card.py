"""The card of a model that travels: what a stranger must know before using it, as Markdown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harmonet import plugins
from harmonet.errors import DataError
from harmonet.platforms import Platform
from harmonet.runs.folder import Trained

METRIC, AGAINST = "sh_mse", "target"  # what scores are told of: the metric and reference that every evaluation has
LARGEST = 64 << 20  # bytes of a scores.json that are read


def summary(run: Trained) -> dict[str, str]:
    """What the model is, as words: the rows of the card's first table."""
    settings = run.recipe.representation
    options = ", ".join(f"{key} {value}" for key, value in settings.options.items())
    split = run.split
    return {
        "data": run.label or "not said",
        "predicts from": _platform(run.task.source),
        "predicts": "; ".join(map(_platform, run.task.targets)),
        "representation": f"{settings.name}" + (f" ({options})" if options else ""),
        "standardised by": f"{settings.standardise} (the source), training subjects (the targets)",
        "networks": ", ".join(f"{name} for {platform}" for platform, name in run.networks.items()),
        "fusion": run.recipe.model.fusion or "none",
        "parameters": f"{sum(p.numel() for p in run.model.parameters()):,}",
        "patch": f"{run.recipe.model.patch_size} source voxels on edge",
        "subjects": f"{len(split.train)} trained, {len(split.validation)} validated, {len(split.test)} held out"
        + (", LEAKY: training and test patches overlap" if split.leaky else ""),
        "made by": f"harmonet {run.facts['harmonet']}, torch {run.facts['torch']}, {run.facts.get('created', '')}",
    }


def card(
    run: Trained, name: str, licence: str, failures: Sequence[str], scores: Path | None, left_out: Sequence[str]
) -> str:
    """README.md of an exported model, simulated data named first.

    Args:
        run: The model, as it travels.
        name: Of the run.
        licence: Of the weights; empty where none was given.
        failures: Known to its authors, a sentence each.
        scores: `scores.json` of `harmonet eval`, with a score of the run.
        left_out: What the run has and the export has not.

    Raises:
        DataError: The scores cannot be read, or are another run's.
    """
    told, worse = ([], []) if scores is None else _scores(scores, name)
    lines = [f"# {name}", ""]
    if run.label:
        lines += [f"**Trained on: {run.label}.**", ""]
    lines += [
        "## Intended use",
        "",
        f"Predicts what {', '.join(run.task.target_names)} would have measured of a head, from an image that "
        f"{run.task.source.name} measured of it. For research; it is no medical device.",
        "",
        "    harmonet show FOLDER --verify",
        "    harmonet predict FOLDER --dwi dwi.nii.gz --bval dwi.bval --bvec dwi.bvec --mask mask.nii.gz --out new",
        "",
        "## The model",
        "",
        *_table(["", ""], [[key, value] for key, value in summary(run).items()]),
        "",
        "## Validation errors",
        "",
        "Standardised mean squared error on the validation subjects, by which the networks were chosen. The margin is "
        "how far the chosen one lies below the next; with few subjects chance alone makes one.",
        "",
        *_table(["platform", "candidate", "error", "margin to the next"], _validation(run.facts["validation"])),
        "",
        f"Of the whole model: {run.facts['validation']['score']:.4g}.",
        "",
        "## Scores on held-out subjects",
        "",
        *(told or ["None were given when this was exported."]),
        "",
        "## Known failures",
        "",
        *(f"- {sentence}" for sentence in [*failures, *worse, *_limits(run)]),
        "",
        "## Sources",
        "",
        *(f"- {sentence}" for sentence in _sources(run)),
        "",
        "## Licence",
        "",
        licence or "None was given: ask whoever gave you this before you use it.",
        "",
        "## Left out",
        "",
        *(f"- {sentence}" for sentence in left_out),
        "",
    ]
    return "\n".join(lines)


def _platform(platform: Platform) -> str:
    size = " x ".join(f"{edge:g}" for edge in platform.voxel_size)
    shells = ", ".join(f"{shell:g}" for shell in platform.shells)
    return f"{platform.name}, {size} mm" + (
        f", b = {shells} s/mm², {platform.directions} directions" if platform.shells else ""
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *safe]]


def _validation(facts: Mapping[str, Any]) -> list[list[str]]:
    """A row per candidate, the margin beside the one that is used."""
    rows = []
    for platform, errors in facts["candidates"].items():
        chosen = facts["chosen"].get(platform, {})
        for name, error in errors.items():
            margin = chosen.get("margin") if chosen.get("candidate") == name else None
            rows.append([platform, name, f"{error:.4g}", "" if margin is None else f"{margin:.1%}"])
    return rows


def _limits(run: Trained) -> Iterator[str]:
    """What is known to go wrong without having been tried."""
    if run.facts.get("simulated"):
        yield "It has seen simulated heads only: what it does to people is not known."
    yield (
        f"Images of another platform than {run.task.source.name}, or of other voxels, b-values or brains than its "
        "training subjects', are outside what it has seen: `predict` warns or refuses, `predict --caution` maps it."
    )
    for name in sorted({word for names in run.networks.values() for word in names.split("+")}):
        for check, reason in plugins.network(name).unsupported.items():
            yield f"{name} fails the check {check}: {reason}"


def _sources(run: Trained) -> list[str]:
    names = sorted({word for names in run.networks.values() for word in names.split("+")})
    entries = [plugins.network(name) for name in names]
    fusion, representation = run.recipe.model.fusion, run.recipe.representation.name
    parts = [*entries, *([plugins.fusion(fusion)] if fusion else []), plugins.representation(representation)]
    return [f"{entry.name}: {entry.paper or 'no publication'}" for entry in parts]


def _scores(path: Path, name: str) -> tuple[list[str], list[str]]:
    """Lines on what the run reached on held-out subjects, and sentences on where it is no better than nothing."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(
                f"{path} has more than {LARGEST >> 20} MiB: give the scores.json that `harmonet eval` wrote."
            )
        found = json.loads(path.read_bytes())
        kinds = {method["method"]: method["kind"] for method in found["methods"]}
        mine = [s for s in found["scores"] if s["run"] == name and s["against"] == AGAINST]
        methods = {s["method"]: None for s in mine if kinds.get(s["method"]) == "stage"} or {
            s["method"]: None for s in mine
        }
        means = []
        for platform in found["platforms"]:
            for method in methods:
                values = [s["values"][METRIC] for s in mine if (s["platform"], s["method"]) == (platform, method)]
                if values and None not in values:
                    means.append([platform, method, f"{fmean(values):.4g}", str(len(values))])
        rows = [
            s
            for s in found["statistics"]
            if (s["metric"], s["against"]) == (METRIC, AGAINST) and s["method"] in methods
        ]
        differences = [[*(s[key] for key in ("platform", "method", "role")), *_difference(s)] for s in rows]
        worse = [
            f"On {s['platform']}, {s['method']} was no better than {s['role']}: mean of {s['n']} held-out subject(s)."
            for s in rows
            if s.get("difference") is not None and s["difference"] >= 0
        ]
        subjects, measure, leaky, label = (found[key] for key in ("subjects", "measure", "leaky", "label"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no scores ({error!r}): give the scores.json that `harmonet eval` wrote."
        ) from None
    if not means:
        raise DataError(f"{path} has no score of a run named {name}: evaluate it with `harmonet eval RUN --out DIR`.")
    lead = [f"**{label}.** " if label else "", "**LEAKY: tested on subjects that trained.** " if leaky else ""]
    return [
        f"{''.join(lead)}Mean squared error of {measure} against the measured target, over {len(subjects)} subject(s).",
        "",
        *_table(["platform", "method", "error", "subjects"], means),
        "",
        "Differences over subjects, with 95 % intervals where there are enough subjects for one; below 0 it is better.",
        "",
        *_table(["platform", "method", "beside", "difference", "95 % interval", "subjects"], differences),
    ], worse


def _difference(row: Mapping[str, Any]) -> list[str]:
    ends, difference = row.get("interval"), row.get("difference")
    return [
        "" if difference is None else f"{difference:+.3g}",
        f"{ends[0]:+.3g} ... {ends[1]:+.3g}" if ends else row["problem"] or "none",
        str(row["n"] or ""),
    ]

"""The report: one page that opens from disk with nothing beside it, the scores as files, the pictures."""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import mean
from typing import Any

from harmonet.errors import OutputError, RunError
from harmonet.files import foreign_in, staged, write_whole
from harmonet.report.figures import by_group, error_bars, frames, picture
from harmonet.report.scored import BASELINES, NOISE, EvaluationLike, MapsLike, summary
from harmonet.report.slices import ORIENTATION
from harmonet.report.verdict import answer_of, headline, one_of_each, verdicts
from harmonet.runs import Trained

PAGE, SCORES, TABLE, FIGURES, TABLES = "report.html", "scores.json", "scores.csv", "figures", "tables"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Shown:
    """A picture of the page: its bytes as a data address, or why there is none."""

    title: str
    caption: str = ""
    address: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Cell:
    """One entry of the table."""

    text: str
    best: bool = False


def write_report(evaluation: EvaluationLike, runs: Sequence[Trained], out: Path) -> Path:
    """The page's path, `out`/report.html; beside it scores.json, scores.csv, figures/ and tables/.

    Everything is made aside and takes the place of `out` as a whole. A report that was there before is replaced.

    Args:
        evaluation: Scores, and volumes of one subject.
        runs: The runs that were scored.
        out: Folder to make.

    Raises:
        OutputError: `out` holds something that is no report of ours, or cannot be written; nothing has changed then.
        RunError: A part of the page could not be made; the rest is written, and the page says in red what is missing.
    """
    place = out.resolve()  # where `out` is a link, what it leads to is replaced, and the link stays
    refuse_foreign(out)
    with staged(place) as folder:
        content = _content(evaluation, runs, folder / FIGURES)
        write_whole(folder / PAGE, _render(content).encode())
        write_whole(folder / SCORES, (json.dumps(_finite(evaluation.as_json()), indent=1) + "\n").encode())
        write_whole(folder / TABLE, _csv(evaluation).encode())
        for name, text in evaluation.files().items():
            write_whole(folder / TABLES / name, text.encode())
    problems: list[str] = content["problems"]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RunError(f"{out / PAGE} is written but incomplete: {problems[0]}{more}; the page says where, in red.")
    return out / PAGE


def refuse_foreign(out: Path) -> None:
    """Refuse to replace anything but a report of ours and an empty folder."""
    place = out.resolve()
    if not place.exists():
        return
    if not place.is_dir():
        raise OutputError(f"{out} exists and is no folder: choose another name.")
    foreign = foreign_in(place, (PAGE, SCORES, TABLE, FIGURES, TABLES))
    if foreign or (any(place.iterdir()) and not (place / SCORES).is_file()):
        found = f"it holds {foreign}" if foreign else f"there is no {SCORES} in it"
        raise OutputError(f"{out} exists and is no report of harmonet ({found}): choose another folder.")


def _content(evaluation: EvaluationLike, runs: Sequence[Trained], folder: Path) -> dict[str, Any]:
    """All that the template shows."""
    maps = {each.platform: each for each in evaluation.maps}
    charts = [
        _drawn("Error per method", "", folder / "errors.png", lambda out: error_bars(evaluation, out)),
        _drawn("Error by SH order", "", folder / "by_order.png", lambda out: by_group(evaluation, out)),
    ]
    platforms = [_platform(maps.get(name), name, evaluation.label, runs[0], folder) for name in evaluation.platforms]
    described = [_run(run) for run in runs]
    shown = [
        *charts,
        *(image for each in platforms for image in (each["picture"], *each["frames"])),
        *(image for each in described for image in (*each["curves"], each["recipe"])),
    ]
    broken = _not_finite(evaluation)
    return {
        "evaluation": evaluation,
        "headline": headline(evaluation, runs),
        "verdicts": [v for run in one_of_each(evaluation, runs) for v in verdicts(evaluation, run)],
        "columns": [(p, r) for p in evaluation.platforms for r in evaluation.references],
        "rows": _rows(evaluation, runs),
        "measure": evaluation.measure,
        "noise": NOISE,
        "broken": broken,
        "charts": charts,
        "platforms": platforms,
        "runs": described,
        "notes": list(dict.fromkeys(run.recipe.note for run in runs if run.recipe.note)),
        "labels": sorted({run.label for run in runs if run.label} - {evaluation.label}),
        "patch_size": runs[0].recipe.model.patch_size,
        "problems": [*broken, *(f"{image.title}: {image.problem}" for image in shown if image.problem)],
    }


def _render(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    template = (resources.files("harmonet.report") / "report.html").read_text(encoding="utf-8")
    # Autoescape is off unless asked for; labels, names and recipes are the user's and a stranger's.
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(template).render(content)


def _inlined(title: str, caption: str, path: Path) -> Shown:
    """A PNG on disk as a part of the page."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Shown(title, caption, problem=f"{path} cannot be read ({error.strerror or error})")
    if not content.startswith(PNG):
        return Shown(title, caption, problem=f"{path} is no PNG")
    return Shown(title, caption, "data:image/png;base64," + base64.b64encode(content).decode())


def _drawn(title: str, caption: str, path: Path, draw: Callable[[Path], object]) -> Shown:
    try:
        draw(path)
    except Exception as error:  # whatever goes wrong in one picture, the scores and the other pictures are still wanted
        return Shown(title, caption, problem=f"{path.name} cannot be drawn ({type(error).__name__}: {error})")
    return _inlined(title, caption, path)


def _platform(maps: MapsLike | None, name: str, label: str, run: Trained, folder: Path) -> dict[str, Any]:
    """The pictures of one platform."""
    if maps is None:
        return {"name": name, "picture": Shown(name, problem="the evaluation has no volumes of it"), "frames": []}
    size = run.task.target(name).voxel_size
    caption = f"{name} ({' x '.join(f'{edge:g}' for edge in size)} mm), subject {maps.subject}: {ORIENTATION}."
    flicker: dict[str, Path] = {}

    def draw(out: Path) -> None:
        picture(maps, out, label=label, voxel_size=size)
        flicker.update(frames(maps, folder, size))

    shown = _drawn(name, caption, folder / f"{name}.png", draw)
    return {"name": name, "picture": shown, "frames": [_inlined(title, "", path) for title, path in flicker.items()]}


def _run(run: Trained) -> dict[str, Any]:
    """Where one run came from: choices, split, versions, curves, recipe."""
    singles = sorted(path for path in (run.folder / "singles").glob("*") if path.is_dir())
    curves = [_inlined(f"{run.folder.name}: training", "", run.folder / "curves.png")]
    curves += [_inlined(f"{run.folder.name}: {path.name} alone", "", path / "curves.png") for path in singles]
    try:
        recipe = Shown("recipe.toml", caption=(run.folder / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        recipe = Shown("recipe.toml", problem=f"{run.folder / 'recipe.toml'} cannot be read ({error})")
    validation = run.facts.get("validation", {})
    data = run.facts.get("data", {})
    facts = {
        "label of the training data": run.label,
        "data set": data.get("root", ""),
        "created": run.facts.get("created", ""),
        "harmonet": run.facts.get("harmonet", ""),
        "torch": run.facts.get("torch", ""),
        "weights.safetensors, SHA-256": run.facts.get("artefacts", {}).get("weights.safetensors", ""),
        "joint validation error (standardised MSE)": _number(validation.get("score")),
        "best epoch": validation.get("best_epoch", ""),
    }
    alphas = {
        name.removeprefix("fusions.").removesuffix(".alpha"): f"{float(buffer):.3f}"
        for name, buffer in run.model.named_buffers()
        if name.endswith(".alpha")
    }
    return {
        "name": run.folder.resolve().name,
        "fusion": run.recipe.model.fusion,
        "networks": dict(run.networks),
        "candidates": {
            platform: {name: _number(error) for name, error in errors.items()}
            for platform, errors in validation.get("candidates", {}).items()
        },
        "alphas": alphas,
        "split": {"train": run.split.train, "validation": run.split.validation, "test": run.split.test},
        "facts": {name: value for name, value in facts.items() if value not in ("", None)},
        "recipe": recipe,
        "curves": curves,
    }


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _rows(evaluation: EvaluationLike, runs: Sequence[Trained]) -> list[tuple[str, str, list[Cell]]]:
    """Method, its kind (`answer`, `floor`, `baseline`, `network`), and a cell per platform and reference."""
    columns = [(p, r) for p in evaluation.platforms for r in evaluation.references]
    answers = {answer_of(evaluation, run, platform) for run in runs for platform in evaluation.platforms}
    lowest = {}
    for platform, reference in columns:  # the noise in the target is no method and wins nothing
        found = [evaluation.values(m, platform, reference) for m in evaluation.methods if m != NOISE]
        lowest[platform, reference] = min((e for v in found if v and math.isfinite(e := mean(v))), default=math.nan)
    rows = []
    for method in evaluation.methods:
        kind = "floor" if method == NOISE else "baseline" if method in BASELINES else "network"
        cells = []
        for column in columns:
            values = evaluation.values(method, *column)
            best = bool(values) and method != NOISE and mean(values) == lowest[column]
            cells.append(Cell(summary(values), best))
        rows.append((method, "answer" if method in answers else kind, cells))
    return rows


def _not_finite(evaluation: EvaluationLike) -> list[str]:
    return [
        f"the error of {s.method} on {s.platform} of {s.subject} against {s.against} is not a number"
        for s in evaluation.scores
        if not math.isfinite(s.sh_mse)
    ]


def _finite(value: Any) -> Any:
    """The same for JSON, which knows no NaN: null in its place."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(evaluation: EvaluationLike) -> str:
    """A line per score, a column per metric; nothing is scaled, and what was not measured is empty."""
    names = list(dict.fromkeys(name for score in evaluation.scores for name in score.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "platform", "subject", "against", "run", *names])
    for s in evaluation.scores:
        numbers = ["" if (value := s.values.get(name)) is None else value for name in names]
        writer.writerow([s.method, s.platform, s.subject, s.against, s.run, *numbers])
    return out.getvalue()

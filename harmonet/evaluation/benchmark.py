"""What a benchmark shows: the paper's Table 1, gains over rivals, who helps whom, and what each row cost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from harmonet.blocks.connection import count_parameters
from harmonet.errors import DataError
from harmonet.evaluation.comparisons import BEST_LINEAR, BEST_SINGLE, best_linear, best_single
from harmonet.evaluation.forms import Cell, Table
from harmonet.evaluation.result import MAIN, Evaluation, Kind
from harmonet.evaluation.significance import bonferroni, holm
from harmonet.evaluation.statistics import Comparison, caution, compare
from harmonet.evaluation.tables import MISSING, scores_table
from harmonet.runs.benchmark import Row
from harmonet.runs.folder import Trained

KINDS: Mapping[str, Kind] = {"single": "single", "control": "control", "fusion": "stage", "subset": "stage"}
FIRST = ("baseline", "floor", "single", "control", "stage")  # the order of the table


def by_row(evaluation: Evaluation, rows: Sequence[Row], runs: Mapping[str, Sequence[Trained]]) -> Evaluation:
    """The evaluation with one method for each row, its last answer, called as the row is; and the baselines."""
    names: dict[str, str] = {}
    kinds: dict[str, Kind] = {}
    for row in rows:
        own = [method for method in evaluation.methods if method.startswith(f"{row.name}: ")]
        staged, alone = ([m for m in own if evaluation.kinds[m] == kind] for kind in ("stage", "single"))
        answers = staged or alone
        if answers:
            names[answers[-1]], kinds[row.label] = row.label, KINDS[row.role]
    for method in evaluation.methods:
        if ": " not in method:
            names[method], kinds[method] = method, evaluation.kinds[method]
    methods = sorted(kinds, key=lambda label: FIRST.index(kinds[label]))
    return replace(
        evaluation,
        scores=[replace(s, method=names[s.method]) for s in evaluation.scores if s.method in names],
        methods=methods,
        kinds=kinds,
        prefixes={run.folder: row.label for row in rows for run in runs[row.name]},
    )


def table_one(evaluation: Evaluation) -> Table:
    """The paper's Table 1 on these data: a row per method, mean and standard deviation over subjects, best in bold."""
    table = scores_table(evaluation)
    return replace(table, name="table1", title=f"Table 1. {table.title}")


@dataclass(frozen=True)
class Gain:
    """By how much a method is below a rival on one platform; `comparison` is None where it cannot be said."""

    platform: str
    method: str
    role: str
    rival: str
    comparison: Comparison | None
    holm: float | None = None
    bonferroni: float | None = None


def gains(evaluation: Evaluation, rows: Sequence[Row], against: str) -> list[Gain]:
    """Every fusion and its controls beside what it must beat, paired over subjects, corrected method by method."""
    fused = [row.label for row in rows if row.recipe.model.fusion is not None and row.label in evaluation.methods]
    found = []
    for platform in evaluation.platforms:
        errors = {m: e for m in evaluation.methods if (e := evaluation.errors(m, platform, against, MAIN))}
        for method in fused:
            for role, rival in _rivals(evaluation, rows, method, platform, against):
                if rival in errors and rival != method and method in errors:
                    found.append(Gain(platform, method, role, rival, _compared(errors[method], errors[rival])))
    return [one for method in fused for one in _corrected([gain for gain in found if gain.method == method])]


def _corrected(found: Sequence[Gain]) -> list[Gain]:
    """The gains of one method with p-values corrected for their number."""
    tested = [g.comparison.signed_rank.p for g in found if g.comparison is not None and g.comparison.n > 1]
    stepped, plain = iter(holm(tested)), iter(bonferroni(tested))
    return [
        replace(g, holm=next(stepped), bonferroni=next(plain)) if g.comparison is not None and g.comparison.n > 1 else g
        for g in found
    ]


def _rivals(
    evaluation: Evaluation, rows: Sequence[Row], method: str, platform: str, against: str
) -> Iterable[tuple[str, str]]:
    """What a fusion must beat: roles and methods."""
    best = best_single(evaluation, platform, against)
    if best is not None:
        yield BEST_SINGLE, best
    ensembles = [row.label for row in rows if row.recipe.model.fusion == "ensemble"]
    yield from (("an ensemble", label) for label in ensembles if label != method)
    linear = best_linear(evaluation, platform, against)
    if linear is not None:
        yield BEST_LINEAR, linear
    others = [row for row in rows if row.role == "fusion" and row.label != method]
    if any(row.label == method and row.role == "fusion" for row in rows):
        yield from (("another fusion", row.label) for row in others)
        alone = [row for row in rows if row.role == "control" and row.recipe.model.fusion is None]
        yield from (("a control", row.label) for row in alone if len(row.recipe.model.candidates[platform]) == 1)


def _compared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Comparison | None:
    try:
        return compare(ours, theirs)
    except DataError:
        return None


def gains_table(evaluation: Evaluation, rows: Sequence[Row], against: str) -> Table:
    """Relative gains with their intervals and tests."""
    found = gains(evaluation, rows, against)
    body = []
    for gain in found:
        c = gain.comparison
        if c is None:
            texts = [MISSING] * 6
        else:
            ends = "" if c.gain_interval is None else f" [{c.gain_interval.low:.1f}, {c.gain_interval.high:.1f}]"
            p_values = (None if gain.holm is None else c.signed_rank.p, gain.holm, gain.bonferroni)
            texts = [f"{c.gain:+.1f}{ends}", *("no test" if p is None else f"{p:.3g}" for p in p_values), str(c.n)]
            texts.append(c.worst.subject)
        bare = gain.role in ("an ensemble", "another fusion", "a control")
        beside = gain.rival if bare else f"{gain.role} ({gain.rival})"
        body.append([Cell(text) for text in (gain.platform, gain.method, beside, *texts)])
    columns = ["platform", "method", "beside", "gain % [95 %]", "p", "Holm", "Bonferroni", "n", "worst subject"]
    counts = Counter(gain.method for gain in found if gain.holm is not None)
    tests = max(counts.values(), default=0)
    notes = [
        caution(len(evaluation.subjects)),
        f"gain: by how much the mean error against the {against} is lower, above 0 is better; p: exact two-sided "
        f"signed-rank test over subjects, corrected for the tests of each method, at most {tests}. The best single "
        "network is the best on these very subjects, which favours it.",
    ]
    return Table(f"gains_{against}", f"Gains against {against} over subjects", 3, columns, body, notes)


def helpers_table(full: Evaluation, fewer: Mapping[str, Evaluation], fusion: str, alone: str, against: str) -> Table:
    """Does another platform help? Error of each target by which platforms took part.

    Args:
        full: The benchmark, by row.
        fewer: Platform to the evaluation of the fusion without it, by row.
        fusion, alone: Methods: of the fusion over all platforms, of a network alone.
        against: The reference.
    """
    cells: dict[tuple[str, ...], dict[str, Mapping[str, float]]] = {}
    for target in full.platforms:
        cells.setdefault((target,), {})[target] = full.errors(alone, target, against)
        cells.setdefault(tuple(full.platforms), {})[target] = full.errors(fusion, target, against)
    for left_out, evaluation in fewer.items():
        took_part = tuple(p for p in full.platforms if p != left_out)
        (method,) = [m for m in evaluation.methods if evaluation.kinds[m] == "stage"]
        cells[took_part] = {target: evaluation.errors(method, target, against) for target in took_part}
    body = []
    for took_part, errors in sorted(cells.items(), key=lambda item: (len(item[0]), item[0])):
        row = [Cell(" + ".join(took_part))]
        for target in full.platforms:
            row.append(_helped(errors.get(target), cells[target,][target]))
        body.append(row)
    title = (
        f"Does another platform help? Error against {against} in 1e-3 by which platforms took part in {fusion}, "
        f"gain % over {alone} with its 95 % interval"
    )
    notes = [caution(len(full.subjects)), f"one platform: {alone}"]
    return Table(f"platforms_{against}", title, 1, ["took part", *full.platforms], body, notes)


def _helped(errors: Mapping[str, float] | None, alone: Mapping[str, float]) -> Cell:
    if not errors:
        return Cell("")
    text = f"{1e3 * mean(errors.values()):.3f}"
    found = _compared(errors, alone) if errors is not alone else None
    if found is not None and found.gain_interval is not None:
        text += f" ({found.gain:+.1f} % [{found.gain_interval.low:.1f}, {found.gain_interval.high:.1f}])"
    return Cell(text)


def budget_table(rows: Sequence[Row], runs: Mapping[str, Trained]) -> Table:
    """What each row is and cost: parameters, epochs, steps; and what a reader must know of it.

    Args:
        rows: Of the benchmark.
        runs: Row to one of its runs.
    """
    body = []
    for row in rows:
        run = runs[row.name]
        table, fusion = run.recipe.training, run.recipe.model.fusion
        jointly = str(table.joint_epochs) if fusion is not None and fusion != "ensemble" else "0"
        texts = [row.label, f"{count_parameters(run.model):,}", str(table.epochs), jointly]
        body.append([Cell(text) for text in (*texts, row.says)])
    table = rows[0].recipe.training
    note = (
        f"every epoch: {table.patches_per_subject} patches of each training subject, batches of {table.batch_size}; "
        f"learning rate {table.learning_rate:g}, schedule {table.schedule}; the same loss, patches and subjects in all "
        "rows. Epochs alone are those of each network, which fusions share."
    )
    columns = ["row", "parameters, all platforms", "epochs alone", "epochs jointly", "what it is"]
    return Table("budgets", "Budgets", 1, columns, body, [note])

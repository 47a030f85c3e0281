"""Evaluation: runs pooled over folds and seeds, baselines that learn, statistics beside the table, forms of tables."""

import csv
import io
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import catalogue
import numpy as np
import pluggy
import pytest
from scipy.stats import wilcoxon
from test_metrics import fibres, rows_of, signal_context

import harmonet as hn
from harmonet import hookspecs, plugins
from harmonet.data.layout import open_dataset
from harmonet.data.splits import Split
from harmonet.errors import DataError, NotFoundError, RunError
from harmonet.evaluation import Evaluation, MetricCard, Score, evaluate, run_folders
from harmonet.evaluation.comparisons import BEST_SINGLE, comparisons
from harmonet.evaluation.forms import Cell, Table, comma, latex, markdown
from harmonet.evaluation.labels import read_labels
from harmonet.evaluation.measures import measures_of
from harmonet.evaluation.series import series_of
from harmonet.evaluation.tables import comparison_table, files_of, scores_table
from harmonet.finding import Candidate
from harmonet.methods.linear import Linear
from harmonet.metrics.image import Image
from harmonet.platforms import Grid
from harmonet.registry import METRICS, MetricEntry
from harmonet.representations.sh_signal import SHSignal

SUBJECTS = [f"s{n}" for n in range(6)]
KINDS = {"interpolation": "baseline", "a": "single", "b": "single", "msp, stage 1": "stage"}
KINDS["the target itself"] = "floor"


def quiet(*_):
    """Say nothing."""


def table(errors, *, subjects=SUBJECTS, metric="sh_mse", best=0.0, runs=("",)):
    """An evaluation of one platform: method to one number per subject, which each seed has plus its own offset."""
    scores = [
        Score(method, "p", subject, "truth", {"sh_mse": 1.0} | {metric: None if v is None else v + 0.01 * n}, run)
        for method, numbers in errors.items()
        for subject, v in zip(subjects, numbers, strict=True)
        for n, run in enumerate(runs)
    ]
    cards = {"sh_mse": MetricCard("mean squared error")} | {metric: MetricCard(metric, best=best)}
    kinds = {method: KINDS[method] for method in errors}
    return Evaluation(scores, list(errors), ["p"], subjects, "", False, "SH", (), (), kinds, cards)


A = [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
B = [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
MSP = [3.9, 4.8, 5.7, 6.6, 7.5, 9.3]
PLAIN = {"interpolation": [9.0, 9.0, 9.0, 9.0, 9.0, 11.0], "a": A, "b": B, "msp, stage 1": MSP}


def row(found, method, role=BEST_SINGLE):
    (one,) = [r for r in found if (r.method, r.role) == (method, role)]
    return one


# ---- comparisons over subjects


def test_a_method_is_compared_with_the_best_single_network_and_with_interpolation():
    found = comparisons(table(PLAIN), "truth")
    assert [(r.method, r.rival) for r in found] == [
        ("a", "interpolation"),
        ("b", "a"),
        ("b", "interpolation"),
        ("msp, stage 1", "a"),
        ("msp, stage 1", "interpolation"),
    ]
    msp = row(found, "msp, stage 1")
    differences = np.subtract(MSP, A)
    assert msp.p == pytest.approx(wilcoxon(differences, method="exact").pvalue)
    assert msp.comparison.n == 6
    assert msp.comparison.mean == pytest.approx(differences.mean())
    assert (msp.comparison.worst.subject, msp.comparison.worst.value) == ("s5", pytest.approx(0.3))
    assert msp.comparison.interval.low < differences.mean() < msp.comparison.interval.high


def test_p_values_are_corrected_for_every_test_of_the_same_method():
    found = comparisons(table(PLAIN), "truth")
    assert {r.method: r.tests for r in found}["msp, stage 1"] == 2
    assert row(found, "b").p == 2 / 2**6  # all six agree, and no p can be lower
    for r in found:
        assert r.tests == sum(other.method == r.method for other in found)
        assert r.bonferroni == pytest.approx(min(1, r.tests * r.p))
        assert r.p <= r.holm <= r.bonferroni


def test_one_subject_is_compared_but_not_tested_and_the_table_says_so():
    one = table({"interpolation": [9.0], "a": [4.0], "msp, stage 1": [3.0]}, subjects=["s0"])
    found = row(comparisons(one, "truth"), "msp, stage 1")
    assert (found.p, found.holm, found.bonferroni, found.problem) == (None, None, None, "one subject, so no test")
    assert found.comparison.gain == pytest.approx(25)
    shown = comparison_table(one, "truth")
    assert [cell.text for cell in shown.rows[-1]][5:9] == ["no test", "no test", "no test", "1"]
    assert shown.notes == ["One subject shows no spread: there is no interval and no test."]


def test_the_table_of_differences_says_what_few_subjects_cannot_show():
    shown = comparison_table(table(PLAIN), "truth")
    assert "With 6 subjects no p can be below 0.0312" in shown.notes[0]
    assert "under 90 %" in shown.notes[0]
    assert "corrected for the 2 tests of each method" in shown.notes[1]
    assert all(cells[8].text == "6" for cells in shown.rows)


def test_seeds_are_averaged_within_a_subject_and_are_no_further_subjects():
    seeds = table(PLAIN, runs=("seed-0", "seed-1", "seed-2"))
    found = row(comparisons(seeds, "truth"), "msp, stage 1")
    assert found.comparison.n == 6
    assert seeds.errors("a", "p", "truth")["s0"] == pytest.approx(4.01)
    assert any("seeds: 3" in note for note in scores_table(seeds).notes)


def test_errors_are_distances_from_the_best_value_and_signs_do_not_cancel_over_seeds():
    similar = table({"interpolation": [0.5] * 6, "a": [0.9] * 6, "b": [0.8] * 6}, metric="ssim", best=1.0)
    assert similar.errors("a", "p", "truth", "ssim")["s0"] == pytest.approx(0.1)
    assert row(comparisons(similar, "truth", "ssim"), "b").rival == "a"
    assert [[c.text for c in cells if c.best] for cells in scores_table(similar, "ssim").rows] == [
        [],
        ["0.900 ± 0.000"],
        [],
    ]
    scores = [Score("a", "p", "s0", "truth", {"fa_mne": v}, run) for v, run in ((0.2, "x"), (-0.2, "y"))]
    signed = replace(table({"a": [0]}, subjects=["s0"]), scores=scores)
    assert signed.values("a", "p", "truth", "fa_mne") == [0.0]
    assert signed.errors("a", "p", "truth", "fa_mne") == {"s0": 0.2}


def test_what_was_not_measured_is_shown_as_such_and_wins_nothing():
    errors = {"interpolation": A, "a": [None, *[0.001] * 5], "b": B}
    some = table(errors, metric="fa_mse")
    assert some.values("a", "p", "truth", "fa_mse") == pytest.approx([0.001] * 5)
    rows = {cells[0].text: cells[1] for cells in scores_table(some, "fa_mse").rows}
    assert rows["interpolation"].best
    assert not rows["a"].best
    found = row(comparisons(some, "truth", "fa_mse"), "a", "interpolation")
    assert found.comparison is None
    assert "same subjects, found s0" in found.problem
    none = table({"interpolation": A, "a": [None] * 6}, metric="mk_mse")
    assert [cells[1].text for cells in scores_table(none, "mk_mse").rows][1] == "-"


def test_the_noise_in_the_target_is_no_method():
    noise = table({"interpolation": A, "a": B, "the target itself": [0.1] * 6})
    assert "the target itself" not in {r.method for r in comparisons(noise, "truth")}
    assert [cells[1].best for cells in scores_table(noise).rows] == [True, False, False]


# ---- forms


def test_tables_are_markdown_latex_and_csv_with_the_best_in_bold():
    shown = Table(
        "t", "in 50 % | of", 1, ["method", "p\nagainst truth"], [[Cell("a_b|<c"), Cell("1 ± 2", True)]], ["n"]
    )
    assert markdown(shown).splitlines()[2:5] == [
        "| method | p against truth |",
        "| --- | ---: |",
        "| a_b\\|&lt;c | **1 ± 2** |",
    ]
    assert r"a\_b$|$$<$c & \textbf{1 $\pm$ 2} \\" in latex(shown).splitlines()
    assert list(csv.reader(io.StringIO(comma(shown)))) == [["method", "p against truth"], ["a_b|<c", "1 ± 2"]]


def test_every_metric_has_its_files():
    names = set(files_of(table(PLAIN, metric="fa_mse")))
    for metric in ("sh_mse", "fa_mse"):
        for end in ("md", "tex", "csv"):
            assert {f"{metric}.{end}", f"{metric}_truth_differences.{end}"} <= names


# ---- metrics


@pytest.fixture(scope="module")
def images():
    """A truth of crossing tissues on two shells with labels, and a prediction that is wrong everywhere."""
    representation = SHSignal([1200.0, 3000.0], 4, 0.0)
    mask = np.zeros((13, 13, 13), dtype=bool)
    mask[1:-1, 1:-1, 1:-1] = True
    labels = np.indices(mask.shape).sum(axis=0) % 3
    context, encode, bvals, directions = signal_context((1200.0, 3000.0), 4, labels=labels)
    rng = np.random.default_rng(0)

    def image(parallel):
        along = rng.normal(size=(mask.sum(), 3))
        signals = [fibres(directions, bvals, a / np.linalg.norm(a), d) for a, d in zip(along, parallel, strict=True)]
        return Image(rows_of(mask, encode(np.asarray(signals, dtype=np.float32))), mask, context)

    truth, other = (image(rng.uniform(0.8e-3, 2.0e-3, mask.sum())) for _ in range(2))
    return representation, truth, Image(truth.channels, mask, context), other


@pytest.mark.parametrize("name", plugins.list_metrics())
def test_every_metric_is_best_for_the_truth_itself_and_for_nothing_else(name, images):
    representation, truth, same, other = images
    measures = measures_of([name], representation)
    card = measures.cards[name]
    assert measures.of(same, truth, "here")[name] == pytest.approx(card.best, abs=1e-6)
    assert abs(measures.of(other, truth, "here")[name] - card.best) > 1e-9
    assert not measures.trouble


def test_a_metric_for_groups_is_taken_of_each(images):
    representation, truth, _, other = images
    numbers = measures_of(["sh_standardised"], representation).of(other, truth, "here")
    assert set(numbers) == {m + g for m in ("sh_mse", "sh_standardised") for g in ("", *(f" {n}" for n in ORDER_NAMES))}
    widths = [s.stop - s.start for s in representation.groups().values()]
    mean = np.average([numbers[f"sh_mse {name}"] for name in ORDER_NAMES], weights=widths)
    assert mean == pytest.approx(numbers["sh_mse"])


ORDER_NAMES = [f"b = {b}, l = {l}" for b in (1200, 3000) for l in (0, 2, 4)]


def test_routine_metrics_are_a_part_of_all_and_an_unknown_one_is_named():
    representation = SHSignal([1200.0], 4, 0.0)
    routine, every = (list(measures_of([word], representation).cards) for word in ("routine", "all"))
    assert routine[0] == every[0] == "sh_mse"
    assert {"fa_mse", "md_mse", "direction", "rish0_mse"} <= set(routine) < set(every)
    assert set(every) == set(METRICS.names())
    with pytest.raises(NotFoundError, match="no metric 'fa_msee'"):
        measures_of(["fa_msee"], representation)


def test_a_metric_that_cannot_be_measured_is_none_with_a_reason_and_stops_nothing(images):
    representation, truth, _, other = images
    few = replace(truth.context.signal, decode=lambda rows: rows[:, :3], bvals=np.full(3, 1200.0), directions=np.eye(3))
    thin = [Image(i.channels, i.mask, replace(i.context, signal=few)) for i in (other, truth)]
    measures = measures_of(["fa_mse"], representation)
    numbers = measures.of(*thin, "p of s0")
    assert numbers["fa_mse"] is None
    assert numbers["sh_mse"] > 0
    (told,) = measures.trouble
    assert told.startswith("fa_mse of p of s0 was not measured: the 3 directions")


def test_a_prediction_that_is_not_finite_has_no_number_at_all(images):
    representation, truth, same, _ = images
    broken = same.channels.copy()
    broken[6, 6, 6, 0] = np.nan
    numbers = measures_of(["fa_mse"], representation).of(Image(broken, truth.mask, truth.context), truth, "here")
    assert all(np.isnan(number) for number in numbers.values())


def test_a_package_can_bring_a_metric(images, monkeypatch):
    representation, truth, _, other = images

    def harmonet_metrics():
        return [entry]

    entry = MetricEntry(
        name="worst_of_tests",
        build=lambda: lambda prediction, truth: np.abs(prediction.channels - truth.channels)[truth.mask].max(),
        summary="largest error of a channel",
    )
    package = SimpleNamespace(harmonet_metrics=hn.hookimpl(harmonet_metrics))
    manager = pluggy.PluginManager("harmonet")
    manager.add_hookspecs(hookspecs)
    monkeypatch.setattr(catalogue, "REGISTRY", catalogue.REGISTRY.copy())
    plugin = plugins._admitted(manager, Candidate("odd", "odd-package", "1.0", lambda: package), [])
    assert (plugin.problem, plugin.entries) == (None, ("worst_of_tests",))
    number = measures_of(["worst_of_tests"], representation).of(other, truth, "here")["worst_of_tests"]
    assert number == pytest.approx(np.abs(other.channels - truth.channels).max())


def test_labels_come_from_the_nearest_voxel_of_any_grid_of_the_same_world(tmp_path):
    from harmonet.data.nifti import write_nifti

    coarse = np.arange(1, 9).reshape(2, 2, 2).astype(np.float32)
    write_nifti(
        tmp_path / "s0.nii.gz", coarse[::-1], np.array([[-4, 0, 0, 5], [0, 4, 0, 1], [0, 0, 4, 1], [0, 0, 0, 1]])
    )
    onto = Grid((5, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))
    found = read_labels(str(tmp_path / "{subject}.nii.gz"), "s0", "p", onto)
    assert np.array_equal(found[:4], coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert not found[4].any()  # outside the map
    with pytest.raises(DataError, match=r"write a path with \{subject\}"):
        read_labels("{who}.nii.gz", "s0", "p", onto)
    write_nifti(tmp_path / "s1.nii.gz", coarse / 2, np.eye(4))
    with pytest.raises(DataError, match=r"s1\.nii\.gz is no label map"):
        read_labels(str(tmp_path / "{subject}.nii.gz"), "s1", "p", onto)


# ---- runs in one table


@pytest.fixture(scope="module")
def single(tiny_run):
    """A small run: one network for one platform."""
    return hn.load(tiny_run / "singles" / "prisma_st.diqt")


def part(run, folder, test, seed=0, **changes):
    """The run as if it were a part of a sweep that had held out these subjects."""
    everybody = {*run.split.train, *run.split.validation, *run.split.test}
    split = Split(tuple(sorted(everybody - set(test))), (), tuple(test))
    recipe = run.recipe.model_copy(update={"seed": seed, **changes})
    return replace(run, folder=folder, split=split, recipe=recipe, facts={**run.facts, "images": {}})


def names_of(dataset):
    return list(dataset.subjects)


@pytest.fixture(scope="module")
def pooled(single, tiny_heads, tmp_path_factory):
    """Three folds with two seeds, whose weights are the same."""
    folder, dataset = tmp_path_factory.mktemp("sweep") / "cv", open_dataset(tiny_heads)
    runs = [
        part(single, folder / f"fold-{n}of3_seed-{seed}", [name], seed)
        for n, name in enumerate(dataset.subjects, 1)
        for seed in (0, 1)
    ]
    return runs, evaluate(runs, dataset, quiet, protocol="paper")


def test_folds_are_pooled_and_each_subject_is_predicted_by_those_who_held_it_out(pooled, tiny_heads):
    runs, found = pooled
    assert list(found.subjects) == names_of(open_dataset(tiny_heads))
    assert list(found.methods) == ["identity", "interpolation", "linear", "rish_linear", "the target itself", "diqt"]
    told = {(s.subject, s.run) for s in found.scores if s.method == "diqt"}
    assert told == {(run.split.test[0], run.folder.name) for run in runs}
    assert len(found.values("diqt", "prisma_st", "truth")) == 3
    assert row(comparisons(found, "truth"), "linear", "interpolation").comparison.n == 3
    assert not found.leaky


def test_baselines_learn_from_the_training_subjects_of_the_fold_alone(pooled, tiny_heads):
    from harmonet.reading import read_heads

    runs, found = pooled
    dataset, run = open_dataset(tiny_heads), runs[0]
    heads = {n: read_heads(dataset, [n], run.recipe, quiet)[0] for n in dataset.subjects}
    linear = Linear(run.representation.groups())
    linear.fit([linear.learn(hn.Pair(n, heads[n].source, heads[n].targets["prisma_st"])) for n in run.split.train])
    head = heads[run.split.test[0]]
    target = head.targets["prisma_st"]
    said = linear.predict(head.source, target.grid)
    error = np.mean((said - target.channels)[target.mask] ** 2)
    assert found.errors("linear", "prisma_st", "target")[head.subject] == pytest.approx(error, rel=1e-4)


def test_learned_baselines_beat_interpolation_where_platforms_differ_in_gain(pooled):
    _, found = pooled
    linear, plain = (np.mean(found.values(m, "prisma_st", "truth")) for m in ("linear", "interpolation"))
    assert linear < plain


def test_the_papers_test_over_patches_comes_with_its_warning(pooled):
    _, found = pooled
    shown = {(p.method, p.against): p for p in found.patched}
    assert shown["diqt", "truth"].test is None  # the best single network is not compared with itself
    assert shown["linear", "truth"].test is None  # what is no network is shown and not tested
    assert shown["diqt", "truth"].mean > 0
    assert "too small" in files_of(found)["patches.md"]


def test_what_cannot_be_pooled_is_refused_with_both_names(single, tmp_path, tiny_heads):
    a, b, c = names_of(open_dataset(tiny_heads))
    one = part(single, tmp_path / "cv" / "fold-1of3", [a])
    training = single.recipe.training.model_copy(update={"batch_size": 3})
    cases = {
        "fold-2of3 and .*fold-1of3 cannot be pooled, their recipes differ in training": part(
            single, tmp_path / "cv" / "fold-2of3", [b], training=training
        ),
        "fold-1of3 and .*fold-1of2 cannot be pooled, both test": part(single, tmp_path / "cv" / "fold-1of2", [a, b]),
        "fold-1of3, .*fold-2of3_seed-1 and .*fold-2of3_seed-1 cannot be pooled": part(
            single, tmp_path / "cv" / "fold-2of3_seed-1", [a, c], 1
        ),
    }
    for words, other in cases.items():
        with pytest.raises(RunError, match=words):
            series_of([one, other])
    with pytest.raises(RunError, match=f"other tests on {c}, cv on {a}"):
        series_of([one, part(single, tmp_path / "other", [c])])
    assert [len(s.runs) for s in series_of([one, part(single, tmp_path / "cv" / "fold-2of3", [b], 0)])] == [2]


def test_without_the_training_subjects_baselines_that_learn_are_left_out_and_it_is_said(single, tiny_heads, tmp_path):
    heads = shutil.copytree(tiny_heads, tmp_path / "heads")
    shutil.rmtree(heads / single.split.train[0])
    found = evaluate([single], open_dataset(heads), quiet, metrics=["sh_mse"])
    assert "linear" not in found.methods
    (told,) = [note for note in found.notes if "linear" in note]
    assert told.endswith(f"heads lacks {single.split.train[0]}")


def test_a_folder_of_a_sweep_stands_for_its_runs(single, tiny_heads, tmp_path, invoke):
    for number, name in enumerate(names_of(open_dataset(tiny_heads)), 1):
        folder = shutil.copytree(single.folder, tmp_path / "cv" / f"fold-{number}of3")
        facts = json.loads((folder / "model.json").read_text())
        others = sorted({*open_dataset(tiny_heads).subjects} - {name})
        facts |= {"split": facts["split"] | {"train": others, "validation": [], "test": [name]}, "images": {}}
        (folder / "model.json").write_text(json.dumps(facts))
    assert [path.name for path in run_folders([tmp_path / "cv"])] == [f"fold-{n}of3" for n in (1, 2, 3)]
    ended = invoke("eval", tmp_path / "cv", "--data", tiny_heads, "--metrics", "fa_mse", "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert "3 test subject(s)" in ended.out
    assert "fa_mse: mean squared error of fractional anisotropy" in ended.out
    assert "With 3 subjects no p can be below 0.25" in ended.err
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert len([s for s in found["scores"] if s["method"] == "diqt" and s["against"] == "truth"]) == 3
    assert {s["n"] for s in found["statistics"]} == {3}
    assert "rish_linear" in (tmp_path / "out" / "tables" / "fa_mse.md").read_text()


@pytest.mark.parametrize(
    ("option", "words"),
    [(("--protocol", "papers"), "--protocol 'papers' is none"), (("--metrics", "fa"), "no metric 'fa'")],
)
def test_an_option_that_is_not_understood_is_named(single, tiny_heads, invoke, option, words):
    ended = invoke("eval", single.folder, "--data", tiny_heads, *option)
    assert ended.status == 2
    assert words in ended.err

"""What one sees of a training: history as it happens, curves at the end, other programs, plain lines in a log file."""

import json
import sys

import pytest
import test_training
import torch
from test_training import model_of, train

from harmonet.cli.console import Progress
from harmonet.errors import NotFoundError, RecipeError, RunError
from harmonet.runs.curves import draw_curves
from harmonet.training.history import History
from harmonet.training.trackers import check_trackers, trackers

feeds = test_training.feeds  # a fixture

LINE = {"phase": "msp", "epoch": 1, "step": 40, "loss": 0.5, "alpha": None, "validation": {"1/near": 0.25}}

PACKAGES = {
    "mlflow": """
told = []
def active_run(): return None
def start_run(run_name): told.append(("start", run_name))
def log_metrics(found, step): told.append((found, step))
""",
    "wandb": """
told = []
run = None
class Run:
    def log(self, found): told.append(found)
def init(project, name):
    told.append(("start", name))
    return Run()
""",
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a small package of that name where Python finds it."""

    def install(name):
        (tmp_path / f"{name}.py").write_text(PACKAGES[name])
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield install
    for name in PACKAGES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mlflow", ({"msp/epoch": 1.0, "msp/step": 40.0, "msp/loss": 0.5, "msp/validation/1/near": 0.25}, 40)),
        ("wandb", {"msp/epoch": 1.0, "msp/step": 40.0, "msp/loss": 0.5, "msp/validation/1/near": 0.25}),
    ],
)
def test_a_tracker_is_told_every_number_of_a_line(installed, tmp_path, name, line):
    installed(name)
    (track,) = trackers([name], tmp_path / "run")
    track(LINE)
    assert sys.modules[name].told == [("start", "run"), line]


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_tracker_whose_package_is_absent_is_refused_with_the_remedy(name, monkeypatch):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=f"trackers names {name}, found that .*: install it, or remove it"):
        check_trackers([name])


def test_an_unknown_tracker_is_refused():
    with pytest.raises(NotFoundError, match=r"no tracker 'wand'. Did you mean wandb"):
        check_trackers(["wand"])


def test_history_is_there_while_the_training_goes_on(feeds, tmp_path):
    seen = []
    path = tmp_path / "history.jsonl"
    train(model_of(), feeds, tmp_path, 2, lambda *_: seen.append(len(path.read_text().splitlines())))
    assert sorted(set(seen)) == [0, 1]
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


def test_lines_after_the_checkpoint_and_a_torn_last_one_are_dropped_on_resume(feeds, tmp_path):
    path = tmp_path / "history.jsonl"
    train(model_of(), feeds, tmp_path, 2)
    before = path.read_text()
    path.write_text(before + json.dumps(LINE | {"epoch": 3}) + "\n" + '{"phase": "ms')
    train(model_of(), feeds, tmp_path, 3)
    lines = path.read_text().splitlines()
    assert "\n".join(lines[:2]) + "\n" == before
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_line_is_written_before_trackers_are_told(tmp_path):
    def broken(line):
        raise RuntimeError("no network")

    history = History(tmp_path / "history.jsonl", [broken])
    history.begin([])
    with pytest.raises(RuntimeError, match=r"no network"):
        history.add(LINE)
    assert json.loads(history.path.read_text()) == LINE


def lines_of(epochs, phases=("msp",), groups=("l = 0", "l = 2"), alpha=0.5):
    terms = ("0/near", "1/near", "1/fine")
    return [
        {
            "phase": phase,
            "epoch": epoch,
            "learning_rate": 1e-4,
            "alpha": alpha,
            "loss": 1 / epoch,
            "validation": dict.fromkeys(terms, 1 / epoch),
            "groups": {term: dict.fromkeys(groups, 2 / epoch) for term in terms if groups},
        }
        for phase in phases
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(
    ("history", "titles", "labels"),
    [
        (lines_of(3), 4, {"near, stage 0", "near, stage 1", "fine, stage 1", "near, l = 2", "fine, l = 0"}),
        (lines_of(3, groups=(), alpha=None), 2, {"near, stage 0"}),
        (lines_of(1, phases=("diqt for near", "espcn for near")), 4, {"near, stage 0, espcn for near"}),
    ],
)
def test_curves_show_platforms_stages_orders_rate_and_alpha(history, titles, labels, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k))[1])
    (path,) = draw_curves(tmp_path, history)
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    found = {text.get_text() for axes in figure.axes if axes.legend_ for text in axes.legend_.get_texts()}
    assert labels <= found
    assert len([axes for axes in figure.axes if axes.get_title()]) == titles
    assert any("alpha" in axes.get_ylabel() for axes in figure.axes) == (history[0]["alpha"] is not None)


def test_away_from_a_terminal_progress_is_plain_lines_at_intervals_with_time_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("harmonet.cli.console.time.monotonic", lambda: clock[0])
    with Progress() as progress:
        for done in range(1, 101):
            clock[0] += 1.0
            progress("msp", done, 100, "loss 0.5")
    err = capsys.readouterr().err
    assert not set("\r\x1b") & set(err)
    lines = err.splitlines()
    assert 3 <= len(lines) <= 8
    assert all(line.startswith("msp: ") and line.endswith("  loss 0.5") for line in lines)
    assert all(" left" in line for line in lines[:-1])
    assert lines[-1].startswith("msp: 100/100, took ")


class Poison(torch.autograd.Function):
    """Passes values on, and makes their gradient NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def poisoned(at, where):
    """A model whose network for `near` is spoilt in one step: its prediction, or only the gradient."""
    model, calls = model_of(), [0]

    def spoil(module, _inputs, output):
        calls[0] += module.training
        if not (module.training and calls[0] == at):
            return output
        return output * float("nan") if where == "loss" else Poison.apply(output)

    model.singles["near"][0].register_forward_hook(spoil)
    return model


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("loss", "test: the loss of near in stage 0, .*is not finite at epoch 2, step 3: .*last good checkpoint is in"),
        ("gradient", "test: the gradient of near is not finite at epoch 2, step 3: .*last good checkpoint is in"),
    ],
)
def test_a_planted_nan_stops_with_its_place_and_leaves_a_good_checkpoint(feeds, tmp_path, where, words):
    per_epoch = feeds[0].steps(4)
    with pytest.raises(RunError, match=words):
        train(poisoned(per_epoch + 3, where), feeds, tmp_path, 3)
    model = model_of()
    outcome = train(model, feeds, tmp_path, 3)
    assert [line["epoch"] for line in outcome.history] == [1, 2, 3]
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_planted_nan_is_skipped_and_counted_if_asked_for(feeds, tmp_path, where):
    model = poisoned(2, where)
    outcome = train(model, feeds, tmp_path, 2, manner={"skip": True})
    assert outcome.skipped == 1
    assert [line.get("skipped") for line in outcome.history] == [1, 1]
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("budget", [{"steps": 6}, {"minutes": 1e-9}])
def test_a_budget_of_steps_or_minutes_ends_the_training_with_a_validation(feeds, tmp_path, budget):
    outcome = train(model_of(), feeds, tmp_path, 5, **budget)
    assert len(outcome.history) == 1
    if "steps" in budget:
        assert outcome.history[-1]["step"] == 6
        assert outcome.history[-1]["alpha"] == 1.0


def test_a_training_that_gains_nothing_for_long_enough_ends_early(feeds, tmp_path):
    outcome = train(model_of(), feeds, tmp_path, 9, patience=1, learning_rate=1e-12)
    assert len(outcome.history) == outcome.best_epoch + 1 < 9

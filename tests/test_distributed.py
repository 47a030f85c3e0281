"""Several processes: two train as one does, shards or copies; the command line under `torchrun` ends and goes on.

Run by itself under torchrun, this file is the training that its tests look at.
"""

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from heads import UPSAMPLING, make_head
from torch import nn
from torch._dynamo.utils import counters

import harmonet as hn
from harmonet.data.patches import PatchFeed
from harmonet.data.standardise import statistics
from harmonet.errors import RecipeError, RunError
from harmonet.recipe import to_toml
from harmonet.runs.train import train as run_training
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.engine import ALONE, Engine, launched
from harmonet.training.history import History
from harmonet.training.loop import fit
from harmonet.training.objective import Objective
from harmonet.training.schedule import Manner, Schedule

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
# In float64, so that what is compared is the arithmetic and not its rounding; shares of a batch stay float32.
SAME_HISTORY, SAME_WEIGHTS = 1e-6, 2e-5
CASES = {
    "copies": {},
    "shards": {"shard": True},
    "learned weights": {"loss": {"weighting": "uncertainty"}},
    "weights by gradients": {"loss": {"weighting": "gradnorm"}},
    "clipped": {"clip": 0.5},
}


def feeds():
    """One head lacks a platform, and half of the other's is outside its mask: the shares of a batch differ."""
    heads, validation = [make_head("a", 0), make_head("b", 1)], [make_head("c", 2)]
    del heads[1].targets["fine"], heads[1].alignments["fine"]
    heads[0].targets["near"].mask[:6] = False
    standard = {"src": statistics([h.source for h in heads], "src")}
    for platform in UPSAMPLING:
        standard[platform] = statistics([h.targets[platform] for h in heads if platform in h.targets], platform)
    # 18 patches, so that the last step of an epoch is a small one.
    return [PatchFeed(some, standard, "src", UPSAMPLING, 7, 9, 0) for some in (heads, validation)]


def model_of(normalised=True):
    """A composition in float64, by default with batch normalisation."""
    torch.manual_seed(0)
    near = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 6, 1))
    singles = {"near": near, "fine": "diqt"} if normalised else {"near": near}
    if not normalised:
        return doubled(hn.compose(singles, None, channels=6, patch_size=7))
    options = {"diqt": {"layers": 1, "widths": (4, 6)}}
    return doubled(
        hn.compose(
            singles, "msp", upsampling={"fine": 2}, channels=6, patch_size=7, taps={"near": "1"}, options=options
        )
    )


def doubled(model):
    model = model.double()
    model.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    return model


def train(engine, folder, model=None, feed=None, *, loss=None, epochs=2, **manner):
    model, feed = model or model_of(), feed or feeds()
    steps = feed[0].steps(4 // engine.ranks, engine.ranks)
    outcome = fit(
        model,
        *feed,
        schedule=Schedule(epochs=epochs, per_epoch=steps, learning_rate=3e-3, minutes=manner.pop("minutes", 0.0)),
        manner=Manner(**({"batch_size": 4} | manner)),
        seed=5,
        phase="test",
        checkpoints=Checkpoints(folder / "checkpoints"),
        history=History(folder / "history.jsonl"),
        watch=lambda *_: None,
        engine=engine,
        loss=loss,
    )
    return {"history": outcome.history, "weights": model.state_dict()}


def case(engine, folder, name):
    words = dict(CASES[name])
    engine = replace(engine, shard=words.pop("shard", False) and engine.ranks > 1)
    return train(engine, folder / name, **words)


def main(folder):
    """What each of two processes does."""
    with launched("cpu") as engine:
        ends = {name: case(engine, folder, name) for name in CASES}
        # Clocks differ: a budget of time must end both in the same step, or they would wait for each other.
        ends["minutes"] = train(engine, folder / "minutes", epochs=50, minutes=0.01)
        torch.save(ends, folder / f"{engine.rank}.pt")


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What two processes ended with, each."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run([*TORCHRUN, __file__, str(folder)], capture_output=True, text=True, timeout=300, env=env())
    assert done.returncode == 0, done.stderr
    assert "find_unused_parameters" not in done.stderr  # torch's warning, where all are used
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def env():
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HARMONET_CACHE": "off"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_with_both_their_batches(ends, tmp_path, name):
    one, two = case(ALONE, tmp_path, name), ends[0][name]
    for line, other in zip(one["history"], two["history"], strict=True):
        assert other["step"] == line["step"]
        assert other["loss"] == pytest.approx(line["loss"], rel=SAME_HISTORY)
        assert other["validation"] == pytest.approx(line["validation"], rel=SAME_HISTORY)
    for key, tensor in one["weights"].items():
        torch.testing.assert_close(
            two["weights"][key], tensor, rtol=SAME_WEIGHTS, atol=SAME_WEIGHTS * float(tensor.abs().max()), msg=key
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "minutes"])
def test_both_processes_end_with_the_same_bits(ends, name):
    first, second = (end[name] for end in ends)
    assert [line["score"] for line in first["history"]] == [line["score"] for line in second["history"]]
    assert all(torch.equal(tensor, second["weights"][key]) for key, tensor in first["weights"].items())


def test_two_passes_train_as_one_where_nothing_is_normalised_over_the_batch(tmp_path):
    heads = [make_head("a", 0), make_head("b", 1)]
    heads[0].targets["near"].mask[:6] = False
    standard = {"src": statistics([h.source for h in heads], "src")}
    standard["near"] = statistics([h.targets["near"] for h in heads], "near")
    feed = [PatchFeed(heads, standard, "src", {"near": 1}, 7, 13, 0)] * 2
    one, two = (train(ALONE, tmp_path / str(n), model_of(False), feed, accumulate=n) for n in (1, 2))
    for line, other in zip(one["history"], two["history"], strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=SAME_HISTORY)
        assert other["score"] == pytest.approx(line["score"], rel=SAME_HISTORY)


def near_feed():
    """One platform of one head, in batches of 4 and of 1."""
    head = make_head("a", 0)
    standard = {"src": statistics([head.source], "src"), "near": statistics([head.targets["near"]], "near")}
    return [PatchFeed([head], standard, "src", {"near": 1}, 7, 5, 0)] * 2


class Heavy(nn.Conv3d):
    """A layer that adds to the loss."""

    def penalty(self):
        return 1e5 * self.weight.square().sum()


def test_what_layers_add_counts_the_same_in_a_short_last_step_of_fewer_passes(tmp_path):
    ends = []
    for number in (1, 2):
        torch.manual_seed(0)
        model = doubled(hn.compose({"near": Heavy(6, 6, 1)}, None, channels=6, patch_size=7))
        ends.append(train(ALONE, tmp_path / str(number), model, near_feed(), accumulate=number))
    one, two = (end["weights"]["singles.near.weight"] for end in ends)
    torch.testing.assert_close(two, one, rtol=SAME_WEIGHTS, atol=0)


@pytest.mark.parametrize("spare", [False, True])
def test_parameters_that_no_prediction_reaches_are_looked_for_only_where_there_are_such(spare):
    net = nn.Conv3d(6, 6, 1)
    net.spare = nn.Conv3d(1, 1, 1) if spare else None
    model = hn.compose({"near": net}, None, channels=6, patch_size=7)
    assert Objective(model, torch.zeros(1, 6, 7, 7, 7)).reaches_all is not spare


def plain():
    return nn.Sequential(nn.Conv3d(2, 2, 1), nn.ReLU())


class Named(nn.Module):
    """A network that defines its own forward."""

    def __init__(self):
        super().__init__()
        self.body = plain()

    def forward(self, x):
        return self.body(x) + x


@pytest.mark.slow
@pytest.mark.skipif(not ALONE.can_compile, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch's own files
@pytest.mark.parametrize("build", [plain, Named])
def test_a_network_is_compiled_whoever_wrote_its_forward(build):
    network, x = build(), torch.randn(1, 2, 3, 3, 3)
    expected, names = network(x), list(network.state_dict())
    torch.compiler.reset()
    before = counters["stats"]["unique_graphs"]
    ALONE.compile(network)
    torch.testing.assert_close(network(x), expected)
    assert counters["stats"]["unique_graphs"] == before + 1
    assert list(network.state_dict()) == names
    torch.testing.assert_close(copy.deepcopy(network)(x), expected)


def test_compiling_without_a_compiler_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RunError, match=r"^\[training\] compile = true needs a C\+\+ compiler, found none of g\+\+, "):
        train(ALONE, tmp_path, model_of(normalised=False), near_feed(), compile=True)
    assert not (tmp_path / "checkpoints").exists()


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"batch_size 4 does not divide among 3 processes and 1 passes: .* of 3"):
        train(Engine(ranks=3), tmp_path)


def test_bfloat16_trains_to_nearly_the_same(tmp_path):
    scores = []
    for precision in ("float32", "bfloat16"):
        model = model_of().float()
        model._forward_pre_hooks.clear()
        end = train(Engine(precision=precision), tmp_path / precision, model)
        assert all(tensor.isfinite().all() for tensor in end["weights"].values())
        scores.append(end["history"][-1]["score"])
    assert scores[1] == pytest.approx(scores[0], rel=0.05)
    assert scores[1] != scores[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cpu", "float16"), "float16 needs a GPU, found a CPU"),
        (("abacus",), "device 'abacus' is none"),
        pytest.param(
            ("cuda",),
            "torch finds no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_device_that_is_not_there_or_cannot_is_refused(words, message):
    with pytest.raises(RunError, match=message), launched(*words):
        pass


@pytest.fixture
def small_recipe(tiny_recipe):
    """Three single networks for an epoch each, then their composition."""
    model = tiny_recipe.model
    candidates = {platform: names[:1] for platform, names in model.candidates.items()}
    training = tiny_recipe.training.model_copy(update={"epochs": 1, "joint_epochs": 2})
    model = model.model_copy(update={"candidates": candidates})
    return tiny_recipe.model_copy(update={"model": model, "training": training})


@pytest.fixture
def command(tiny_heads, small_recipe, tmp_path):
    """`harmonet train` in two processes."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(small_recipe))
    return [*TORCHRUN, "-m", "harmonet", "train", *map(str, (recipe, "--data", tiny_heads, "--out", tmp_path / "run"))]


@pytest.mark.slow
def test_a_terminated_command_resumes_and_writes_what_one_process_would(command, tiny_heads, small_recipe, tmp_path):
    words = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env()}
    # On a new folder --resume begins, so that a job that may be started again can always say it.
    first = subprocess.Popen([*command, "--resume"], **words)
    wait_for(tmp_path / "run" / "singles" / "prisma_st.diqt" / "history.jsonl", first)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode != 0
    assert not (tmp_path / "run" / "model.json").exists()
    second = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120, env=env())
    assert second.returncode == 0, said + second.stderr
    assert second.stderr.count("wrote ") == 1
    run, other = (
        hn.load(tmp_path / "run"),
        run_training(small_recipe, hn.open_dataset(tiny_heads), tmp_path / "one", quiet),
    )
    assert run.facts["validation"]["score"] == pytest.approx(other.facts["validation"]["score"], rel=1e-3)
    assert not list((tmp_path / "run").rglob("*.partial"))


def quiet(*_):
    pass


@pytest.mark.slow
def test_a_killed_process_ends_the_other_in_time(command, tmp_path):
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env())
    wait_for(tmp_path / "run" / "recipe.toml", job)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(job.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    began = time.monotonic()
    _, said = job.communicate(timeout=60)
    assert job.returncode != 0
    assert time.monotonic() - began < 40
    assert "harmonet: " in said


def wait_for(path, process):
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

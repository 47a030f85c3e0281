"""What several test files share: small simulated heads on disk, a small trained run, the real acquisitions."""

import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import pytest

# Before torch is imported: the suite runs in as many processes as there are cores, so each has one thread.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ["HARMONET_CACHE"] = "off"  # nothing is left in the home folder of who runs the tests

TINY = {"diqt": {"layers": 1, "widths": [4, 6]}, "shresnet": {"blocks": 1, "width": 4}}


@pytest.fixture(scope="session")
def tiny_heads(tmp_path_factory):
    """Three simulated heads of a few thousand voxels, four platforms each."""
    from harmonet.data.simulate import simulate

    out = tmp_path_factory.mktemp("data") / "heads"
    simulate(out, subjects=3, seed=7, shape=(16, 17, 16))
    return out


@pytest.fixture(scope="session")
def tiny_recipe():
    """Both networks as candidates for one platform, one pinned for the others; a few steps of training."""
    from harmonet.build import recipe_of
    from harmonet.platforms import preset
    from harmonet.recipe import parse

    recipe = recipe_of(
        preset("cdmri2017"),
        {"prisma_st": ["diqt", "shresnet"], "connectom_st": ["shresnet"], "connectom_sa": ["diqt"]},
        fusion="msp",
        options=TINY,
        order=4,
    )
    training = {
        "epochs": 2,
        "joint_epochs": 3,
        "patches_per_subject": 12,
        "validation_patches": 8,
        "batch_size": 4,
        "learning_rate": 1e-3,
    }
    return parse(recipe.model_dump(exclude_none=True) | {"training": training}, "tiny")


@pytest.fixture(scope="session")
def tiny_run(tiny_heads, tiny_recipe, tmp_path_factory):
    """A trained run folder."""
    from harmonet.data.layout import open_dataset
    from harmonet.runs.train import train

    out = tmp_path_factory.mktemp("runs") / "msp"
    train(tiny_recipe, open_dataset(tiny_heads), out, lambda *_: None)
    return out


@pytest.fixture(scope="session")
def real_data():
    """The folder of real acquisitions, where there is one."""
    folder = os.environ.get("HARMONET_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HARMONET_REAL_DATA names no folder of real acquisitions")
    return Path(folder)


@pytest.fixture
def invoke(capsys, monkeypatch):
    """Runs `harmonet ARGS` in this process, which is left as it was."""
    from bench import Ended

    from harmonet.cli import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["harmonet", *map(str, args)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def bench(tmp_path, tiny_heads, tiny_run, tiny_recipe):
    from bench import Bench

    from harmonet.recipe import to_toml

    heads = shutil.copytree(tiny_heads, tmp_path / "heads", copy_function=os.link)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(tiny_recipe))
    return Bench(tmp_path, heads, tiny_run, recipe)

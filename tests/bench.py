"""For tests of the command line: running it, and a place to spoil things."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

NOTES = ("data: simulated", "the model was trained on: simulated", "reading: ")
SMALL = ["diqt.layers=1", "diqt.widths=[4, 6]", "shresnet.blocks=1", "shresnet.width=4"]
SMALL = [word for text in SMALL for word in ("--option", text)]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def process(*args, **environment):
    """`harmonet ARGS` as a process of its own."""
    command = [sys.executable, "-m", "harmonet", *map(str, args)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def listing(folder):
    """Every file below a folder, with what tells whether it was touched."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()}


def one_line(ended, status=2):
    """The one line that a command ended with, after nothing but notes on the data."""
    assert (ended.status, ended.out) == (status, "")
    *notes, line = ended.err.splitlines()
    assert all(note.startswith(NOTES) for note in notes), notes
    assert line.startswith("harmonet: ")
    assert line.endswith((".", "]"))
    return line


@dataclass(frozen=True, eq=False)
class Bench:
    """A place to spoil things: the data set is a copy whose files are links, so they are replaced, never written."""

    root: Path
    heads: Path
    run: Path
    recipe: Path

    @property
    def scan(self):
        return self.heads / "sim01" / "ge" / "st"

    def file(self, name, content=""):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def replace(self, path, content):
        path.unlink()
        path.write_bytes(content)
        return path

    def cut(self, path):
        return self.replace(path, path.read_bytes()[:-100])

    def mask(self, shape=(16, 17, 16), shift=0.0):
        affine = nib.load(self.scan / "dwi.nii.gz").affine.copy()
        affine[0, 3] += shift
        image = np.zeros(shape, np.uint8)
        image[4:8, 4:8, 4:8] = 1
        nib.save(nib.Nifti1Image(image, affine), self.root / "other_mask.nii.gz")
        return self.root / "other_mask.nii.gz"

    def predict(self, *more, run=None, scan=None, **files):
        scan = scan or self.scan
        found = {"dwi": "dwi.nii.gz", "bval": "dwi.bval", "bvec": "dwi.bvec", "mask": "mask.nii.gz"}
        found = {name: files.get(name, scan / file) for name, file in found.items()}
        words = [word for name, path in found.items() for word in (f"--{name}", path)]
        return ["predict", run or self.run, *words, "--out", self.root / "out", *more]

    def train(self, *more, recipe=None, heads=None, out="out"):
        return ["train", recipe or self.recipe, "--data", heads or self.heads, "--out", self.root / out, *more]

    def eval(self, *more, run=None, heads=None, out="out"):
        return ["eval", run or self.run, "--data", heads or self.heads, "--out", self.root / out, *more]

    def compose(self, *more, single="diqt"):
        return ["compose", "--single", single, *SMALL[:4], "--order", "4", "--out", self.root / "out.toml", *more]

    def unfinished(self):
        return self.file("begun/recipe.toml", self.recipe.read_text()).parent

    def misspelt(self, old, new):
        return self.file("recipe2.toml", self.recipe.read_text().replace(old, new))

"""Models that travel: a run without what belongs to its machine and its subjects, with a card and a proof of itself.

An export is a run folder that `load` reads: recipe.toml, weights.safetensors, model.json, README.md and
check.safetensors, which holds patches and what the model makes of them. Members that were trained elsewhere are in the
weights, so that it needs no other folder.
"""

import copy
import io
import json
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from harmonet.data.splits import Split
from harmonet.data.standardise import Standardisation
from harmonet.errors import DataError, NotFoundError, OutputError, RunError
from harmonet.files import foreign_in, sha256, staged, write_whole
from harmonet.model import answers
from harmonet.recipe import Recipe, to_toml
from harmonet.runs.card import card
from harmonet.runs.folder import MODEL, RECIPE, WEIGHTS, Trained
from harmonet.runs.folder import PARTS as SPLIT

README, CHECK = "README.md", "check.safetensors"
PARTS = (RECIPE, WEIGHTS, README, CHECK, MODEL)
TOLERANCE = 1e-5  # of a channel's root mean square; our choice
PRECISIONS = (torch.float64, torch.float32)  # of the check: in float32 machines differ by as much as the tolerance
MOST_FILES, MOST_BYTES, MOST_RATIO = 100, 8 << 30, 200  # of a zip: what a model may unpack to
KEPT = (  # of model.json; whatever else a run notes stays at home
    *("format", "harmonet", "torch", "label", "simulated", "created", "providers", "networks", "options"),
    *("restandardised", "representation", "standardisation", "gradients"),
)
LEFT_OUT = (
    "subjects' names: how many there were is kept, and the SHA-256 of the source images that trained, by which whoever "
    "holds them can tell",
    "the data set's name and facts, and notes on its subjects",
    "paths of trained runs among the candidates: their networks are in the weights",
    "history, curves, checkpoints, single networks beside the model, and what was measured of the machine",
)


def export(
    run: Trained,
    out: Path,
    *,
    licence: str = "",
    failures: Sequence[str] = (),
    scores: Path | None = None,
    force: bool = False,
) -> None:
    """Write the model to a folder, or to a file where `out` ends in `.zip`; it appears when all of it is written.

    Args:
        run: A trained model.
        out: Where to.
        licence: Of the weights.
        failures: Known failures for the card, a sentence each.
        scores: `scores.json` of `harmonet eval` for the card.
        force: Replace an export.

    Raises:
        OutputError: `out` lies in the run, exists, or is no export.
        DataError: The scores cannot be read, or are another run's.
        RunError: The run has a method that is no network.
    """
    refuse_methods(run)
    name = run.folder.resolve().name
    _refuse_taken(run, out, force=force)
    if out.suffix != ".zip":
        with staged(out) as folder:
            _fill(folder, run, name, licence, failures, scores)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        folder.mkdir()
        _fill(folder, run, name, licence, failures, scores)
        write_whole(out, _packed(folder))


def verify(run: Trained) -> dict[str, float]:
    """Platform to how far the model is from its expected output here: the largest difference, over a channel's RMS.

    Raises:
        NotFoundError: The run has no expected output, since it is no export.
        RunError: It cannot be read, or is of other platforms or sizes than the model.
    """
    path = run.folder / CHECK
    if not path.is_file():
        raise NotFoundError(f"{run.folder} has no expected output ({CHECK}): make one that has with `harmonet export`.")
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} cannot be read ({error}): copy the model from its source.") from None
    given = tensors.pop("input", torch.zeros(0))
    patch = run.recipe.model.patch_size
    if given.shape[1:] != (run.representation.channels, patch, patch, patch) or given.dtype not in PRECISIONS:
        raise RunError(f"{path} has no input of the model's channels and patches: copy the model from its source.")
    found = _predicted(run, given)
    if {name: y.shape for name, y in found.items()} != {name: y.shape for name, y in tensors.items()}:
        raise RunError(f"{path} expects other platforms or sizes than the model gives: copy it from its source.")
    return {name: _apart(found[name], tensors[name]) for name in found}


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a model: `path` itself, or what a `.zip` holds, in a temporary folder until the block ends.

    Raises:
        DataError: The file is no zip, or has parts that no export has: other places, links, too much.
    """
    if path.suffix != ".zip" or path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as place:
        inside = Path(place) / path.stem
        inside.mkdir()
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, path, inside)
        except FileNotFoundError:
            raise NotFoundError(f"there is no file {path}: check the name.") from None
        except (
            OSError,
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            ValueError,
            EOFError,
            zlib.error,
        ) as error:
            raise DataError(f"{path} cannot be unpacked ({error}): copy it again from its source.") from None
        folders = [inside, *(folder for folder in inside.iterdir() if folder.is_dir())]
        yield next((folder for folder in folders if (folder / MODEL).is_file()), inside)


def refuse_methods(run: Trained) -> None:
    """Refuse to export what is no network: an export is held against what it makes of patches, and a method of none."""
    if run.methods:
        raise RunError(
            f"{run.folder} holds the method {run.recipe.model.method}, and networks alone travel: copy the run."
        )


def _refuse_taken(run: Trained, out: Path, *, force: bool) -> None:
    if out.resolve().is_relative_to(run.folder.resolve()):
        raise OutputError(f"{out} lies in the run {run.folder}, which is only read: choose a place outside it.")
    if not out.exists():
        return
    if out.is_dir() == (out.suffix == ".zip"):
        raise OutputError(f"{out} exists and is {'a folder' if out.is_dir() else 'a file'}: choose another name.")
    if out.is_dir() and (foreign := foreign_in(out, PARTS)):
        raise OutputError(f"{out} holds {foreign}, which is no part of an exported model: choose another folder.")
    if not force:
        raise OutputError(f"{out} exists: add --force to replace it, or choose another name.")


def _fill(folder: Path, run: Trained, name: str, licence: str, failures: Sequence[str], scores: Path | None) -> None:
    """Write the files of an export, model.json last."""
    split = _counted(run.split)
    recipe = _alone(run)
    facts = {key: run.facts[key] for key in KEPT if key in run.facts}
    facts["validation"] = _named(run.facts["validation"])
    travels = replace(run, recipe=recipe, split=split, facts=facts)
    tensors = _checked(run)
    write_whole(folder / WEIGHTS, (run.folder / WEIGHTS).read_bytes())
    write_whole(folder / RECIPE, to_toml(recipe).encode())
    write_whole(folder / CHECK, safetensors.torch.save(tensors))
    write_whole(folder / README, card(travels, name, licence, failures, scores, LEFT_OUT).encode())
    names = {
        old: new for part in SPLIT for old, new in zip(getattr(run.split, part), getattr(split, part), strict=True)
    }
    facts |= {
        "images": {names[old]: digest for old, digest in run.facts["images"].items() if old in names},
        "split": {part: list(getattr(split, part)) for part in SPLIT} | {"scheme": split.scheme},
        "export": {"harmonet": version("harmonet"), "name": name, "licence": licence, "left_out": list(LEFT_OUT)},
        "artefacts": {part: sha256(folder / part) for part in PARTS if part != MODEL},
    }
    write_whole(folder / MODEL, (json.dumps(facts, indent=1) + "\n").encode())


def _counted(split: Split) -> Split:
    """The split with numbers for names; who is in two parts, as the paper's patches are, has one number.

    >>> _counted(Split(("ann", "bob"), ("cid",), ("bob",)))
    Split(train=('subject-1', 'subject-2'), validation=('subject-3',), test=('subject-2',), scheme='subjects')
    """
    everyone = dict.fromkeys(name for part in SPLIT for name in getattr(split, part))
    numbers = {name: f"subject-{number}" for number, name in enumerate(everyone, 1)}
    train, validation, test = (tuple(numbers[name] for name in getattr(split, part)) for part in SPLIT)
    return Split(train, validation, test, scheme=split.scheme)


def _alone(run: Trained) -> Recipe:
    """The recipe with the networks that are used as candidates, and numbers of subjects in place of their names."""
    recipe = run.recipe
    candidates = {p: list(dict.fromkeys(names.split("+"))) for p, names in run.facts["networks"].items()}
    held = {part: getattr(recipe.split, part) for part in ("validation", "test")}
    counts = {part: len(names) for part, names in held.items() if isinstance(names, list) and names}
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"candidates": candidates, "restandardise": []}),
            "split": recipe.split.model_copy(update=counts),
        }
    )


def _named(validation: Mapping[str, Any]) -> dict[str, Any]:
    """Validation errors with a run folder's name for its path."""
    chosen = {p: c | {"candidate": _last(c["candidate"])} for p, c in validation.get("chosen", {}).items()}
    candidates = {p: {_last(c): e for c, e in errors.items()} for p, errors in validation.get("candidates", {}).items()}
    return {**validation, "candidates": candidates, "chosen": chosen}


def _last(candidate: str) -> str:
    """A registered name as it is, of a path its last part.

    >>> _last("shresnet@2"), _last("/data/ann/runs/old/")
    ('shresnet@2', 'run old')
    """
    parts = PurePosixPath(candidate.replace("\\", "/"))
    return candidate if str(parts) == candidate and len(parts.parts) == 1 else f"run {parts.name}"


def _checked(run: Trained) -> dict[str, Tensor]:
    """The input and the expected outputs: in float64, or float32 where a network computes in nothing else."""
    given = _patches(run)
    for precision in PRECISIONS:
        try:
            return {"input": given.to(precision)} | _predicted(run, given.to(precision))
        except (RuntimeError, TypeError) as error:
            reason = error
    raise RunError(f"{run.folder} predicts nothing from a random patch ({reason}): train it again.")


def _patches(run: Trained) -> Tensor:
    """(2, C, n, n, n) random patches: nobody's brain. In the representation's units, where these are known."""
    size = [run.recipe.model.patch_size] * 3
    drawn = torch.randn(2, run.representation.channels, *size, generator=torch.Generator().manual_seed(0))
    statistics = run.standardise_source
    if not isinstance(statistics, Standardisation):
        return drawn  # standardised by itself
    return _channels_first(statistics.invert(_channels_last(drawn)))


def _predicted(run: Trained, patches: Tensor) -> dict[str, Tensor]:
    """Platform to what the model makes of the patches, in the representation's units."""
    statistics = run.standardise_source
    if isinstance(statistics, Standardisation):
        given = _channels_last(patches)
        patches = _channels_first(statistics.apply_to(given, np.ones(given.shape[:-1], dtype=np.bool_)))
    with torch.inference_mode():
        found = answers(copy.deepcopy(run.model).eval().to("cpu", patches.dtype)(patches))
    return {p: _channels_first(run.standardise[p].invert(_channels_last(y))) for p, y in found.items()}


def _channels_last(patches: Tensor) -> Any:
    return patches.movedim(1, -1).contiguous().numpy()


def _channels_first(patches: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(patches)).movedim(-1, 1).contiguous()


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the root mean square of its channel; infinite where a number is none."""
    axes = (0, 2, 3, 4)
    found, expected = found.double(), expected.double()
    difference = (found - expected).abs().amax(axes)
    size = expected.square().mean(axes).sqrt()
    ratio = torch.where(difference == 0, difference, difference / size)
    return float(ratio.nan_to_num(nan=float("inf")).max())


def _packed(folder: Path) -> bytes:
    """A zip of a folder, the same bytes for the same files: without times and owners."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for part in PARTS:
            entry = zipfile.ZipInfo(f"{folder.name}/{part}")
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, (folder / part).read_bytes())
    return content.getvalue()


def _unpack(archive: zipfile.ZipFile, path: Path, out: Path) -> None:
    """Unpack a stranger's zip; all is looked at before anything is written."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    size, limit = sum(entry.file_size for entry in entries), min(MOST_BYTES, MOST_RATIO * path.stat().st_size)
    if len(entries) > MOST_FILES or size > limit:
        raise DataError(f"{path} would unpack to {len(entries)} files of {size} bytes: this is no exported model.")
    seen: set[str] = set()
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = all(part.strip(". ") and not set(part) & set('\\:*?"<>|') and part.isprintable() for part in parts)
        if not plain or entry.filename.startswith("/") or len(parts) > 2 or kind not in (0, stat.S_IFREG):
            raise DataError(f"{path} holds {entry.filename!r}, which an exported model never does: do not use it.")
        if entry.filename.casefold() in seen:
            raise DataError(f"{path} holds {entry.filename!r} twice: do not use it.")
        seen.add(entry.filename.casefold())
    for entry in entries:
        place = out / entry.filename
        place.parent.mkdir(exist_ok=True)
        with archive.open(entry) as there, place.open("xb") as here:
            shutil.copyfileobj(
                there, here
            )  # no more than the size that was looked at, and its checksum is held against it

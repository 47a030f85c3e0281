"""Many subjects into one folder of BIDS derivatives, each whole or not at all, those that are done not done again."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harmonet.data.acquisition import Acquisition
from harmonet.data.layout import TravellingHeads
from harmonet.errors import DataError, HarmonetError, OutputError
from harmonet.files import foreign_in, sha256, staged, write_whole
from harmonet.inference import MEMORY
from harmonet.reading import Reading
from harmonet.runs.folder import MODEL, Trained
from harmonet.runs.predict.output import Output, as_json, remarks, write_predictions
from harmonet.runs.predict.reading import read_new
from harmonet.runs.predict.subject import predict
from harmonet.training.loop import Watch

DESCRIPTION, RECORD = "dataset_description.json", "harmonet.json"
BIDS_VERSION = "1.10.0"


@dataclass
class Tally:
    """What became of the subjects: predicted now, finished before, and failed with the reason."""

    done: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def predict_cohort(
    run: Trained,
    dataset: TravellingHeads,
    subjects: Sequence[str],
    out: Path,
    platforms: Sequence[str] | None = None,
    *,
    output: Output = Output(),  # noqa: B008  frozen
    reading: Reading = Reading(),  # noqa: B008  frozen
    onto: Path | None = None,
    memory: int = MEMORY,
    force: bool = False,
    watch: Watch = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Predicts the subjects one after the other; a bad one does not stop the others.

    `out` becomes BIDS derivatives: `sub-<subject>/ses-<source>/dwi/sub-<subject>_ses-<source>_space-<platform>_...` (in
    `anat` for scalar images). The folder of a subject appears when all of it is written, with `harmonet.json`: the
    model, what was asked for, and the SHA-256 of every file read and written. Subjects whose record still holds are
    passed over.

    Args:
        run: A trained model.
        dataset: Where the subjects' images lie.
        subjects: Who.
        out: Folder of the derivatives; further calls may add to it.
        platforms: Which targets; all where None.
        output, onto, memory: As for `write_predictions` and `predict`.
        reading: How the images are read.
        force: Do subjects again that are there already.
        watch: Called as the work goes on.
        say: Takes a sentence on what was found.

    Raises:
        OutputError: `out` holds something else, or a subject as predicted otherwise, or cannot be written.
    """
    source = run.task.source.name
    asked = _asked(run, platforms, output, reading, onto)
    folders = {subject: folder_of(out, subject, run) for subject in subjects}
    for folder in folders.values():
        _refuse_other(folder, asked, force=force)
    _describe(out, dataset)
    tally = Tally()
    for number, (subject, folder) in enumerate(folders.items()):

        def progress(_: str, done: int, total: int, __: str) -> None:
            watch("predicting", number, len(folders), f"{subject}: {100 * done // total} %")  # noqa: B023  called at once

        try:
            acquisition = dataset.acquisition(subject, source)
            if not force and folder.exists():
                _check_finished(folder, acquisition)
                tally.before.append(subject)
                continue
            scan = read_new(run, acquisition, reading)
            predictions = predict(run, scan, platforms, progress, onto=onto, memory=memory)
            for sentence in remarks(scan, predictions, output):
                say(sentence)
            for leftover in folder.parent.glob(f".{folder.name}.*.partial"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with staged(folder) as fresh:
                files = write_predictions(run, scan, predictions, fresh, _stem(subject, source), output=output)
                digests = {file.name: sha256(file) for file in files}
                record = {"Asked": asked, "Sources": scan.sources, "Files": digests}
                write_whole(fresh / RECORD, as_json(record))
            tally.done.append(subject)
        except OutputError:  # the next subject would meet the same
            raise
        except (HarmonetError, MemoryError) as error:
            tally.failed[subject] = str(error)
            say(f"{subject} failed: {error}")
        watch("predicting", number + 1, len(folders), subject)
    return tally


def folder_of(out: Path, subject: str, run: Trained) -> Path:
    """Where the files of a subject go."""
    kind = "dwi" if run.representation.uses_gradients else "anat"
    return out / f"sub-{_label(subject)}" / f"ses-{run.task.source.name}" / kind


def _stem(subject: str, source: str) -> str:
    return f"sub-{_label(subject)}_ses-{source}"


def _label(subject: str) -> str:
    return subject.removeprefix("sub-")


def _asked(
    run: Trained, platforms: Sequence[str] | None, output: Output, reading: Reading, onto: Path | None
) -> dict[str, Any]:
    """What a prediction depends on beside the subject, for its record."""
    directions = output.directions
    return {
        "Model": sha256(run.folder / MODEL),
        "Platforms": None if platforms is None else list(platforms),
        "Directions": directions if isinstance(directions, str) else [sha256(path) for path in directions],
        "B0": str(output.b0),
        "Basis": output.basis,
        "Caution": output.caution,
        "Grid": None if onto is None else sha256(onto),
        "AutoMask": reading.auto_mask,
    }


def _record(folder: Path) -> dict[str, Any]:
    """What was asked for, read and written, of a subject's folder.

    Raises:
        OutputError: There is no such record.
    """
    try:
        found = json.loads((folder / RECORD).read_bytes())
        return {key: dict(found[key]) for key in ("Asked", "Sources", "Files")}
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(
            f"{folder} exists and was not written by harmonet predict (no readable {RECORD}): choose another folder."
        ) from None


def _refuse_other(folder: Path, asked: Mapping[str, Any], *, force: bool) -> None:
    """Refuse a subject's folder that cannot be passed over, nor replaced with `force`."""
    if not folder.exists():
        return
    record = _record(folder)
    other = foreign_in(folder, (RECORD, *record["Files"]))
    if force and other is not None:
        raise OutputError(f"{folder} holds {other}, which is no prediction: move it away, or choose another folder.")
    if not force and (differ := [key for key, value in asked.items() if record["Asked"].get(key) != value]):
        raise OutputError(
            f"{folder} was predicted with another {', '.join(differ)}: add --force to replace it, or choose another "
            "folder."
        )


def _check_finished(folder: Path, acquisition: Acquisition) -> None:
    """Nothing, where the files that were read and written are still what the record says.

    Raises:
        DataError: One has changed.
    """
    record = _record(folder)
    for name, digest in record["Files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise DataError(f"{folder / name} was changed or removed since it was written: add --force to redo it.")
    read = (acquisition.dwi, acquisition.bval, acquisition.bvec, acquisition.mask, acquisition.te, acquisition.tr)
    now = {sha256(path) for path in read if isinstance(path, Path) and path.is_file()}
    if now != set(record["Sources"].values()):
        raise DataError(f"{acquisition.dwi} or a file beside it was changed since {folder} was written: add --force.")


def _describe(out: Path, dataset: TravellingHeads) -> None:
    """Writes `dataset_description.json`, unless ours is there.

    Raises:
        OutputError: The folder is another data set's.
    """
    path = out / DESCRIPTION
    if path.exists():
        try:
            ours = json.loads(path.read_bytes())["GeneratedBy"][0]["Name"] == "harmonet"
        except (OSError, ValueError, LookupError, TypeError):
            ours = False
        if not ours:
            raise OutputError(f"{out} is a data set that harmonet predict did not write: choose another folder.")
        return
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is no folder: choose another name.")
    content = {
        "Name": "Predictions by harmonet",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "harmonet", "Version": version("harmonet")}],
        "SourceDatasets": [{"URL": Path(os.path.relpath(dataset.root, out)).as_posix()}],
    }
    write_whole(path, as_json(content | ({"HowToAcknowledge": dataset.label} if dataset.label else {})))

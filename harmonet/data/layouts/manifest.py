"""A manifest: `DIR/acquisitions.tsv`, a table with one line per acquisition that says where its files lie."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from harmonet.data.acquisition import SECONDS_BELOW, Acquisition
from harmonet.data.layouts.listing import listing, names
from harmonet.errors import DataError, nearest
from harmonet.files import check_readable

NAME = "acquisitions.tsv"
NEEDED = ("subject", "platform", "dwi", "bval", "bvec", "mask")
OPTIONAL = ("te", "tr", "truth")
LAYOUT = f"DIR/{NAME} with columns {' '.join(NEEDED)}"
NONE = ("", "n/a")  # BIDS's word in tables
MAX_MANIFEST = 16 << 20  # bytes

Row = Mapping[str, str]


def is_here(root: Path) -> bool:
    """Whether a folder holds a manifest."""
    return any(file.name == NAME for file in listing(root).files)


def find(root: Path) -> Iterator[Acquisition | DataError]:
    """Each acquisition that the manifest in a folder lists, or what is wrong with its line."""
    path = root / NAME
    try:
        (first, header), *lines = _lines(path)
        columns = _columns(header, f"{path} line {first}")
    except DataError as error:
        yield error
        return
    seen: dict[tuple[str, str], int] = {}
    for number, line in lines:
        where = f"{path} line {number}"
        try:
            acquisition = _acquisition(_row(line, columns, where), root, where)
            before = seen.setdefault((acquisition.subject, acquisition.platform), number)
            if before != number:
                raise DataError(f"{where} gives {acquisition.name} again after line {before}: remove or rename one.")
            yield acquisition
        except DataError as error:
            yield error


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbers and text of the lines that hold something, at least two."""
    check_readable(path)
    with path.open("rb") as file:
        content = file.read(MAX_MANIFEST + 1)
    try:
        text = content.decode("utf-8-sig")  # spreadsheets put a byte-order mark first
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(content) > MAX_MANIFEST:
        raise DataError(f"{path} is no UTF-8 text of at most {MAX_MANIFEST >> 20} MB: save it as such.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(filled) < 2:
        raise DataError(f"{path} lists no acquisition: add a line for each below a header of {' '.join(NEEDED)}.")
    return filled


def _columns(header: str, where: str) -> list[str]:
    columns = _cells(header, where)
    if len(columns) == 1:
        raise DataError(f"{where} has no tabs, found {header[:60]!r}: separate the columns by tabs.")
    for column in columns:
        if column not in (*NEEDED, *OPTIONAL):
            raise DataError(f"{where} has an unknown column {column!r}. {nearest(column, (*NEEDED, *OPTIONAL))}")
        if columns.count(column) > 1:
            raise DataError(f"{where} has the column {column!r} twice: remove one.")
    if missing := [column for column in NEEDED if column not in columns]:
        raise DataError(f"{where} lacks the column {', '.join(missing)}: add it, with n/a where there is none.")
    return columns


def _row(line: str, columns: list[str], where: str) -> Row:
    cells = _cells(line, where)
    if len(cells) != len(columns):
        raise DataError(
            f"{where} has {len(cells)} cells for {len(columns)} columns: separate them by single tabs, n/a for none."
        )
    return dict(zip(columns, cells, strict=True))


def _cells(line: str, where: str) -> list[str]:
    if line.startswith("#"):
        raise DataError(f"{where} is a comment, which a manifest cannot hold: remove it.")
    return [cell.strip() for cell in line.split("\t")]


def _acquisition(row: Row, root: Path, where: str) -> Acquisition:
    subject, platform = names(row["subject"], row["platform"], where)
    dwi = _path(row, "dwi", root, where)
    if dwi is None:
        raise DataError(f"{where} names no dwi: give its path or remove the line.")
    bval, bvec = (_path(row, column, root, where) for column in ("bval", "bvec"))
    if (bval is None) != (bvec is None):
        given, lacking = ("bvec", "bval") if bval is None else ("bval", "bvec")
        raise DataError(f"{where} names a {given} and no {lacking}: give both, or n/a for both of a scalar image.")
    return Acquisition(
        subject=subject,
        platform=platform,
        dwi=dwi,
        bval=bval,
        bvec=bvec,
        mask=_path(row, "mask", root, where),
        te=_time(row, "te", where, weighted=bval is not None),
        tr=_time(row, "tr", where, weighted=bval is not None),
        truth=_path(row, "truth", root, where),
    )


def _path(row: Row, column: str, root: Path, where: str) -> Path | None:
    """The file that a cell names, from the manifest's folder on; None where it names none."""
    cell = row.get(column, "")
    if cell in NONE:
        return None
    path = root / cell
    try:
        there = path.is_symlink() or path.is_file()  # of a git-annex link without content the reader says what to do
    except OSError:  # a name too long for the file system
        there = False
    if not there:
        raise DataError(f"{where} names {column} {path}, which is no file: give a path from the manifest's folder on.")
    return path


def _time(row: Row, column: str, where: str, *, weighted: bool) -> float | None:
    """A time in ms, None where none is given; of a diffusion-weighted image none so short that seconds are meant."""
    cell = row.get(column, "")
    if cell in NONE:
        return None
    try:
        time = float(cell)
    except ValueError:
        time = math.nan
    if not 0 < time < math.inf:
        raise DataError(f"{where} has {column} {cell!r}: give one number above 0 in ms, or n/a.")
    if weighted and time < SECONDS_BELOW[column]:
        raise DataError(f"{where} has {column} {cell}, which looks like seconds: multiply it by 1000 to give ms.")
    return time

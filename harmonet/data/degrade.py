"""Travelling heads made from one real acquisition: the same head as an older and as newer scanners might see it.

The order matters. Directions are split first, so that source and targets share no diffusion-weighted volume: a
target that is a filtered copy of the source holds the same noise, and every score flatters. Then resolution, the
scanner's effect on each SH order, b-value error, receive field, and noise last. All sizes of effects are our choice
unless they say otherwise. Scans are taken to be aligned: no motion is added.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import SHELL_TOLERANCE, shells
from harmonet.data.numbers import Numbers
from harmonet.data.phantom import smooth_field
from harmonet.data.scan import Scan, read_scan
from harmonet.data.simulate import Progress, add_rician, receive_field, unit_cube
from harmonet.data.slabs import cut, slabs_of
from harmonet.data.writing import Place, data_set, write_facts
from harmonet.errors import DataError, NotFoundError, OutputError, nearest
from harmonet.platforms import Grid, upsampling_between
from harmonet.platforms import preset as task_of

MIN_DIRECTIONS = 12  # so that source and targets have the six each that a tensor needs
TUKEY = 0.5  # the part of the pass band over which k-space fades out

Image = NDArray[np.float32]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What stands between the real acquisition and one platform.

    Attributes:
        snr: Of b = 0 in white matter; None leaves the acquisition's own noise alone.
        b_error: Factor on every b-value that the table does not tell, smooth in space around this mean.
        orders: Mean factors on l = 0, 2, 4 of the diffusion-weighted signal, smooth in space.
        bias: Standard deviation of the receive field's logarithm.
        gain: Factor on the whole signal.
        orientation: Axes of the stored image.
    """

    snr: float | None
    b_error: float = 1.0
    orders: tuple[float, ...] = ()
    bias: float = 0.1
    gain: float = 1.0
    orientation: str = "RAS"


PRESETS: Mapping[str, Mapping[str, Effect]] = {
    "cdmri2017": {
        "ge_st": Effect(18, b_error=0.975, orders=(1.05, 0.93, 0.85), bias=0.15, gain=1.3),
        "prisma_st": Effect(28, b_error=1.02, bias=0.12, gain=0.8, orientation="LAS"),
        "connectom_st": Effect(30, bias=0.10, orientation="LPS"),
        "connectom_sa": Effect(None, bias=0.10, gain=1.1),
    }
}


def degrade(
    out: Path,
    acquisition: Acquisition | Scan,
    *,
    seed: int = 0,
    slabs: int = 1,
    gap: int = 11,
    preset: str = "cdmri2017",
    progress: Progress | None = None,
    force: bool = False,
) -> None:
    """Writes a travelling-heads data set made from one real head; the same arguments give the same bytes.

    The finest target is the acquisition itself; the others have voxels twice as large on each axis. There is no
    `truth.nii.gz`: nobody knows what a real head looks like without noise.

    Args:
        out: Folder to make.
        acquisition: One real head: one shell of it is used, that nearest to the preset's.
        seed: 0 or more.
        slabs: Cut the head along its longest axis into so many pieces, which stand in for subjects.
        gap: Source voxels between slabs. With the source patch's edge, 11, no two patches of different slabs that
            lie centred in their masks overlap; each slab brings (gap - 1) / 2 voxels of context on both sides.
        preset: Which platforms to make.
        progress: Called with what is done, how many acquisitions are written, and of how many.
        force: Replace a data set that harmonet simulated before.

    Raises:
        DataError: The acquisition is unusable or too small, or has too few directions.
        NotFoundError: No such preset.
        OutputError: `out` exists, lies over the input, or cannot be written.
    """
    if slabs < 1 or gap < 0 or seed < 0:
        raise DataError(f"{slabs} slabs, gap {gap} and seed {seed} were asked for: use at least 1, 0 and 0.")
    if preset not in PRESETS:
        raise NotFoundError(f"no preset {preset!r} to degrade to. {nearest(preset, PRESETS)}")
    effects, task = PRESETS[preset], task_of(preset)
    if isinstance(acquisition, Acquisition):
        if out.resolve() in acquisition.dwi.resolve().parents:
            raise OutputError(f"{out} holds the input {acquisition.dwi}: choose another folder.")
        acquisition = read_scan(acquisition)
    whole = one_shell(acquisition, task.source.shells[0])
    halves = split_directions(whole)
    pieces = slabs_of(whole.mask[::2, ::2, ::2], slabs, gap)
    total = len(effects) * slabs
    with data_set(out, force) as folder:
        for index, platform in enumerate((task.source, *task.targets)):
            factor = upsampling_between(task.source, platform)
            scan = _odd(halves[0] if platform == task.source else halves[1])
            effect = effects[platform.name]
            scan = scanned(scan if factor == 2 else coarser(scan), effect, np.random.default_rng([seed, index]))
            for number, piece in enumerate(pieces):
                subject = f"slab{number + 1:02d}" if slabs > 1 else "head01"
                place = folder / subject / platform.name.replace("_", "/", 1)
                _write(place, cut(scan, piece, factor), effect.orientation)
                if progress:
                    progress("degrading", index * slabs + number + 1, total)
        write_facts(
            folder,
            kind="degraded",
            label="degraded from one real head" + ("; slabs stand in for subjects" if slabs > 1 else ""),
            pseudo_subjects=slabs > 1,
            slabs=[asdict(piece) for piece in pieces],
            gap=gap,
            preset=preset,
            seed=seed,
            source_sha256=acquisition.sources,
            directions={"source": int(halves[0].is_dwi.sum()), "targets": int(halves[1].is_dwi.sum())},
            b0="one for source and targets, so they share its noise"
            if (~whole.is_dwi).sum() == 1
            else "others for the source than for the targets",
            targets="share their directions, and with them the acquisition's own noise",
            truth="none: nobody knows the noise-free signal of a real head",
            effects={name: asdict(effect) for name, effect in effects.items()},
        )


def one_shell(scan: Scan, b: float) -> Scan:
    """The scan's b = 0 volumes and those of the shell that is nearest to `b` s/mm².

    Raises:
        DataError: That shell has too few directions to be shared out.
    """
    shell = min(shells(scan.bvals), key=lambda found: abs(found - b))
    chosen = ~scan.is_dwi | (np.abs(scan.bvals - shell) <= SHELL_TOLERANCE)
    found = int((chosen & scan.is_dwi).sum())
    if found < MIN_DIRECTIONS:
        raise DataError(
            f"source and targets get half of the directions each, which takes {MIN_DIRECTIONS}; {scan.subject} "
            f"{scan.platform} has {found} at b = {shell:g}: give an acquisition with more."
        )
    return _volumes(scan, np.flatnonzero(chosen))


def split_directions(scan: Scan) -> tuple[Scan, Scan]:
    """The scan's directions shared out to source and targets, each half well spread over the sphere.

    Where there are several b = 0 volumes, they are shared out as well.
    """
    weighted, zero = np.flatnonzero(scan.is_dwi), np.flatnonzero(~scan.is_dwi)
    first = _spread_half(scan.directions[weighted])
    zeros = (zero, zero) if len(zero) == 1 else (zero[::2], zero[1::2])
    halves = weighted[first], weighted[~first]
    source, target = (_volumes(scan, np.sort(np.r_[z, h])) for z, h in zip(zeros, halves, strict=True))
    return source, target


def _spread_half(directions: Table, starts: int = 8) -> NDArray[np.bool_]:
    """Which half of the axes to take so that charges on them and on the other half repel least (by swapping)."""
    n = len(directions)
    cosine = np.clip(np.abs(np.einsum("ij,kj->ik", directions, directions)), 0, 1)
    energy = 1 / (2 - 2 * cosine + 1e-3) + 1 / (2 + 2 * cosine)  # 1e-3: a direction may have been repeated
    np.fill_diagonal(energy, 0)
    rng = np.random.default_rng(0)  # a fixed seed: the split belongs to the table, not to the data set
    best, lowest = np.zeros(n, dtype=bool), np.inf
    for _ in range(starts):
        side = np.zeros(n)
        side[rng.permutation(n)[: n // 2]] = 1
        while True:
            # Swapping i (in) with j (out) changes the energy by what both leave and what both meet.
            pull = (energy * side).sum(axis=1) - (energy * (1 - side)).sum(axis=1)
            inside, outside = np.flatnonzero(side == 1), np.flatnonzero(side == 0)
            change = pull[outside][None] - pull[inside][:, None] - 2 * energy[np.ix_(inside, outside)]
            i, j = np.unravel_index(np.argmin(change), change.shape)
            if change[i, j] > -1e-9:
                break
            side[inside[i]], side[outside[j]] = 0, 1
        total = float((energy * (side[:, None] == side[None])).sum())
        if total < lowest - 1e-9:
            best, lowest = side == 1, total
    return best


def coarser(scan: Scan) -> Scan:
    """The scan with voxels twice as large on each axis: low voxel i lies on voxel 2 i (node alignment).

    In plane, k-space beyond half of its extent is cut away with a Tukey edge; across slices, the profile of a
    slice of twice the thickness is averaged, centred on every second slice. Cropping k-space and averaging slices
    two by two would move voxel centres (cell alignment): keeping every second centre is our choice, and it makes
    the grids of this package nest.
    """
    from scipy.fft import irfft, rfft, rfftfreq
    from scipy.ndimage import convolve1d

    slices = int(np.argmax(np.abs(scan.stored.affine[:3, 2])))  # the file's third axis, in canonical axes
    image = scan.signal
    for axis in range(3):
        if axis == slices:
            image = convolve1d(image, (0.25, 0.5, 0.25), axis=axis, mode="nearest")
        else:
            n = image.shape[axis]
            edge = np.clip((rfftfreq(n) / 0.25 - (1 - TUKEY)) / TUKEY, 0, 1)
            window = (0.5 + 0.5 * np.cos(np.pi * edge)).astype(np.float32)
            shape = [1] * 4
            shape[axis] = len(window)
            image = irfft(rfft(image, axis=axis) * window.reshape(shape), n=n, axis=axis)
        image = image[tuple(slice(None, None, 2) if i == axis else slice(None) for i in range(3))]
    mask = scan.mask[::2, ::2, ::2]
    grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), scan.grid.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    return replace(scan, numbers=Numbers(np.maximum(image, 0).astype(np.float32)), mask=mask, grid=grid)


def scanned(scan: Scan, effect: Effect, rng: np.random.Generator) -> Scan:
    """The scan as another scanner gives it: orders scaled, b-value error, receive field and gain, noise last."""
    shape = scan.mask.shape
    b0 = scan.b0()
    sigma = 0.0 if effect.snr is None else effect.gain * float(np.median(b0[white_matter(scan)])) / effect.snr
    weighted = scan.signal[..., scan.is_dwi]
    weighted = _scale_orders(weighted, scan.directions[scan.is_dwi], effect.orders, rng)
    if effect.b_error != 1:
        ratio = np.divide(weighted, b0[..., None], out=np.ones_like(weighted), where=b0[..., None] > 0)
        exponent = (_map(rng, shape, effect.b_error) - 1).astype(np.float32)
        weighted *= np.clip(ratio, 0.01, 1) ** exponent[..., None]  # S^(b2/b1), good for small steps only
    image = scan.signal.copy()
    image[..., scan.is_dwi] = weighted
    image *= (effect.gain * receive_field(rng, shape, effect.bias)).astype(np.float32)[..., None]
    if sigma:
        add_rician(image, sigma, rng)
    return replace(scan, numbers=Numbers(image))


def _scale_orders(weighted: Image, directions: Table, factors: tuple[float, ...], rng: np.random.Generator) -> Image:
    """The signal (X, Y, Z, N) with each SH order scaled by a smooth map; what no order explains is kept."""
    changed = weighted.copy()
    order = 2 * (len(factors) - 1)
    while order > 0 and sh.n_coefficients(order) > len(directions):
        order -= 2
    if order < 0:
        return changed
    fit, basis = sh.fit_matrix(directions, order), sh.basis_matrix(directions, order)
    for (_, part), factor in zip(sh.order_slices(order).items(), factors, strict=False):
        share = (basis[:, part] @ fit[part]).astype(np.float32)
        change = (_map(rng, weighted.shape[:3], factor) - 1).astype(np.float32)
        changed += change[..., None] * np.einsum("xyzn,mn->xyzm", weighted, share)
    return np.maximum(changed, 0)


def _map(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Table:
    """A smooth map (X, Y, Z) from half to one and a half times the effect of its mean, never its opposite."""
    return np.asarray(1 + (mean - 1) * (1 + 0.5 * np.tanh(smooth_field(rng, unit_cube(shape)))), dtype=np.float64)


def white_matter(scan: Scan) -> NDArray[np.bool_]:
    """Voxels that are mostly white matter: of the half that keeps more signal, so no CSF, the more anisotropic half."""
    ratio = scan.normalised()
    kept = ratio.mean(axis=-1)
    spread = np.divide(ratio.std(axis=-1), kept, out=np.zeros_like(kept), where=kept > 0)
    lasting = scan.mask & (kept >= np.median(kept[scan.mask]))
    return np.asarray(lasting & (spread >= np.median(spread[lasting])))


def _volumes(scan: Scan, chosen: NDArray[np.intp]) -> Scan:
    return replace(
        scan,
        numbers=Numbers(scan.signal[..., chosen]),
        bvals=scan.bvals[chosen],
        directions=scan.directions[chosen],
    )


def _odd(scan: Scan) -> Scan:
    """The scan with odd sizes, the last voxels left out where need be: 2n - 1 voxels hold n coarse ones."""
    here = tuple(slice(0, n - 1 + n % 2) for n in scan.mask.shape)
    mask = scan.mask[here]
    grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), scan.grid.affine)
    return replace(scan, numbers=Numbers(scan.signal[here]), mask=mask, grid=grid)


def _write(folder: Path, scan: Scan, orientation: str) -> None:
    place = Place(folder, scan.grid.affine, scan.mask, scan.bvals, scan.directions, orientation)
    place.write_tables(scan.te)
    place.write("dwi", scan.signal)

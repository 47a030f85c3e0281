"""Simulated travelling heads: phantoms seen by several scanners, written in the challenge's layout.

What a scanner does to a head is our choice throughout, made so that the platforms differ as real ones do: an
older scanner with less signal and a wider point-spread, two newer ones, and one protocol of half the voxel size
with a shorter echo time. Nothing learned here says anything about a real scanner.

The preset `unrelated` is a control: the same scanners, each of which sees a head of its own, so that no platform tells
anything of another.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from harmonet.data.phantom import VOXEL_SIZE, Anatomy, anatomy, smooth_field, volumes
from harmonet.data.writing import Place, data_set, write_facts
from harmonet.errors import DataError, NotFoundError, nearest
from harmonet.platforms import Platform
from harmonet.platforms import preset as task_of

FACTS = "dataset.json"
ORIENTATIONS: Any = nib.orientations  # Any: nibabel's functions carry no types
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations
ANATOMY, BIAS, NOISE = range(3)  # purposes of random numbers

Progress = Callable[[str, int, int], object]
Field = NDArray[np.floating]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Acquire:
    """What one platform's scanner does to a head.

    Attributes:
        psf_fwhm: Width of the point-spread in mm, isotropic, beside the sampling itself.
        snr: Of b = 0 in white matter (median), one volume.
        b_error: Factor on every b-value that the table does not tell.
        b_field: Largest relative deviation of b over the head from gradient non-linearity.
        bias: Standard deviation of the receive field's logarithm.
        gain: Factor on the whole signal: scanners have arbitrary units.
        n_b0: Volumes with b = 0.
        directions_seed: Another seed, another set of directions.
        orientation: Axes of the stored image, such as LAS.
    """

    psf_fwhm: float
    snr: float
    b_error: float = 1.0
    b_field: float = 0.0
    bias: float = 0.1
    gain: float = 1.0
    n_b0: int = 3
    directions_seed: int = 0
    orientation: str = "RAS"


def _cdmri2017() -> tuple[tuple[Platform, Acquire], ...]:
    task = task_of("cdmri2017")
    # RAS and LAS have the same FSL table and opposite determinants; LPS has another table as well.
    effects = (
        Acquire(3.2, 18, b_error=0.97, bias=0.15, gain=1.3, n_b0=2, directions_seed=1),
        Acquire(2.5, 28, b_error=1.01, bias=0.12, gain=0.8, directions_seed=2, orientation="LAS"),
        Acquire(2.4, 30, b_field=0.03, bias=0.10, gain=1.0, directions_seed=3, orientation="LPS"),
        Acquire(1.4, 18, b_field=0.03, bias=0.10, gain=1.1, n_b0=4, directions_seed=4),
    )
    return tuple(zip((task.source, *task.targets), effects, strict=True))


UNRELATED = "unrelated"
PRESETS: Mapping[str, tuple[tuple[Platform, Acquire], ...]] = {"cdmri2017": _cdmri2017(), UNRELATED: _cdmri2017()}


LABELS = {UNRELATED: "simulated heads that share nothing between platforms (synthetic, a null control)"}


def preset_of(name: str) -> tuple[tuple[Platform, Acquire], ...]:
    """Platforms and their scanners, the source first."""
    try:
        return PRESETS[name]
    except KeyError:
        raise NotFoundError(f"no preset {name!r} to simulate. {nearest(name, PRESETS)}") from None


def simulate(
    out: Path,
    *,
    subjects: int = 5,
    seed: int = 0,
    preset: str = "cdmri2017",
    shape: tuple[int, int, int] = (26, 30, 22),
    progress: Progress | None = None,
    force: bool = False,
) -> None:
    """Writes a data set of simulated heads, `sim01` and on; the same arguments give the same bytes.

    Every acquisition comes with `truth.nii.gz`: its signal without noise, at the same gradients, with its bias.
    More subjects leave the earlier ones as they are.

    Args:
        out: Folder to make.
        subjects: How many.
        seed: 0 or more.
        preset: One of `PRESETS`.
        shape: Voxels at the source's resolution, 2.4 mm. The default is a miniature head, (72, 88, 60) a full one.
        progress: Called with what is done, how many acquisitions are written, and of how many.
        force: Replace a data set that harmonet simulated before.

    Raises:
        DataError: No subject, a negative seed, or too few voxels for a head.
        NotFoundError: No such preset.
        OutputError: `out` exists, or cannot be written.
    """
    platforms = preset_of(preset)
    if not 1 <= subjects <= 999 or seed < 0:
        raise DataError(f"{subjects} subjects with seed {seed} were asked for: use 1 to 999, and a seed of 0 or more.")
    if min(shape) < 16:
        raise DataError(f"a head of {shape} source voxels was asked for: use at least 16 along each axis.")
    fine = (2 * shape[0] - 1, 2 * shape[1] - 1, 2 * shape[2] - 1)
    total = subjects * len(platforms)
    with data_set(out, force) as folder:
        for subject in range(subjects):
            head = anatomy([seed, subject, ANATOMY], fine)
            for index, (platform, acquire) in enumerate(platforms):
                if preset == UNRELATED and index:
                    head = anatomy([seed, subject, ANATOMY, index], fine)
                _acquire(folder / f"sim{subject + 1:02d}", head, platform, acquire, (seed, subject, index))
                if progress:
                    progress("simulating", subject * len(platforms) + index + 1, total)
        write_facts(
            folder,
            kind="synthetic",
            label=LABELS.get(preset, "simulated travelling heads (synthetic)"),
            preset=preset,
            seed=seed,
            subjects=[f"sim{subject + 1:02d}" for subject in range(subjects)],
            shape=list(shape),
            truth="truth.nii.gz: the signal of each platform without noise, with its bias field and b-value error",
            effects={platform.name: asdict(acquire) for platform, acquire in platforms},
        )


def _acquire(folder: Path, head: Anatomy, platform: Platform, acquire: Acquire, seeds: tuple[int, int, int]) -> None:
    """Writes one head on one platform."""
    seed, subject, index = seeds
    step = round(platform.voxel_size[0] / VOXEL_SIZE)
    mask = head.mask[::step, ::step, ::step]
    # Low voxel i is fine voxel step * i (node alignment), so the origin stays and only the voxels grow.
    affine = head.affine @ np.diag([step, step, step, 1.0])
    bvals, directions = gradient_table(platform, acquire)
    place = Place(folder / platform.name.replace("_", "/", 1), affine, mask, bvals, directions, acquire.orientation)

    image = _seen(head, platform, acquire, bvals, directions, step)
    white = head.wm[::step, ::step, ::step] > 0.8
    sigma = acquire.gain * float(np.median(image[..., 0][white])) / acquire.snr
    field = receive_field(np.random.default_rng([seed, subject, BIAS, index]), mask.shape, acquire.bias)
    image *= (acquire.gain * field).astype(np.float32)[..., None]
    # Truth first, then noise in place: a full head at 1.2 mm takes 0.8 GB, which need not be there twice.
    place.write_tables(platform.te)
    place.write("truth", image)
    # Noise is the coil's and the same everywhere; scanners store whole numbers.
    add_rician(image, sigma, np.random.default_rng([seed, subject, NOISE, index]))
    place.write("dwi", np.round(image, out=image))


def _seen(
    head: Anatomy, platform: Platform, acquire: Acquire, bvals: Table, directions: Table, step: int
) -> NDArray[np.float32]:
    """The head blurred and sampled, without noise, bias and gain: (X, Y, Z, N)."""
    from scipy.ndimage import gaussian_filter

    if platform.te is None:
        raise DataError(f"platform {platform.name} has no echo time: a simulated platform needs one.")
    b_field = acquire.b_error * (1 + acquire.b_field * gradient_field(head.mask.shape))
    sigma = acquire.psf_fwhm / FWHM / VOXEL_SIZE
    shape = (*head.mask[::step, ::step, ::step].shape, len(bvals))
    seen = np.empty(shape, dtype=np.float32, order="F")  # F: as in the file, so that a volume is contiguous
    for index, volume in enumerate(volumes(head, bvals, directions, platform.te, b_field)):
        seen[..., index] = gaussian_filter(volume, sigma, mode="constant")[::step, ::step, ::step]
    return seen


def gradient_table(platform: Platform, acquire: Acquire) -> tuple[Table, Table]:
    """b-values (N,) and world directions (N, 3): b = 0 spread evenly among the others, the first one first."""
    n = platform.directions + acquire.n_b0
    zero = np.zeros(n, dtype=bool)
    zero[np.arange(acquire.n_b0) * n // acquire.n_b0] = True
    bvals, directions = np.zeros(n), np.zeros((n, 3))
    bvals[~zero] = platform.shells[0]
    directions[~zero] = spread_directions(platform.directions, acquire.directions_seed)
    return bvals, directions


def spread_directions(n: int, seed: int, steps: int = 400) -> Table:
    """(n, 3) axes that repel each other and their opposites; their order means nothing.

    Jones et al. 1999, doi:10.1002/(SICI)1522-2594(199909)42:3<515::AID-MRM14>3.0.CO;2-Q.

    >>> spread_directions(30, 0).shape
    (30, 3)
    """
    rng = np.random.default_rng(seed)
    axes = rng.standard_normal((n, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for step in range(steps):
        # Plain sums, no BLAS: the last bit must not depend on the number of threads.
        apart = axes[:, None] - axes[None]
        other = axes[:, None] + axes[None]
        near = np.sum(apart**2, axis=-1) + np.eye(n)
        far = np.sum(other**2, axis=-1) + np.eye(n)
        force = np.sum(apart / near[..., None] ** 1.5, axis=1) + np.sum(other / far[..., None] ** 1.5, axis=1)
        force -= np.sum(force * axes, axis=1, keepdims=True) * axes
        largest = np.sqrt(np.sum(force**2, axis=1)).max()
        axes = axes + 0.2 * (1 - step / steps) / max(largest, 1e-12) / np.sqrt(n) * force
        axes /= np.sqrt(np.sum(axes**2, axis=1, keepdims=True))
    return axes


def gradient_field(shape: tuple[int, ...]) -> Field:
    """Where gradients are too strong or too weak, -1 to 1: the lowest harmonic, z² - (x² + y²) / 2, at most 1."""
    x, y, z = unit_cube(shape)
    return np.asarray(z**2 - (x**2 + y**2) / 2)


def receive_field(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> Field:
    """A smooth positive field (X, Y, Z) around 1; `spread` is the standard deviation of its logarithm."""
    return np.asarray(np.exp(spread * smooth_field(rng, unit_cube(shape))))


def unit_cube(shape: tuple[int, ...]) -> Table:
    """Places of voxels from -1 to 1 along each axis, (3, X, Y, Z)."""
    return np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))


def add_rician(image: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """Turns a signal (X, Y, Z, N) in place into the magnitude of itself with complex noise of `sigma`."""
    for index in range(image.shape[-1]):
        real, imaginary = sigma * rng.standard_normal((2, *image.shape[:3]), dtype=np.float32)
        image[..., index] = np.hypot(image[..., index] + real, imaginary)

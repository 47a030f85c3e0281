"""The anatomy of one simulated head and its diffusion signal.

A head is drawn with implicit functions on a fine grid: an ellipsoid with a rim of CSF, a cortical ribbon along
the outer surface and along sulcal sheets (the zero set of a band-limited random field), ventricles, deep grey
matter, and three populations of white-matter fibres that cross in the centrum semiovale. It resembles a brain as
far as partial volumes, crossings and the spatial frequencies of a real image go; it is no atlas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmonet.errors import ShapeError
from harmonet.platforms import Affine

VOXEL_SIZE = 1.2  # mm, the fine grid
CENTRE = (1.2, -15.6, 9.6)  # mm, where the middle of the grid lies in the world
SCALE = 4000.0  # signal of pure water at TE 0: white matter then has a b0 near 1000
ADULT_RADIUS = 78.0  # mm, the mean semi-axis at which folds and ribbon have their adult sizes

Field = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Tissue:
    """What one subject's tissues do: diffusivities in mm²/s, T2 in ms, relative proton densities.

    T2 at 3 T lies near that of Stanisz et al. 2005 (doi:10.1002/mrm.20605) for grey matter and of Wansapura et al.
    1999 (doi:10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L) for white; that water inside axons has
    the longer T2 is McKinnon and Jensen 2019 (doi:10.1002/mrm.27617). Diffusivities: parallel 1.7e-3 as in NODDI
    (Zhang et al. 2012, doi:10.1016/j.neuroimage.2012.03.072), free water 3.0e-3 at body temperature. All the rest
    is our choice.
    """

    d_csf: float = 3.0e-3
    d_gm: float = 0.9e-3
    d_gm_slow: float = 0.25e-3
    d_parallel: float = 1.7e-3
    d_perpendicular: float = 0.6e-3  # outside axons; with the sticks the mean over a fibre is about 0.3e-3
    gm_slow: float = 0.12  # part of the grey matter's water that is restricted
    t2_csf: float = 500.0
    t2_gm: float = 97.0
    t2_intra: float = 83.0
    t2_extra: float = 62.0
    density_csf: float = 1.0
    density_gm: float = 0.82
    density_wm: float = 0.72


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head on its fine grid.

    Attributes:
        csf, gm: Fractions of each voxel, (X, Y, Z), 0 to 1.
        fibres: Fractions of the fibre populations, (3, X, Y, Z): commissural, projection, association.
        orientations: Their unit axes in world axes, (3, X, Y, Z, 3); the sign of an axis means nothing.
        intra: Part of the fibres' water that is inside axons, (X, Y, Z).
        mask: Brain and the CSF around it, (X, Y, Z); all fractions sum to one inside and to zero outside.
        affine: Voxel to world, RAS+, mm.
        tissue: The subject's diffusivities and relaxation times.
    """

    csf: Image
    gm: Image
    fibres: Image
    orientations: Image
    intra: Image
    mask: NDArray[np.bool_]
    affine: Affine
    tissue: Tissue

    @property
    def wm(self) -> Image:
        """Fraction of white matter in each voxel, (X, Y, Z)."""
        return np.asarray(self.fibres.sum(axis=0), dtype=np.float32)


def anatomy(
    seed: int | Sequence[int] | np.random.Generator,
    shape: tuple[int, int, int] = (51, 59, 43),
    voxel_size: float = VOXEL_SIZE,
) -> Anatomy:
    """A head that fills a grid; each seed is another subject.

    Args:
        seed: What `numpy.random.default_rng` takes.
        shape: Voxels of the fine grid. A small grid gives a small head: ribbon and folds shrink less than the rest.
        voxel_size: mm, isotropic.

    Raises:
        ShapeError: Fewer than 24 voxels along an axis, too few for a head.

    >>> head = anatomy(0, (25, 29, 25))
    >>> head.fibres.shape, round(float((head.csf + head.gm + head.wm)[head.mask].mean()), 5)
    ((3, 25, 29, 25), 1.0)
    """
    if min(shape) < 24:
        raise ShapeError(f"a head needs at least 24 fine voxels along each axis, found {shape}: use a larger shape.")
    rng = np.random.default_rng(seed)
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    middle = (np.asarray(shape) - 1) / 2
    affine[:3, 3] = np.asarray(CENTRE) - voxel_size * middle
    semi = 0.95 * voxel_size * middle  # mm
    places = np.stack(np.meshgrid(*[np.arange(n) * voxel_size for n in shape], indexing="ij"))
    places -= (voxel_size * middle)[:, None, None, None]
    places += _deformation(rng, places / semi[:, None, None, None], semi)
    unit = places / semi[:, None, None, None]

    csf, gm, mask = _tissues(rng, places, unit, semi, voxel_size)
    weights, orientations = _bundles(rng, unit, semi)
    wm = np.where(mask, 1 - csf - gm, 0)
    fibres = weights / weights.sum(axis=0) * wm
    intra = 0.5 + 0.08 * smooth_field(rng, unit)
    return Anatomy(
        csf=csf.astype(np.float32),
        gm=gm.astype(np.float32),
        fibres=fibres.astype(np.float32),
        orientations=orientations.astype(np.float32),
        intra=intra.astype(np.float32),
        mask=mask,
        affine=affine,
        tissue=_jittered(rng),
    )


def signal(head: Anatomy, bvals: ArrayLike, directions: ArrayLike, te: float, b_field: ArrayLike = 1.0) -> Image:
    """The noise-free signal of a head, (X, Y, Z, N).

    Args:
        head: From `anatomy`.
        bvals: (N,) s/mm².
        directions: (N, 3) unit vectors in world axes; ignored where b is 0.
        te: Echo time, ms.
        b_field: Factor on every b-value, one number or (X, Y, Z).
    """
    return np.stack(list(volumes(head, bvals, directions, te, b_field)), axis=-1)


def volumes(
    head: Anatomy, bvals: ArrayLike, directions: ArrayLike, te: float, b_field: ArrayLike = 1.0
) -> Iterator[Image]:
    """The volumes of `signal`, one after the other, so that a full head need not be held twice."""
    tissue, mask = head.tissue, head.mask
    axes = [head.orientations[..., i][:, mask] for i in range(3)]
    fibres, intra = head.fibres[:, mask] * np.float32(tissue.density_wm), head.intra[mask]
    csf = _visible(head.csf[mask] * np.float32(tissue.density_csf), te, tissue.t2_csf)
    gm = _visible(head.gm[mask] * np.float32(tissue.density_gm), te, tissue.t2_gm)
    inside = _visible(fibres * intra, te, tissue.t2_intra)
    outside = _visible(fibres * (1 - intra), te, tissue.t2_extra)
    factor = np.broadcast_to(np.asarray(b_field, dtype=np.float32), mask.shape)[mask]
    for b, direction in zip(np.asarray(bvals, dtype=np.float32), np.asarray(directions, dtype=np.float32), strict=True):
        weighting = b * factor
        # Written out and not as a matrix product: BLAS may add in another order on another number of threads.
        along = (axes[0] * direction[0] + axes[1] * direction[1] + axes[2] * direction[2]) ** 2
        parallel = weighting * along
        total = csf * _decay(weighting, tissue.d_csf)
        total += gm * np.float32(1 - tissue.gm_slow) * _decay(weighting, tissue.d_gm)
        total += gm * np.float32(tissue.gm_slow) * _decay(weighting, tissue.d_gm_slow)
        total += (inside * _decay(parallel, tissue.d_parallel)).sum(axis=0)
        # The zeppelin exp(-b (D_perp + (D_par - D_perp) (g·u)²)).
        sideways = _decay(weighting, tissue.d_perpendicular)
        total += (outside * _decay(parallel, tissue.d_parallel - tissue.d_perpendicular)).sum(axis=0) * sideways
        volume = np.zeros(mask.shape, dtype=np.float32)
        volume[mask] = np.float32(SCALE) * total
        yield volume


def _decay(weighting: Image, diffusivity: float) -> Image:
    return np.asarray(np.exp(weighting * np.float32(-diffusivity)), dtype=np.float32)


def _visible(density: Image, te: float, t2: float) -> Image:
    return density * np.float32(np.exp(-te / t2))


def _jittered(rng: np.random.Generator) -> Tissue:
    """A subject's tissue: diffusivities and relaxation times within 5 % of the usual (free water within 1 %)."""
    usual = Tissue()
    names = ("d_gm", "d_parallel", "d_perpendicular", "t2_gm", "t2_intra", "t2_extra")
    changed = {name: getattr(usual, name) * rng.uniform(0.95, 1.05) for name in names}
    return replace(usual, d_csf=usual.d_csf * rng.uniform(0.99, 1.01), **changed)


def smooth_field(rng: np.random.Generator, unit: Field, waves: int = 6) -> Field:
    """A smooth random field of mean 0 and about unit variance that changes over about one semi-axis."""
    vectors, phases = rng.normal(0, 1.6, (waves, 3)), rng.uniform(0, 2 * np.pi, waves)
    total = np.zeros(unit.shape[1:])
    for (kx, ky, kz), phase in zip(vectors, phases, strict=True):
        total += np.sin(kx * unit[0] + ky * unit[1] + kz * unit[2] + phase)
    return np.asarray(total * np.sqrt(2 / waves), dtype=np.float64)


def _deformation(rng: np.random.Generator, unit: Field, semi: Field) -> Field:
    """Displacement (3, X, Y, Z) in mm: heads differ by a few mm, a small head by less."""
    amplitude = 0.035 * float(semi.mean())
    return amplitude * np.stack([smooth_field(rng, unit) for _ in range(3)])


def _folding(rng: np.random.Generator, places: Field, wavelength: float, waves: int = 28) -> Field:
    """Distance in mm, to first order, from the zero set of a random field with one wavelength: sulcal sheets."""
    vectors = rng.normal(size=(waves, 3))
    vectors *= 2 * np.pi / wavelength / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= rng.uniform(0.75, 1.25, (waves, 1))
    phases = rng.uniform(0, 2 * np.pi, waves)
    value, gradient = np.zeros(places.shape[1:]), np.zeros(places.shape)
    for k, phase in zip(vectors, phases, strict=True):
        angle = k[0] * places[0] + k[1] * places[1] + k[2] * places[2] + phase
        value += np.cos(angle)
        slope = np.sin(angle)
        for axis in range(3):
            gradient[axis] += k[axis] * slope
    steepness = np.sqrt((gradient**2).sum(axis=0))
    usual = 2 * np.pi / wavelength * np.sqrt(waves / 2)
    return np.asarray(np.abs(value) / np.maximum(steepness, 0.5 * usual), dtype=np.float64)


def _ellipsoid(unit: Field, centre: Sequence[float], radii: Sequence[float], semi: Field) -> Field:
    """Distance in mm, roughly, inside (positive) an ellipsoid on both sides of the midline."""
    sides = np.stack([np.abs(unit[0]), unit[1], unit[2]])
    offsets = sides - np.asarray(centre)[:, None, None, None]
    radius = np.sqrt(((offsets / np.asarray(radii)[:, None, None, None]) ** 2).sum(axis=0))
    return np.asarray((1 - radius) * float(np.mean(np.asarray(radii) * semi)), dtype=np.float64)


def _tissues(
    rng: np.random.Generator, places: Field, unit: Field, semi: Field, voxel_size: float
) -> tuple[Field, Field, NDArray[np.bool_]]:
    """Fractions of CSF and grey matter, and the mask."""
    size = float(semi.mean())
    scale = size / ADULT_RADIUS
    x, y, z = unit

    def part(inside: Field) -> Field:  # partial volume of a surface: linear over one voxel
        return np.clip(0.5 + inside / voxel_size, 0, 1)

    # Wider behind than in front, flat below.
    outline = np.sqrt((x * (1 + 0.10 * y)) ** 2 + y**2 + (z * np.where(z < 0, 1.12, 1.0)) ** 2)
    depth = (1 - outline) * size
    mask = outline <= 1

    rim = max(2.4 * scale, 1.0) * rng.uniform(0.8, 1.2)
    thickness = max(2.7 * scale, 1.75) * rng.uniform(0.93, 1.07)
    spacing = max(13.0 * scale, 8.0) * rng.uniform(0.93, 1.07)
    reach = max(15.0 * scale, 5.0) * (1 + 0.3 * smooth_field(rng, unit))  # how deep the sulci go
    beyond = np.maximum(depth - rim - reach, 0)
    sulcus = np.hypot(_folding(rng, places, spacing / 0.87), beyond) - max(0.5 * scale, 0.25)
    # The fissure between the hemispheres ends above the callosum; `within` is 1 in the middle of the brain.
    within = 1 - ((y + 0.03) / 0.66) ** 2 - ((z + 0.15) / 0.56) ** 2
    fissure = np.hypot(places[0], np.maximum(within, 0) * 0.5 * size) - max(1.2 * scale, 0.5)
    pial = np.minimum(np.minimum(depth - rim, sulcus), fissure)
    csf, cortex = part(-pial), part(thickness - pial)

    widening = rng.uniform(0.75, 1.35)
    bow = 0.20 - 0.55 * y**2
    lateral = np.hypot((np.abs(x) - 0.13 - 0.12 * np.maximum(-y, 0)) / 0.085, (z - bow) / 0.10) / widening
    lateral = (1 - np.hypot(lateral, np.maximum(np.abs(y + 0.05) - 0.33, 0) / 0.12)) * 0.09 * widening * size
    third = _ellipsoid(unit, (0.0, -0.05, -0.08), (0.022 * widening, 0.2, 0.16), semi)
    csf = np.maximum.reduce([csf, part(lateral), part(third)])

    deep = np.maximum.reduce(
        [
            _ellipsoid(unit, (0.15, -0.12, -0.04), (0.11, 0.20, 0.13), semi),  # thalamus
            _ellipsoid(unit, (0.42, 0.08, -0.06), (0.09, 0.25, 0.20), semi),  # putamen and pallidum
            _ellipsoid(unit, (0.20, 0.32, 0.02), (0.07, 0.12, 0.14), semi),  # caudate head
        ]
    )
    gm = np.maximum(cortex, part(deep))
    csf = np.where(mask, csf, 0)
    return csf, np.where(mask, np.minimum(gm, 1 - csf), 0), mask


def _bundles(rng: np.random.Generator, unit: Field, semi: Field) -> tuple[Field, Field]:
    """Weights (3, X, Y, Z) and world axes (3, X, Y, Z, 3) of the fibre populations.

    Axes follow the undeformed curves; their turning by the deformation (a few degrees) is left out.
    """
    x, y, z = unit
    side = np.abs(x)
    width = rng.uniform(0.85, 1.2, 3)

    def bump(distance: Field, spread: Field | float) -> Field:
        return np.asarray(np.exp(-0.5 * (distance / spread) ** 2), dtype=np.float64)

    # Callosum: a sheet across the midline that arches up to both sides and fans out to front and back.
    rise, roof = 0.9, 0.33 - 0.45 * y**2
    callosum = bump(z - roof - rise * x**2, width[0] * (0.085 + 0.14 * side)) * bump(y, 0.5) ** 2 * bump(x, 0.45)
    across = _unit(np.stack([np.ones_like(x), 1.3 * x * y, 2 * rise * x * (1 - 0.9 * y**2)], axis=-1), semi)

    # Corticospinal tract and corona radiata: up through the internal capsule, then a fan.
    opening = np.maximum(z + 0.1, 0)
    lane, row = 0.27 + 0.45 * opening**1.5, -0.02 - 0.10 * z
    tract = bump(side - lane, width[1] * (0.07 + 0.14 * opening)) * bump(y - row, 0.13 + 0.45 * opening)
    lean = np.sign(x) * 0.45 * 1.5 * np.sqrt(opening)
    spinal = np.stack([lean, (y - row) * 0.45 / (0.13 + 0.45 * opening) * (opening > 0), np.ones_like(x)], axis=-1)
    radial = np.stack([x, 0.7 * y, z + 1.3], axis=-1)  # from a place below the brain, so defined everywhere
    radial /= np.linalg.norm(radial, axis=-1, keepdims=True)
    blend = (2.2 * tract / (2.2 * tract + 0.12))[..., None]
    upward = _unit(blend * spinal + (1 - blend) * radial, semi)  # both point up or out: no sign to align

    # Association: cingulum on the callosum's back, the superior longitudinal and the inferior fasciculi.
    cingulum = bump(side - 0.13, 0.05) * bump(z - roof - 0.17, width[2] * 0.07) * bump(y, 0.42)
    superior = bump(side - 0.56, 0.10) * bump(z - 0.24, width[2] * 0.12) * bump(y, 0.42)
    inferior = bump(side - 0.50, 0.12) * bump(z + 0.30, width[2] * 0.10) * bump(y, 0.5)
    along = np.stack([-0.35 * x * y, np.ones_like(x), -0.9 * y * (cingulum + 0.15)], axis=-1)

    # Everywhere some fibres of each population cross, more here and less there: FA falls to what brains show.
    crossing = np.stack([0.10 * np.exp(0.5 * smooth_field(rng, unit)) for _ in range(3)])
    bundles = np.stack([1.6 * callosum, 2.2 * tract, 1.3 * cingulum + 1.6 * superior + 1.6 * inferior])
    weights = bundles + crossing + np.array([0.0, 0.10, 0.0])[:, None, None, None]
    return weights, np.stack([across, upward, _unit(along, semi)])


def _unit(vectors: Field, semi: Field) -> Field:
    """Unit vectors in mm from vectors in semi-axes."""
    scaled = vectors * semi
    return np.asarray(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True), dtype=np.float64)

"""Measures of error, one per file, offered through the same hook as a stranger's.

Most are a feature of the image (channels, RISH, FA, MD, ...), a level (voxels, means of regions, of the whole mask) and
an error, and their names say so: `fa_mse` compares voxels, `fa_mse_regional` means of regions.
"""

from collections.abc import Iterator
from functools import partial

from harmonet.hookspecs import hookimpl
from harmonet.metrics import diffusion, image, levels, misalignment
from harmonet.metrics.image import Measure, Metric, metric_of
from harmonet.metrics.rish import rish
from harmonet.metrics.standardised import standardised
from harmonet.metrics.structure import ssim
from harmonet.registry import MetricEntry, Paper

TAX = Paper(
    "Cross-scanner and cross-protocol diffusion MRI data harmonisation: a benchmark database and evaluation of "
    "algorithms",
    2019,
    "10.1016/j.neuroimage.2019.01.077",
)
MEAN_FIRST = "means are compared, not voxels"

VOXELS = levels.at(levels.voxels, levels.squared)
FEATURES = {  # feature: words, unit, unit of its square
    "fa": ("fractional anisotropy", diffusion.fa, ""),
    "md": ("mean diffusivity", diffusion.md, "µm⁴/ms²"),
    "rish0": ("the energy of order 0", rish(0), ""),
    "rish2": ("the energy of order 2", rish(2), ""),
}
SMOOTHED = {"smoothed": 2.4, "smoothed_wide": 4.8}  # sigma in mm: one and two voxels of 2.4 mm, our choice


def of_channels(measure: Measure, group: str | None = None) -> Metric:
    """The metric of the channels of one group, of all where None."""
    return metric_of(image.channels if group is None else image.group(group), measure)


def _channel_cards() -> Iterator[MetricEntry]:
    yield MetricEntry(
        name="sh_mse",
        build=partial(of_channels, VOXELS),
        summary="mean squared error of all channels (SH coefficients) over the voxels of the mask",
        grouped=True,
    )
    yield MetricEntry(
        name="sh_standardised",
        build=partial(of_channels, levels.at(levels.voxels, standardised)),
        summary="squared error over the variance of the truth, channel by channel: 1 for who predicts the mean",
        our_choice="the variance is that of the truth in the mask",
        grouped=True,
    )
    for name, error, words in (
        ("sh_bias", levels.squared_bias, "square of the mean error: what all voxels share of sh_mse"),
        ("sh_variance", levels.variance, "variance of the error over voxels: the rest of sh_mse"),
    ):
        yield MetricEntry(name=name, build=partial(of_channels, levels.at(levels.voxels, error)), summary=words)
    for name, level, words in (
        ("sh_mse_border", levels.border(), "sh_mse of voxels within 5 mm of the mask's border"),
        ("sh_mse_inside", levels.inside(), "sh_mse of voxels deeper than 5 mm"),
        ("sh_mse_regional", levels.regions, "sh_mse of the means of labelled regions"),
        ("sh_mse_interior", misalignment.interior(), "sh_mse of the voxels that sh_mse_best_shift compares"),
        *((f"sh_mse_{n}", misalignment.smoothed(s), _smoothed("sh_mse", s)) for n, s in SMOOTHED.items()),
    ):
        build = partial(of_channels, levels.at(level, levels.squared))
        yield MetricEntry(name=name, build=build, summary=words, our_choice="all of it", routine=False)
    yield MetricEntry(
        name="sh_mse_best_shift",
        build=partial(of_channels, misalignment.best_shift()),
        summary="the lowest sh_mse over shifts of a voxel; read beside sh_mse_interior",
        our_choice="all of it",
        routine=False,
    )


def _smoothed(name: str, sigma: float) -> str:
    return f"{name} after both were smoothed by a Gaussian of {sigma:g} mm"


def _feature_cards() -> Iterator[MetricEntry]:
    for name, (words, feature, squared) in FEATURES.items():
        for level_name, level, of in (
            ("", levels.voxels, "over voxels"),
            ("_global", levels.whole, "of its mean over the mask"),
            ("_regional", levels.regions, "of its means over labelled regions"),
        ):
            choice = MEAN_FIRST if level_name else ""
            yield MetricEntry(
                name=f"{name}_mse{level_name}",
                build=partial(metric_of, feature, levels.at(level, levels.squared)),
                summary=f"mean squared error of {words}, {of}",
                paper=TAX,
                our_choice=choice,
                unit=squared,
                routine=not level_name,
            )
            yield MetricEntry(
                name=f"{name}_mne{level_name}",
                build=partial(metric_of, feature, levels.at(level, levels.normalised)),
                summary=f"mean normalised error of {words}, {of}: (truth - prediction) / truth",
                paper=TAX,
                our_choice=f"{choice}{', ' if choice else ''}truths below 5 % of their median are left out",
                routine=False,
            )
        for kind, error, what in (
            ("median", levels.median_squared, "median over voxels of the squared error"),
            ("bias", levels.squared_bias, "square of the mean error"),
            ("variance", levels.variance, "variance over voxels of the error"),
        ):
            yield MetricEntry(
                name=f"{name}_{kind}",
                build=partial(metric_of, feature, levels.at(levels.voxels, error)),
                summary=f"{what} of {words}",
                unit=squared,
                routine=False,
            )
    for name in ("fa", "md"):
        words, feature, squared = FEATURES[name]
        for kind, measure, what in (
            ("interior", levels.at(misalignment.interior(), levels.squared), f"{name}_mse where shifts are compared"),
            ("best_shift", misalignment.best_shift(), f"the lowest {name}_mse over shifts of a voxel"),
            *(
                (n, levels.at(misalignment.smoothed(s), levels.squared), _smoothed(f"{name}_mse", s))
                for n, s in SMOOTHED.items()
            ),
        ):
            yield MetricEntry(
                name=f"{name}_mse_{kind}",
                build=partial(metric_of, feature, measure),
                summary=what,
                our_choice="all of it",
                unit=squared,
                routine=False,
            )


def _other_cards() -> Iterator[MetricEntry]:
    yield MetricEntry(
        name="rish4_mse",
        build=partial(metric_of, rish(4), VOXELS),
        summary="mean squared error of the energy of order 4, over voxels",
        routine=False,
    )
    yield MetricEntry(
        name="direction",
        build=lambda: diffusion.principal_angle,
        summary="mean angle between principal directions where the truth's FA is over 0.2",
        unit="degrees",
    )
    yield MetricEntry(
        name="dec_mse",
        build=partial(metric_of, diffusion.direction_colour, VOXELS),
        summary="mean squared error of the direction-encoded colour, FA times |principal direction|",
    )
    for name, error, words in (
        ("mk_mse", levels.squared, "mean squared error"),
        ("mk_mne", levels.normalised, "mean normalised error"),
    ):
        yield MetricEntry(
            name=name,
            build=partial(metric_of, diffusion.mk, levels.at(levels.voxels, error)),
            summary=f"{words} of the mean kurtosis, clipped to [0, 3], over voxels; needs two shells",
            routine=False,
        )
    yield MetricEntry(
        name="ssim",
        build=partial(metric_of, rish(0), ssim),
        summary="structural similarity of the energy of order 0",
        paper=Paper(
            "Image quality assessment: from error visibility to structural similarity", 2004, "10.1109/TIP.2003.819861"
        ),
        our_choice="Gaussian windows in 3-D, of voxels of the mask only",
        best=1.0,
        routine=False,
    )


# Made once: a builder equals itself and no other, and the same card may be offered twice.
CARDS = [*_channel_cards(), *_feature_cards(), *_other_cards()]


@hookimpl
def harmonet_metrics() -> list[MetricEntry]:
    """The cards of the built-in metrics."""
    return list(CARDS)

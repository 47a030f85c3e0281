"""Losses and weightings of their terms, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import LossEntry, Paper, WeightingEntry


@hookimpl
def harmonet_losses() -> list[LossEntry]:
    """The cards of the built-in losses."""
    return [
        LossEntry(
            name="mse",
            build="harmonet.losses.gaussian:SquaredError",
            summary="mean squared error inside the mask; the likelihood where a network predicts its variance",
            our_choice="all of it: the paper names no loss",
        ),
        LossEntry(
            name="l1",
            build="harmonet.losses.robust:AbsoluteError",
            summary="mean absolute error inside the mask",
        ),
        LossEntry(
            name="huber",
            build="harmonet.losses.robust:Huber",
            summary="squared near 0 and linear beyond delta, inside the mask",
            paper=Paper("Robust estimation of a location parameter", 1964, "10.1214/aoms/1177703732"),
            our_choice="twice the published value, so that small errors count as under mse",
        ),
        LossEntry(
            name="by_order",
            build="harmonet.losses.by_order:ByOrder",
            summary="the error of each SH order, weighted: alike, falling, by inverse variance or by a table",
            our_choice="all of it",
        ),
        LossEntry(
            name="heteroscedastic",
            build="harmonet.losses.gaussian:Heteroscedastic",
            summary="Gaussian likelihood of the predicted variance, with a floor; variance 1 where none is predicted",
            paper=Paper(
                "Bayesian image quality transfer with CNNs: exploring uncertainty in dMRI super-resolution",
                2017,
                "10.1007/978-3-319-66182-7_70",
            ),
            published="the likelihood",
            our_choice="the floor",
        ),
    ]


@hookimpl
def harmonet_weightings() -> list[WeightingEntry]:
    """The cards of the built-in weightings."""
    return [
        WeightingEntry(
            name="equal",
            build="harmonet.losses.equal:Equal",
            summary="every term weighs 1",
            our_choice="the paper sums its terms",
        ),
        WeightingEntry(
            name="variance",
            build="harmonet.losses.inverse_variance:InverseVariance",
            summary="every term over its own running mean: its residual variance, under mse",
            our_choice="all of it",
        ),
        WeightingEntry(
            name="uncertainty",
            build="harmonet.losses.uncertainty:Uncertainty",
            summary="weights learned as the noise of each term",
            paper=Paper(
                "Multi-task learning using uncertainty to weigh losses for scene geometry and semantics",
                2018,
                "10.1109/CVPR.2018.00781",
            ),
            published="the likelihood that weights and log variances make",
            our_choice="doubled, so that a term weighs 1 at the start; learned with the model's optimiser",
        ),
        WeightingEntry(
            name="dwa",
            build="harmonet.losses.dwa:DynamicWeightAverage",
            summary="terms that fell least over the last epochs weigh most",
            paper=Paper("End-to-end multi-task learning with attention", 2019, "10.1109/CVPR.2019.00197"),
            published="the softmax of ratios, temperature 2",
        ),
        WeightingEntry(
            name="random",
            build="harmonet.losses.random_weights:RandomWeights",
            summary="weights drawn anew in each step: a control",
            paper=Paper(
                "Reasonable effectiveness of random weighting: a litmus test for multi-task learning",
                2022,
                "10.48550/arXiv.2111.10603",
            ),
            published="the softmax of normal numbers",
            our_choice="times the number of terms",
        ),
        WeightingEntry(
            name="gradnorm",
            build="harmonet.losses.gradnorm:GradNorm",
            summary="the gradients of all terms are brought to one size, larger for slow terms",
            paper=Paper(
                "GradNorm: gradient normalization for adaptive loss balancing in deep multitask networks",
                2018,
                "10.48550/arXiv.1711.02257",
            ),
            published="the aim, and the rescaling of weights",
            our_choice="gradients over all trained parameters; steps on the logarithm of the weights",
        ),
    ]

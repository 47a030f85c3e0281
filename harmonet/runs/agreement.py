"""Whether networks of several trainings can be members of one composition, and the way to make them."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from harmonet.blocks.committee import Committee, members_of
from harmonet.blocks.restandardised import Restandardised
from harmonet.build import representation_of, shells_of
from harmonet.data.standardise import Standardisation, Standardises
from harmonet.errors import RunError
from harmonet.model import Model
from harmonet.recipe import Recipe
from harmonet.runs.folder import Trained


class Standardised(Protocol):
    """What says how channels are standardised: a trained run, or the material of a training."""

    @property
    def standardise_source(self) -> Standardises:
        """What knows the statistics of a source image."""

    @property
    def standardise(self) -> Mapping[str, Standardisation]:
        """Target platform to statistics."""


def other_statistics(
    source: str, targets: Collection[str], one: Standardised, other: Standardised, tolerance: float = 1e-4
) -> list[str]:
    """Platforms that the two standardise by other means or deviations: the source, or one of the targets."""
    pairs = [(source, one.standardise_source, other.standardise_source)]
    pairs += [(target, one.standardise[target], other.standardise[target]) for target in targets]
    return [
        name
        for name, a, b in pairs
        if isinstance(a, Standardisation)
        and isinstance(b, Standardisation)
        and not (np.allclose(a.mean, b.mean, rtol=tolerance) and np.allclose(a.std, b.std, rtol=tolerance))
    ]


def terms_of(recipe: Recipe) -> dict[str, str]:
    """What members of one composition must have alike, in words."""
    return _terms_with(recipe, representation_of(recipe).sidecar())


def _terms_with(recipe: Recipe, sidecar: Mapping[str, Any]) -> dict[str, str]:
    table, source = recipe.representation, recipe.source
    options = ", ".join(f"{name} = {value}" for name, value in sorted(table.options.items()))
    return {
        "representation": f"{table.name} ({options})" if options else table.name,
        "shells": ", ".join(f"{shell:g}" for shell in shells_of(recipe.task)) or "none",
        "basis": json.dumps({k: v for k, v in sidecar.items() if k != "ModelDescription"}, sort_keys=True),
        "standardisation of the source by": table.standardise,
        "source": f"{source.name} of {' x '.join(f'{edge:g}' for edge in source.voxel_size)} mm",
        "patch size": str(recipe.model.patch_size),
        "residual": recipe.model.residual,
    }


def terms_of_run(run: Trained) -> dict[str, str]:
    """The same of a trained run, its basis as it stands on disk."""
    return _terms_with(run.recipe, run.facts["representation"]["sidecar"])


def refuse_other_terms(candidate: str, run: Trained, name: str, terms: Mapping[str, str]) -> None:
    """Refuse a trained member whose channels or patches mean something else than those of `name`."""
    for what, theirs in terms_of_run(run).items():
        if theirs != terms[what]:
            raise RunError(
                f"{candidate} has {what} {theirs}, but {name} {terms[what]}: train one of them again like the other."
            )


def restandardised(ours: Standardised, platform: str, run: Trained) -> Trained:
    """The run with its networks for a platform alone, read and answering in our standardisation."""
    here, there = ours.standardise_source, run.standardise_source
    networks = []
    for network in members_of(run.model.singles[platform]):
        networks.append(Restandardised(network, run.representation.channels))
        if isinstance(here, Standardisation) and isinstance(there, Standardisation):
            networks[-1].set_source((here.mean, here.std), (there.mean, there.std))
        target, target_there = ours.standardise[platform], run.standardise[platform]
        networks[-1].set_target((target.mean, target.std), (target_there.mean, target_there.std))
    network = networks[0] if len(networks) == 1 else Committee(networks)
    return replace(run, model=Model({platform: network}, {}, {}).eval())

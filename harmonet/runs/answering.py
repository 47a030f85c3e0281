"""What a trained run says of a source volume: networks and methods by one road."""

from collections.abc import Mapping

import numpy as np

from harmonet.data.volumes import Volume
from harmonet.inference import MEMORY, Filled, Where, predict_stages
from harmonet.runs.folder import Trained
from harmonet.training.loop import Watch


def stages_of(
    run: Trained,
    source: Volume,
    where: Mapping[str, Where],
    watch: Watch | None = None,
    *,
    memory: int = MEMORY,
    members: bool = False,
) -> list[Filled]:
    """Every stage's prediction of each platform, in raw units; of a method there is one stage.

    Args:
        run: A trained run.
        source: Of the source platform, in raw units.
        where: Platform to grid.
        watch: Called as the work goes on.
        memory, members: As for `predict_stages`; methods are not bound by the memory, and have no members.

    Returns:
        One dict per stage, platform to (X', Y', Z', C), its variances in raw units squared. Values further than one
        source voxel from the mask mean nothing.
    """
    if run.methods:
        return [_said(run, source, where, watch)]
    stages = predict_stages(
        run.model,
        run.standardise_source.standardisation_for(source).apply(source),
        source.mask,
        where,
        run.recipe.model.patch_size,
        None if watch is None else lambda done, total: watch("predicting", done, total, ""),
        memory=memory,
        members=members,
    )
    for stage in stages:
        for said in (stage, *stage.members):
            for platform in said:  # one volume after the other: two copies of all may not fit the memory
                said[platform] = run.standardise[platform].invert(said[platform])
        for platform in stage.variances:
            stage.variances[platform] *= run.standardise[platform].std.astype(np.float32) ** 2
    return stages


def _said(run: Trained, source: Volume, where: Mapping[str, Where], watch: Watch | None) -> Filled:
    stage = Filled()
    for number, (platform, place) in enumerate(where.items()):
        stage[platform] = run.methods[platform].predict(source, place.grid)
        if watch is not None:
            watch("predicting", number + 1, len(where), platform)
    return stage

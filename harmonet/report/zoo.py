"""What cards say and what is measured of what they build: for `harmonet show`, and for the zoo page of the documents.

The page is written by `python -m harmonet.report.zoo > docs/reference/zoo.md`.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harmonet import plugins
from harmonet.anatomy import anatomy, count_flops
from harmonet.blocks.connection import count_parameters
from harmonet.build import create_network
from harmonet.composer import compose
from harmonet.fusion import Fusion
from harmonet.platforms import preset
from harmonet.registry import (
    FUSIONS,
    NETWORKS,
    REPRESENTATIONS,
    Entry,
    FusionEntry,
    NetworkEntry,
    Registry,
    RepresentationEntry,
)
from harmonet.representation import Representation

PRESET = "cdmri2017"
SINGLE = "diqt"  # the network between whose copies a fusion is shown
CHANNELS, PATCH_SIZE = 28, 11

HEAD = f"""# The zoo

Written from the cards by `python -m harmonet.report.zoo > docs/reference/zoo.md`; a test compares it with them.
`harmonet show NAME` gives the same for other channels, patches, upsampling and options, with every layer.

Networks are measured with {CHANNELS} channels in and out on a patch of {PATCH_SIZE}³ voxels at the first upsampling
that they have, fusions between `{SINGLE}` networks for the targets of the preset `{PRESET}`. A FLOP is a multiplication
or an addition; those of convolutions and matrix products are counted, in evaluation. The receptive field is the edge,
in voxels of the source, of what the central voxel of a prediction depends on; beyond the patch that is padding.
"""


def of_network(
    entry: NetworkEntry, channels: int, patch_size: int, upsampling: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What is measured of a network, JSON-ready; `layers` has a row for each layer.

    Raises:
        ShapeError: It is not built for that upsampling, or takes no such patch.
    """
    network = create_network(entry.name, channels, channels, upsampling, **options)
    found = anatomy(network, entry.taps, channels, patch_size, upsampling)
    default = next(iter(entry.taps.values()), None)
    return {
        "upsampling": list(entry.upsampling),
        "alignment": entry.alignment,
        "taps": dict(entry.taps),
        "tap sizes": dict(found.features),
        "prediction": found.prediction,
        "parameters": found.parameters,
        "FLOPs per patch": found.flops,
        "receptive field": found.receptive_field,
        "layers": [
            {
                "layer": layer.path,
                "class": layer.kind,
                "tap": "" if layer.size is None else "default" if layer.path == default else "yes",
                "size": layer.size,
                "parameters": layer.parameters,
            }
            for layer in found.layers
        ],
    }


def of_fusion(entry: FusionEntry, channels: int, patch_size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured of a fusion that refines the last target of the preset from one network for each target.

    Raises:
        ShapeError: It does not fit between those networks.
    """
    task = preset(PRESET)
    target = task.target_names[-1]
    singles = dict.fromkeys(task.target_names, SINGLE)
    model = compose(
        singles,
        entry.name,
        target,
        upsampling=task.upsampling,
        channels=channels,
        patch_size=patch_size,
        options={entry.name: options},
    )
    assert isinstance(model.fusion, Fusion)
    alone = sum(count_flops(single, channels, patch_size) for single in model.singles.values())
    return {
        "measured between": f"{SINGLE} for {', '.join(singles)}, target {target}",
        "wiring": model.fusion.wiring(),
        "parameters": count_parameters(model.fusion),
        "FLOPs per patch": count_flops(model, channels, patch_size) - alone,
    }


def of_representation(entry: RepresentationEntry, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a representation makes of the shell of the preset's source."""
    shells = preset(PRESET).source.shells
    built: Representation = entry.load()(shells, **options)
    return {
        "measured for": ", ".join(f"b = {shell:g} s/mm²" for shell in shells) if built.uses_gradients else "one volume",
        "measure": built.measure,
        "channels": built.channels,
        "groups": {name: len(range(built.channels)[part]) for name, part in built.groups().items()},
        "invertible": built.invertible,
        "reads": "gradients" if built.uses_gradients else "the image as it is",
        "file": f"NAME_space-PLATFORM_{built.suffix}.nii.gz",
    }


def times(edges: Sequence[int | None]) -> str:
    """Sizes with crosses between them.

    >>> times((28, 11, 11, 11)), times((5, 5, None))
    ('28 x 11 x 11 x 11', '5 x 5 x all')
    """
    return " x ".join("all" if edge is None else str(edge) for edge in edges)


def field_text(edges: Sequence[int | None]) -> str:
    """A receptive field in words.

    >>> field_text((23, 23, 23)), field_text((3, 3, 1)), field_text((None, None, None))
    ('23 voxels on edge', '3 x 3 x 1 voxels', 'all of the patch')
    """
    if len(set(edges)) > 1:
        return f"{times(edges)} voxels"
    if edges[0] is None:
        return "all of the patch"
    return "1 voxel" if edges[0] == 1 else f"{edges[0]} voxels on edge"


def page() -> str:
    """The zoo page, Markdown: what harmonet itself brings, one section for each entry."""
    plugins.load()
    parts = [HEAD, "## Networks\n"]
    parts += [_section(entry, _network_rows(entry)) for entry in _built_in(NETWORKS)]
    parts += ["## Fusions\n"]
    parts += [_section(e, _fusion_rows(of_fusion(e, CHANNELS, PATCH_SIZE, {}))) for e in _built_in(FUSIONS)]
    parts += ["## Representations\n"]
    parts += [_section(e, _representation_rows(of_representation(e, {}))) for e in _built_in(REPRESENTATIONS)]
    return "\n".join(parts)


def _built_in(registry: Registry[Any]) -> list[Any]:
    return [registry.get(name) for name in registry.names() if registry.provider(name) == "harmonet"]


def _section(entry: Entry, measured: Mapping[str, str]) -> str:
    paper = str(entry.paper or "none")
    if entry.paper and entry.paper.doi:
        paper = paper.replace(f"doi:{entry.paper.doi}", f"[doi:{entry.paper.doi}](https://doi.org/{entry.paper.doi})")
    options = ", ".join(f"`{name} = {default!r}`" for name, default in entry.options().items())
    rows = {"paper": paper, "published": entry.published, "our choice": entry.our_choice, "options": options}
    rows.update(measured)
    lines = [f"### `{entry.name}`", "", _sentence(entry.summary), "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in rows.items() if value]
    return "\n".join([*lines, ""])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


def _network_rows(entry: NetworkEntry) -> dict[str, str]:
    found = of_network(entry, CHANNELS, PATCH_SIZE, entry.upsampling[0], {})
    taps = (f"`{name}`: layer `{path}`, {times(found['tap sizes'][name])}" for name, path in entry.taps.items())
    return {
        "upsampling": ", ".join(map(str, entry.upsampling)) + (" (in cells)" if entry.alignment == "cell" else ""),
        "taps": "; ".join(taps),
        "parameters": f"{found['parameters']:,}",
        "FLOPs per patch": f"{found['FLOPs per patch']:.3g}",
        "receptive field": field_text(found["receptive field"]),
        "does not keep": "; ".join(f"`{check}`: {reason}" for check, reason in entry.unsupported.items()),
    }


def _fusion_rows(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "wiring": "; ".join(f"{platform}: {words}" for platform, words in found["wiring"].items()),
        "parameters": f"{found['parameters']:,}",
        "FLOPs per patch": f"{found['FLOPs per patch']:.3g}",
    }


def _representation_rows(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "channels": f"{found['channels']} for {found['measured for']}: {found['measure']}",
        "groups": ", ".join(f"{name} ({count})" for name, count in found["groups"].items()),
        "invertible": "yes" if found["invertible"] else "no",
    }


if __name__ == "__main__":
    sys.stdout.write(page())

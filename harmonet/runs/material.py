"""What every part of one training shares: who trains, on what, and how patches are fed."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harmonet.build import representation_of, seed_for
from harmonet.data.cache import digests
from harmonet.data.duplicates import duplicates, fingerprint
from harmonet.data.gradients import Gradients
from harmonet.data.layout import TravellingHeads
from harmonet.data.patches import PatchFeed
from harmonet.data.splits import PAPER, Split, k_folds, paper_split, split_subjects
from harmonet.data.standardise import PerAcquisition, Standardisation, Standardises, statistics
from harmonet.data.volumes import Head
from harmonet.errors import DataError, RecipeError
from harmonet.files import free_memory
from harmonet.reading import Reading, read_heads
from harmonet.recipe import Recipe
from harmonet.training.engine import Engine
from harmonet.training.loop import Watch

FEED = "feed"  # patches of volumes that memory does not hold, while training
TRAINS = 0.9  # of the places of each head, in the paper's split


@dataclass(frozen=True, eq=False)
class Material:
    """What every part of one training shares."""

    recipe: Recipe
    dataset: TravellingHeads
    split: Split
    train: Sequence[Head]
    validation: Sequence[Head]
    standardise_source: Standardises
    standardise: Mapping[str, Standardisation]  # targets
    gradients: Mapping[str, Gradients]
    facts: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]  # acquisition to the SHA-256 of each of its files
    watch: Watch
    say: Callable[[str], None]
    engine: Engine
    store: Path | None

    def training(self, platforms: Sequence[str]) -> PatchFeed:
        """Patches of the training subjects for some targets."""
        table = self.recipe.training
        turn = representation_of(self.recipe).turn
        return self._feed(
            self.train, platforms, table.patches_per_subject, (0.0, TRAINS), augment=table.augment, turn=turn
        )

    def validating(self, platforms: Sequence[str]) -> PatchFeed:
        """The fixed patches that models are chosen by."""
        return self._feed(self.validation, platforms, self.recipe.training.validation_patches, (TRAINS, 1.0))

    def _feed(
        self,
        heads: Sequence[Head],
        platforms: Sequence[str],
        per_subject: int,
        part: tuple[float, float],
        **augmentation: Any,
    ) -> PatchFeed:
        """Patches of the heads that have one of the platforms; of the paper's split, one part of each head's."""
        factors = self.recipe.task.upsampling
        return PatchFeed(
            [head for head in heads if not set(platforms).isdisjoint(head.targets)],
            {self.recipe.source.name: self.standardise_source, **self.standardise},
            self.recipe.source.name,
            {platform: factors[platform] for platform in platforms},
            self.recipe.model.patch_size,
            per_subject,
            seed_for(self.recipe, "patches"),
            stride=self.recipe.training.stride,
            share=part if self.split.scheme == PAPER else (0.0, 1.0),
            store=self.store,
            device=str(self.engine.device) if self.engine.device.type == "cuda" and self.store is None else None,
            **augmentation,
        )


def split_of(recipe: Recipe, dataset: TravellingHeads) -> Split:
    """Who trains, validates and tests; subjects who were not scanned on every platform only train."""
    source, targets = recipe.source.name, recipe.task.target_names
    whole = dataset.subjects_with((source, *targets))
    if recipe.split.scheme == PAPER:
        return paper_split(whole)
    table = recipe.split
    seed = seed_for(recipe if table.seed is None else recipe.model_copy(update={"seed": table.seed}), "split")
    if isinstance(table.test, str):
        number, folds = map(int, table.test.split("/"))
        if not isinstance(table.validation, int) or number > folds:
            raise RecipeError(f"[split] test = {table.test!r} names no fold, or validation no number: write 2/5 and 1.")
        split = k_folds(whole, folds, table.validation, seed)[number - 1]
    else:
        split = split_subjects(whole, table.validation, table.test, seed)
    part = {s for target in targets for s in dataset.subjects_with((source, target))} - set(whole)
    return replace(split, train=tuple(sorted({*split.train, *part})))


def _refuse_twice(dataset: TravellingHeads, split: Split, source: str) -> None:
    """Refuse one image under two subjects' names: it would train and test."""
    names = {*split.train, *split.validation, *split.test}
    for one, other in duplicates(dataset.acquisition(name, source) for name in sorted(names)):
        raise DataError(
            f"{one.dwi} and {other.dwi} hold the same image: subject {one.subject} and subject {other.subject} are "
            "one, who would train and test; remove one of them."
        )


def gather(
    recipe: Recipe, dataset: TravellingHeads, split: Split, out: Path, watch: Watch, reading: Reading, engine: Engine
) -> Material:
    """The heads that train and validate, with all that follows from them alone.

    Args:
        recipe, dataset, split: What to train, on whom.
        out: Run folder; nothing is written there yet.
        watch, reading: How the work is shown, and how acquisitions are read.
        engine: Where the training computes, and with whom.

    Raises:
        DataError: A file is unusable, or one image is there under two names.
    """
    source, targets = recipe.source.name, recipe.task.target_names
    _refuse_twice(dataset, split, source)
    for subject in split.train:
        missing = [name for name in targets if (subject, name) not in dataset.acquisitions]
        if missing:
            reading.say(f"{subject} was not scanned on {', '.join(missing)} and trains the others only")
    if split.leaky:
        reading.say("LEAKY: the paper's split tests on patches that overlap with training patches")
    heads = {head.subject: head for head in read_heads(dataset, _once(split), recipe, watch, reading)}
    train, validation = ([heads[name] for name in part] for part in (split.train, split.validation))
    by_source: Standardises = PerAcquisition(source)
    if recipe.representation.standardise == "training":
        by_source = statistics((head.source for head in train), source)
    standardise = {p: statistics((head.targets[p] for head in train if p in head.targets), p) for p in targets}
    facts = {
        "label": dataset.label,
        "simulated": dataset.simulated,
        "data": {"root": dataset.root.name, "layout": dataset.layout, "facts": dict(dataset.facts)},
        "notes": [note for head in heads.values() for note in head.notes],
        "images": {name: fingerprint(dataset.acquisition(name, source).dwi) for name in heads},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    inputs = {
        f"{name} {platform}": digests(dataset.acquisition(name, platform))
        for name, head in heads.items()
        for platform in (source, *head.targets)
    }
    gradients = {name: next(h.targets[name].gradients for h in train if name in h.targets) for name in targets}
    size = sum(v.channels.nbytes for head in heads.values() for v in (head.source, *head.targets.values()))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # on this machine, each with all volumes
    store = out / FEED if size > free_memory() // 2 // processes else None
    if store is not None:
        reading.say(f"the volumes take {size / 1e9:.1f} GB, more than half of the free memory: patches come from files")
    return Material(
        recipe=recipe,
        dataset=dataset,
        split=split,
        train=train,
        validation=validation,
        standardise_source=by_source,
        standardise=standardise,
        gradients=gradients,
        facts=facts,
        inputs=inputs,
        watch=watch,
        say=reading.say,
        engine=engine,
        store=store if store is None or engine.ranks == 1 else store / str(engine.rank),  # each maps its own
    )


def _once(split: Split) -> tuple[str, ...]:
    """The subjects to read, each once."""
    return tuple(dict.fromkeys((*split.train, *split.validation)))

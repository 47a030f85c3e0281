"""The tables of a recipe: what each key means and which values it may have."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from harmonet.platforms import Platform

FOLD = r"^[1-9][0-9]{0,3}/[1-9][0-9]{0,3}$"  # such as 2/5

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    """Refuses unknown keys, wrong types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)


class PlatformTable(Strict):
    """A platform as the recipe writes it."""

    name: str
    voxel_size: Annotated[list[float], Field(min_length=3, max_length=3)]
    shells: list[float] = Field(default_factory=list)
    directions: Annotated[int, Field(ge=0)] = 0
    te: float | None = None
    tr: float | None = None

    @classmethod
    def of(cls, platform: Platform) -> Self:
        """The table of a platform."""
        return cls(
            name=platform.name,
            voxel_size=list(platform.voxel_size),
            shells=list(platform.shells),
            directions=platform.directions,
            te=platform.te,
            tr=platform.tr,
        )

    def platform(self) -> Platform:
        """The platform of the table."""
        x, y, z = self.voxel_size
        return Platform(self.name, (x, y, z), tuple(self.shells), self.directions, self.te, self.tr)


class RepresentationTable(Strict):
    """How a signal becomes channels.

    Attributes:
        name, options: Of the representation.
        standardise: Whose mean and standard deviation the source is standardised by: that of the platform's
            `training` subjects, or of each `acquisition` itself (the paper's words). Targets always by training ones,
            since those of an image that is to be predicted are not known.
    """

    name: str = "sh_signal"
    options: dict[str, Any] = Field(default_factory=dict)
    standardise: Literal["training", "acquisition"] = "training"


class ModelTable(Strict):
    """Which networks may predict which platform, and how they are joined.

    Attributes:
        candidates: Target platform to names of networks or run folders; with several, training keeps the one of
            lowest error on the validation subjects.
        fusion: Name of a fusion; absent for single networks alone.
        method: Name of a method that is no network, in place of candidates and fusion.
        refine: Platforms that the fusion predicts in later stages.
        taps: Network, or `platform.network`, to layer names.
        options: Name of a network or fusion to its options.
        frozen: Platforms whose networks keep their weights when the composition is trained.
        restandardise: Platforms whose trained run may have another standardisation; an exact affine map in front and
            behind makes it fit.
        residual: What networks and fusions add to: the `linear` map of each channel that fits the training patches
            best, or `none`, the paper's. Our choice.
    """

    candidates: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    fusion: str | None = None
    method: str | None = None
    refine: list[str] = Field(default_factory=list)
    taps: dict[str, list[str]] = Field(default_factory=dict)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    patch_size: Positive = 11
    frozen: list[str] = Field(default_factory=list)
    restandardise: list[str] = Field(default_factory=list)
    residual: Literal["none", "linear"] = "none"

    def refuse_networks(self) -> None:
        """Refuse settings of networks where a method predicts in their place."""
        settings = (self.candidates, self.fusion, self.refine, self.taps, self.frozen, self.restandardise)
        if any(settings) or self.residual != "none":
            raise ValueError(
                f"model.method = {self.method!r} stands in place of networks: leave out candidates, fusion and what "
                "belongs to them, or leave out method"
            )


class SplitTable(Strict):
    """Who is kept out of training.

    Attributes:
        scheme: `subjects`, whole ones; or `paper`, the 90 % and 10 % of all patches of Blumberg et al. 2019, which
            share voxels: everything made from it is marked leaky.
        validation: How many subjects, or which.
        test: How many subjects, or which, or `2/5`: the second of five folds.
        seed: Decides who; the recipe's where absent.
    """

    scheme: Literal["subjects", "paper"] = "subjects"
    validation: Positive | list[str] = 1
    test: Positive | list[str] | Annotated[str, Field(pattern=FOLD)] = 1
    seed: Count | None = None


class LossTable(Strict):
    """What is made small. The paper names no loss: all of this is our choice.

    Attributes:
        name, options: Of the loss of one prediction.
        weighting, weighting_options: Of what weighs the terms, one for each stage and platform.
        platforms: Platform to a factor on its terms; 1 where absent.
        stages: A factor on the terms of each stage; 1 where the list ends.
        gradients: How the terms' gradients become one: their `sum`, or `pcgrad`, `cagrad`, `upgrad` (needs torchjd).
        log: Whether weights, gradient norms and their cosines go into history.jsonl.
    """

    name: str = "mse"
    options: dict[str, Any] = Field(default_factory=dict)
    weighting: str = "equal"
    weighting_options: dict[str, Any] = Field(default_factory=dict)
    platforms: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    stages: list[Annotated[float, Field(ge=0)]] = Field(default_factory=list)
    gradients: Literal["sum", "pcgrad", "cagrad", "upgrad"] = "sum"
    log: bool = False


class TrainingTable(Strict):
    """The schedule. Defaults are the paper's where it says (Blumberg et al. 2019, section 3); the others are ours.

    Attributes:
        epochs: Epochs for each single network (paper: 50 or more in all).
        joint_epochs: Epochs for the composed model.
        steps, joint_steps, minutes, joint_minutes: Other limits; what is reached first ends that part. 0 for none.
        patience: Epochs without a lower validation error after which a part ends; 0 to go on.
        patches_per_subject: Patches per training subject and epoch (the paper's test set suggests 278).
        stride: Only source voxels at every so many-th place along each axis are centres; 1 for all in the mask.
        augment: Turn training patches at random by `flips` or by `octahedral` maps (flips and right angles), channels
            with them; `none` is the paper's.
        validation_patches: Patches per validation subject.
        batch_size: Patches per step (paper: 12), over all processes and `accumulate` passes together.
        accumulate: Passes that make up one step, each with its share of the batch.
        learning_rate: Of Adam (paper: 1e-4).
        schedule: `steps`: times `decay` every `decay_every` epochs (paper: 1/sqrt 2 every 15 or 25); `cosine`: up over
            the first `warm_up` of the steps, then down to 0.
        clip: Largest norm of the gradient; 0 for any.
        nonfinite: What a NaN or Inf in loss or gradient does: `stop` the training, or `skip` the step and count it.
        rates: Part to a factor on its learning rate when the composition is trained: a platform's network, or
            `fusion`; 1 where absent.
        checkpoint_minutes: Time between checkpoints inside an epoch; each epoch ends with one.
        precision: Of forward pass and gradients; weights are float32.
        parallel: Over several processes, `ddp` copies the weights to each, `fsdp` shards them.
        compile: Compile networks whose inner layers no fusion reads; on a CPU that needs a C++ compiler.
        deterministic: Only algorithms that give the same bits each time.
        fused: Adam in one kernel.
        threads: Processor threads; 0 for what torch chooses.
        trackers: Where else history goes, such as `tensorboard`.
    """

    epochs: Positive = 50
    joint_epochs: Positive = 50
    steps: Count = 0
    joint_steps: Count = 0
    minutes: Amount = 0.0
    joint_minutes: Amount = 0.0
    patience: Count = 0
    patches_per_subject: Positive = 278
    stride: Positive = 1
    augment: Literal["none", "flips", "octahedral"] = "none"
    validation_patches: Positive = 278
    batch_size: Positive = 12
    accumulate: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["steps", "cosine"] = "steps"
    decay: Fraction = 2**-0.5
    decay_every: Positive = 15
    warm_up: Fraction = 0.05
    clip: Amount = 0.0
    nonfinite: Literal["stop", "skip"] = "stop"
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    deterministic: bool = False
    fused: bool = False
    threads: Count = 0
    trackers: list[str] = Field(default_factory=list)

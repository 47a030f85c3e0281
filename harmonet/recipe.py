"""The recipe: a TOML file that defines a model and its training. Data only, never evaluated.

Keys are strict: an unknown or mistyped one is an error, so nobody trains with a default they did not mean.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harmonet.errors import DataError, RecipeError, nearest
from harmonet.platforms import Platform, Task

LARGEST = 1_000_000  # bytes: a recipe is read by people

FOLD = r"^[1-9][0-9]{0,3}/[1-9][0-9]{0,3}$"  # such as 2/5

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)


class PlatformTable(_Strict):
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


class RepresentationTable(_Strict):
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


class ModelTable(_Strict):
    """Which networks may predict which platform, and how they are joined.

    Attributes:
        candidates: Target platform to names of networks or run folders; with several, training keeps the one of
            lowest error on the validation subjects.
        fusion: Name of a fusion; absent for single networks alone.
        refine: Platforms that the fusion predicts in later stages.
        taps: Network, or `platform.network`, to layer names.
        options: Name of a network or fusion to its options.
        frozen: Platforms whose networks keep their weights when the composition is trained.
        restandardise: Platforms whose trained run may have another standardisation; an exact affine map in front and
            behind makes it fit.
    """

    candidates: dict[str, Annotated[list[str], Field(min_length=1)]]
    fusion: str | None = None
    refine: list[str] = Field(default_factory=list)
    taps: dict[str, list[str]] = Field(default_factory=dict)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    patch_size: Positive = 11
    frozen: list[str] = Field(default_factory=list)
    restandardise: list[str] = Field(default_factory=list)


class SplitTable(_Strict):
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


class LossTable(_Strict):
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


class TrainingTable(_Strict):
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
        compile: Compile networks whose inner layers no fusion reads; torch passes over a plain `nn.Sequential`.
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


class Recipe(_Strict):
    """Everything that defines a model and its training."""

    format: Literal[1] = 1
    seed: Annotated[int, Field(ge=0)] = 0
    note: str = ""
    source: PlatformTable
    target: Annotated[list[PlatformTable], Field(min_length=1)]
    representation: RepresentationTable = Field(default_factory=RepresentationTable)
    model: ModelTable
    split: SplitTable = Field(default_factory=SplitTable)
    loss: LossTable = Field(default_factory=LossTable)
    training: TrainingTable = Field(default_factory=TrainingTable)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [platform.name for platform in self.target]
        if len(set(names)) != len(names) or self.source.name in names:
            raise ValueError("every platform has one name, and the source is no target")
        for key, given, known in (
            ("model.candidates", self.model.candidates, names),
            ("model.refine", self.model.refine, names),
            ("model.frozen", self.model.frozen, names),
            ("model.restandardise", self.model.restandardise, names),
            ("loss.platforms", self.loss.platforms, names),
            ("training.rates", self.training.rates, [*names, "fusion"]),
        ):
            for name in given:
                if name not in known:
                    kind = "target" if known is names else "target and not fusion"
                    raise ValueError(f"{key} names {name!r}, which is no {kind}. {nearest(name, known)}")
        if set(self.model.candidates) != set(names):
            missing = ", ".join(sorted(set(names) - set(self.model.candidates)))
            raise ValueError(f"model.candidates has no network for {missing}")
        if bool(self.model.refine) != (self.model.fusion is not None):
            raise ValueError("model.fusion and model.refine go together: give both or neither")
        return self

    @property
    def task(self) -> Task:
        """Source and targets."""
        return Task(self.source.platform(), tuple(table.platform() for table in self.target))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        RecipeError: The file is no TOML, too large, or has a key or value that a recipe does not have.
    """
    return parse(_read_toml(path), str(path))


class _Platforms(_Strict):
    """A file of platforms alone."""

    source: PlatformTable
    target: Annotated[list[PlatformTable], Field(min_length=1)]


def read_task(path: Path) -> Task:
    """Source and targets in a TOML file with [source] and [[target]] tables, as a recipe has them."""
    try:
        tables = _Platforms.model_validate(_read_toml(path))
    except ValidationError as error:
        raise RecipeError(f"platforms {path}: {_first_problem(error)}") from None
    return Task(tables.source.platform(), tuple(table.platform() for table in tables.target))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(raw) > LARGEST:
        raise RecipeError(f"{path} has {len(raw)} bytes, more than {LARGEST}: this is no recipe.")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is no TOML: {error}.") from None


def parse(tables: dict[str, Any], where: str) -> Recipe:
    """The recipe in a dict of tables; `where` names it in errors."""
    try:
        recipe = Recipe.model_validate(tables)
        for platform in (recipe.source, *recipe.target):
            platform.platform()
    except ValidationError as error:
        raise RecipeError(f"recipe {where}: {_first_problem(error)}") from None
    except DataError as error:
        raise RecipeError(f"recipe {where}: {error}") from None
    return recipe


def _first_problem(error: ValidationError) -> str:
    problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")  # a mistyped key explains the rest
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        return f"unknown key {place}. {nearest(str(first['loc'][-1]), known)}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not place:  # of the recipe as a whole, which nobody wants to see
        return f"{message.removesuffix('.')}{more}."
    return f"{place + ': ' if place else ''}{message}, found {first['input']!r:.60}{more}."


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Keys that a table of the recipe may have."""
    homes: dict[str, type[BaseModel]] = {
        "source": PlatformTable,
        "target": PlatformTable,
        "representation": RepresentationTable,
        "model": ModelTable,
        "split": SplitTable,
        "loss": LossTable,
        "training": TrainingTable,
    }
    model = homes.get(str(location[0]), Recipe) if location else Recipe
    return list(model.model_fields)


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, complete: every default is written out, so that it means the same next year."""
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(exclude_none=True))

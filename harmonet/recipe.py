"""The recipe: a TOML file that defines a model and its training. Data only, never evaluated.

Keys are strict: an unknown or mistyped one is an error, so nobody trains with a default they did not mean.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from harmonet.errors import DataError, RecipeError, nearest
from harmonet.platforms import Task
from harmonet.tables import LossTable, ModelTable, PlatformTable, RepresentationTable, SplitTable, Strict, TrainingTable

LARGEST = 1_000_000  # bytes: a recipe is read by people


class Recipe(Strict):
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
        if self.model.method is not None:
            self.model.refuse_networks()
        elif set(self.model.candidates) != set(names):
            missing = ", ".join(sorted(set(names) - set(self.model.candidates)))
            raise ValueError(f"model.candidates has no network for {missing}")
        if self.model.residual != "none" and self.model.restandardise:
            raise ValueError("model.residual and model.restandardise exclude each other: leave one of them out")
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


class _Platforms(Strict):
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

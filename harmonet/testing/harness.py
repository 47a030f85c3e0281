"""What the checks share: the decorator, seeded passes, and what any module of ours must be able to do."""

import copy
import inspect
import pickle
import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from harmonet.errors import HarmonetError, NotFoundError
from harmonet.recipe import parse, to_toml
from harmonet.registry import Entry, FusionEntry
from harmonet.stages import Gaussian
from harmonet.taps import evaluating

Options = Mapping[str, Any]
Check = Callable[..., None]
Pass = Callable[[nn.Module], Sequence[Tensor]]

E = TypeVar("E", bound=Entry)


class PromiseError(AssertionError):
    """A promise that is not kept; the message is one sentence that says what to do."""


def demand(kept: object, sentence: str) -> None:
    """Fail with the sentence where the promise is not kept."""
    if not kept:
        raise PromiseError(sentence)


def check(find: Callable[[str], E]) -> Callable[[Callable[[E, Options], None]], Check]:
    """A decorator that makes a public check of a function (entry, options).

    The check takes an entry or its name, and options to build it with as keywords. It leaves every random state as it
    was, and whatever a stranger's code raises becomes an AssertionError of one sentence.

    Args:
        find: Gives the entry of a name.
    """

    def decorate(function: Callable[[E, Options], None]) -> Check:
        def checked(entry: E | str, /, **options: Any) -> None:
            card = find(entry) if isinstance(entry, str) else entry
            with _random_states_kept():
                torch.manual_seed(0)
                try:
                    function(card, options)
                except PromiseError:
                    raise
                except HarmonetError as error:
                    raise PromiseError(f"{card.name}: {error}") from error
                except Exception as error:
                    raise PromiseError(f"{card.name} raised {type(error).__name__}: {_first_line(error)}") from error

        update_wrapper(checked, function)
        vars(checked).pop("__wrapped__")  # its parameters are another function's
        return checked

    return decorate


def title(function: Check) -> str:
    """The name under which cards know a check.

    >>> def check_shapes(entry): ...
    >>> title(check_shapes)
    'shapes'
    """
    return function.__name__.removeprefix("check_")


@contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "without a word")


def tensors(prediction: Tensor | Gaussian) -> list[Tensor]:
    """A prediction as a list: itself, or its mean and variance."""
    return list(prediction) if isinstance(prediction, Gaussian) else [prediction]


def seeded(module: Callable[..., Any], *inputs: Any) -> Any:
    """What the module gives, random draws inside it always the same, so that only one check is about those."""
    torch.manual_seed(0)
    return module(*inputs)


def evaluated(module: nn.Module, run: Pass) -> list[Tensor]:
    """The tensors of one pass in evaluation mode, without gradients."""
    with torch.no_grad(), evaluating(module):
        return list(run(module))


def same(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Whether two passes gave equal tensors, up to a share `tolerance` of the largest value."""
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance * float(a.abs().max()))
        for a, b in zip(first, second, strict=True)
    )


def descend(outputs: Sequence[Tensor], penalty: Tensor | float = 0.0) -> None:
    """Send a gradient back from every output, and from a penalty on the weights."""
    loss = torch.stack([y.float().square().mean() for y in outputs]).sum() + penalty
    loss.backward()  # type: ignore[no-untyped-call]


def stir(module: nn.Module) -> None:
    """Move every parameter a little, so that a layer that begins at zero hides nothing behind it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))


def refuse_lost_gradients(name: str, module: nn.Module) -> None:
    """Fail where a parameter got no gradient, a zero one or one that is not finite."""
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            demand(gradient is not None, f"{name}: no gradient reaches {path}: use it in forward, or remove it.")
            assert gradient is not None
            demand(gradient.isfinite().all(), f"{name}: the gradient of {path} is not finite: look for a division.")
            demand(gradient.any(), f"{name}: the gradient of {path} is zero: something cuts it off on its way.")


def refuse_lost_state(name: str, build: Callable[[int], nn.Module], run: Pass) -> None:
    """Fail where weights do not come back from safetensors bytes whole.

    Args:
        name: Of what is checked.
        build: Builds it from a seed.
        run: A seeded pass.
    """
    from safetensors.torch import load, save

    first, second = build(1), build(2)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand_like(tensor))  # as training would, statistics included
    second.load_state_dict(load(save({key: value.contiguous() for key, value in first.state_dict().items()})))
    demand(
        same(evaluated(first, run), evaluated(second, run)),
        f"{name} gives other values after its state dict was saved and loaded: "
        "make every tensor that a pass uses an nn.Parameter or a buffer.",
    )


def refuse_unlike_passes(name: str, module: nn.Module, run: Pass) -> None:
    """Fail where two passes in evaluation mode differ; `run` draws no seed."""
    first, second = evaluated(module, run), evaluated(module, run)
    demand(
        same(first, second),
        f"{name} gives other values in a second pass in evaluation mode: draw and count in training mode only.",
    )


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pickled": lambda module: pickle.loads(pickle.dumps(module)),
    "deep": copy.deepcopy,
}


def refuse_unlike_copies(name: str, module: nn.Module, run: Pass) -> None:
    """Fail where a pickled copy (what a spawned worker gets) or a deep copy cannot be made or gives other values."""
    for words, duplicate in COPIES.items():
        try:
            twin = duplicate(module)
        except Exception as error:
            raise PromiseError(
                f"{name}: no {words} copy can be made ({_first_line(error)}): keep lambdas, local classes, hooks and "
                "open files out of the module."
            ) from error
        demand(
            same(evaluated(module, run), evaluated(twin, run)),
            f"{name}: a {words} copy gives other values: keep all that a pass uses in parameters, buffers and options.",
        )


def refuse_touched_seeds(name: str, build: Callable[[], nn.Module]) -> None:
    """Fail where building reseeds torch, or draws from Python's or numpy's random numbers."""
    seed = 20190728
    python, numpy = random.getstate(), pickle.dumps(np.random.get_state())
    torch.manual_seed(seed)
    first = build()
    demand(torch.initial_seed() == seed, f"{name} seeds torch when it is built: draw from the generator as it is.")
    demand(random.getstate() == python, f"{name} draws from Python's random when it is built: draw from torch's.")
    demand(
        pickle.dumps(np.random.get_state()) == numpy,
        f"{name} draws from numpy's global generator when it is built: draw from torch's.",
    )
    torch.manual_seed(seed)
    pairs = zip(first.state_dict().values(), build().state_dict().values(), strict=True)
    demand(
        all(torch.equal(a, b) for a, b in pairs),
        f"{name} has other weights when it is built again after the same seed: draw from torch's generator only.",
    )


def through_a_recipe(entry: Entry, options: Options) -> dict[str, Any]:
    """The entry's options, defaults filled in, after they were written to a recipe as TOML and read again."""
    chosen = {key: value for key, value in (entry.options() | dict(options)).items() if value is not None}
    for key, value in chosen.items():
        demand(value is not inspect.Parameter.empty, f"{entry.name}: option {key} has no default: give it one.")
        demand(
            isinstance(value, bool | int | float | str | list | tuple | dict),
            f"{entry.name}: option {key} is a {type(value).__name__} by default, which no recipe can hold: use "
            "numbers, text and lists.",
        )
    tables = _tables(entry, {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items()})
    written = to_toml(parse(tables, "of the conformance kit"))
    return parse(tomllib.loads(written), "of the conformance kit").model.options[entry.name]


def _tables(entry: Entry, options: Options) -> dict[str, Any]:
    """A recipe that uses the entry."""
    voxel_size = [2.0, 2.0, 2.0]
    model: dict[str, Any] = {"candidates": {"b": [entry.name]}, "options": {entry.name: dict(options)}}
    if isinstance(entry, FusionEntry):
        model |= {"candidates": {"b": ["any"]}, "fusion": entry.name, "refine": ["b"]}
    return {
        "source": {"name": "a", "voxel_size": voxel_size},
        "target": [{"name": "b", "voxel_size": voxel_size}],
        "model": model,
    }


def refuse_unknown_options_taken(entry: Entry) -> None:
    """Fail where a mistyped option would be swallowed."""
    try:
        entry.check_options({"no_such_option": 1})
    except NotFoundError:
        return
    raise PromiseError(f"{entry.name} takes any option (**kwargs), so a mistyped one is not refused: name its options.")


def refuse_incomplete_card(entry: Entry, unsupported: Mapping[str, str], checks: Sequence[Check]) -> None:
    """Fail where a card leaves open what a reader needs, or declares what the kit does not know."""
    name, paper = entry.name, entry.paper
    demand(entry.our_choice, f"the card of {name} has no our_choice: say what no publication says.")
    if paper is not None:
        demand(paper.title and paper.year, f"the paper of {name} has no title or year: fill them in.")
        demand(paper.doi, f"the paper of {name} has no DOI: give it one, or set paper=None.")
        demand(entry.published, f"the card of {name} has a paper but no published: say what is as published.")
    known = [title(function) for function in checks]
    for declared, reason in unsupported.items():
        demand(declared in known, f"{name} declares {declared!r} unsupported, which is no check: {', '.join(known)}.")
        demand(reason, f"{name} declares {declared!r} unsupported without a reason: say why.")

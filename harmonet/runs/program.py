"""A model as a program of torch.export, for a runtime that knows nothing of harmonet.

harmonet never reads one: it could hold code.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from harmonet.errors import OutputError, RunError
from harmonet.files import write_whole
from harmonet.model import Model, answers
from harmonet.runs.export import refuse_methods
from harmonet.runs.folder import Trained


class Answers(nn.Module):
    """A model's answers as a tuple, in the order of `platforms`.

    Attributes:
        platforms: What is predicted.
    """

    def __init__(self, model: Model, platforms: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.platforms = model, platforms

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Standardised source patches (B, C, n, n, n) to each platform's standardised prediction."""
        found = answers(self.model(x))
        return tuple(found[platform] for platform in self.platforms)


def write_program(run: Trained, path: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write the model as a `.pt2` program of patches, in any number at once; the platforms that it gives, in order.

    Raises:
        OutputError: The name does not end in `.pt2`, or the file exists.
        RunError: A layer cannot be exported, or the run has a method that is no network.
    """
    refuse_methods(run)
    if path.suffix != ".pt2":
        raise OutputError(f"{path} names no program: write a name that ends in .pt2.")
    if path.exists() and not force:
        raise OutputError(f"{path} exists: add --force to replace it, or choose another name.")
    edge, model = run.recipe.model.patch_size, run.model.cpu().eval()
    x = torch.zeros(2, run.representation.channels, edge, edge, edge)
    with torch.no_grad():
        platforms = tuple(answers(model(x)))
    try:
        program = torch.export.export(
            Answers(model, platforms), (x,), dynamic_shapes=({0: torch.export.Dim("patches")},), strict=False
        )
    except Exception as error:  # a stranger's layer can fail in any way
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{run.folder} cannot be made a program of torch.export ({first}): leave --program out."
        ) from None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_whole(path, buffer.getvalue())
    return platforms

"""harmonet: learn from travelling heads to turn diffusion MRI of one scanner into that of another.

Importing the package is light: torch and the rest come when something needs them.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Fusion": "fusion",
    "FusionEntry": "registry",
    "HarmonetError": "errors",
    "Model": "composer",
    "NetworkEntry": "registry",
    "Paper": "registry",
    "Platform": "platforms",
    "PluginWarning": "errors",
    "RepresentationEntry": "registry",
    "Source": "fusion",
    "Task": "platforms",
    "answers": "composer",
    "compose": "runs",
    "create_network": "build",
    "hookimpl": "hookspecs",
    "list_fusions": "plugins",
    "list_networks": "plugins",
    "list_representations": "plugins",
    "load": "runs",
    "open_dataset": "data.layout",
    "register_fusion": "plugins",
    "register_network": "plugins",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The public name, imported from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'harmonet' has no attribute {name!r}")
    return getattr(import_module(f"harmonet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]

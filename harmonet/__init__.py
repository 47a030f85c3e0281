"""harmonet: learn from travelling heads to turn diffusion MRI of one scanner into that of another.

Importing the package is light: torch and the rest come when something needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers, which cannot follow __getattr__
    from harmonet.blocks.adapted import adapt as adapt
    from harmonet.build import create_network as create_network
    from harmonet.data.layout import open_dataset as open_dataset
    from harmonet.errors import HarmonetError as HarmonetError
    from harmonet.errors import PluginWarning as PluginWarning
    from harmonet.fusion import Fusion as Fusion
    from harmonet.fusion import Source as Source
    from harmonet.hookspecs import hookimpl as hookimpl
    from harmonet.methods.method import Method as Method
    from harmonet.methods.method import Pair as Pair
    from harmonet.model import Model as Model
    from harmonet.model import answers as answers
    from harmonet.platforms import Platform as Platform
    from harmonet.platforms import Task as Task
    from harmonet.plugins import list_fusions as list_fusions
    from harmonet.plugins import list_methods as list_methods
    from harmonet.plugins import list_metrics as list_metrics
    from harmonet.plugins import list_networks as list_networks
    from harmonet.plugins import list_representations as list_representations
    from harmonet.register import register_fusion as register_fusion
    from harmonet.register import register_method as register_method
    from harmonet.register import register_network as register_network
    from harmonet.registry import FusionEntry as FusionEntry
    from harmonet.registry import MethodEntry as MethodEntry
    from harmonet.registry import MetricEntry as MetricEntry
    from harmonet.registry import NetworkEntry as NetworkEntry
    from harmonet.registry import Paper as Paper
    from harmonet.registry import RepresentationEntry as RepresentationEntry
    from harmonet.representation import Representation as Representation
    from harmonet.runs import compose as compose
    from harmonet.runs import load as load
    from harmonet.stages import Gaussian as Gaussian
    from harmonet.stages import Stage as Stage

_HOMES = {
    "Fusion": "fusion",
    "FusionEntry": "registry",
    "Gaussian": "stages",
    "HarmonetError": "errors",
    "Method": "methods.method",
    "MethodEntry": "registry",
    "Model": "model",
    "MetricEntry": "registry",
    "NetworkEntry": "registry",
    "Pair": "methods.method",
    "Paper": "registry",
    "Platform": "platforms",
    "PluginWarning": "errors",
    "Representation": "representation",
    "RepresentationEntry": "registry",
    "Source": "fusion",
    "Stage": "stages",
    "Task": "platforms",
    "adapt": "blocks.adapted",
    "answers": "model",
    "compose": "runs",
    "create_network": "build",
    "hookimpl": "hookspecs",
    "list_fusions": "plugins",
    "list_methods": "plugins",
    "list_metrics": "plugins",
    "list_networks": "plugins",
    "list_representations": "plugins",
    "load": "runs",
    "open_dataset": "data.layout",
    "register_fusion": "register",
    "register_method": "register",
    "register_network": "register",
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

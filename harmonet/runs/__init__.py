"""What a run folder holds, and how one comes to be."""

from harmonet.runs.folder import Trained, load
from harmonet.runs.members import compose

__all__ = ["Trained", "compose", "load"]

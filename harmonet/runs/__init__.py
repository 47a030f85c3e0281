"""What a run folder holds, and how one comes to be."""

from harmonet.runs.folder import Trained, compose, load

__all__ = ["Trained", "compose", "load"]

"""Scores of trained runs on held-out subjects, beside baselines."""

from harmonet.evaluation.score import Evaluation, Maps, Score, evaluate

__all__ = ["Evaluation", "Maps", "Score", "evaluate"]

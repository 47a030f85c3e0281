"""Scores of trained runs on held-out subjects, beside baselines, with statistics over subjects."""

from harmonet.evaluation.result import Evaluation, Maps, MetricCard, Score
from harmonet.evaluation.score import evaluate
from harmonet.evaluation.series import run_folders

__all__ = ["Evaluation", "Maps", "MetricCard", "Score", "evaluate", "run_folders"]

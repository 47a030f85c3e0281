"""Prediction: a new subject in, a usable image out.

`predict` computes what each platform would have measured, `write_predictions` writes it as an `Output` says, and
`predict_cohort` does both for many subjects.
"""

from harmonet.runs.predict.cohort import Tally, predict_cohort
from harmonet.runs.predict.output import Output, refuse_taken, remarks, write_predictions
from harmonet.runs.predict.reading import read_new
from harmonet.runs.predict.subject import Prediction, predict

__all__ = [
    "Output",
    "Prediction",
    "Tally",
    "predict",
    "predict_cohort",
    "read_new",
    "refuse_taken",
    "remarks",
    "write_predictions",
]

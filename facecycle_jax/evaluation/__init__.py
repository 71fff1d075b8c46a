"""Evaluation of models.

It has the tables of the paper by their protocols, comparisons of synthetic faces with
the truth, and galleries.
"""

from facecycle_jax.evaluation.gallery import draw_gallery
from facecycle_jax.evaluation.options import (
    PROBES,
    TASKS,
    TEST_SPLITS,
    EvaluationOptions,
)
from facecycle_jax.evaluation.synthetic import evaluate_synthetic, random_model
from facecycle_jax.evaluation.synthetic_report import report_on_synthetic_faces
from facecycle_jax.evaluation.tasks import evaluate, feature_sets, run_evaluation
from facecycle_jax.evaluation.while_training import (
    check_probe,
    headlines,
    probe_while_training,
)

__all__ = [
    "PROBES",
    "TASKS",
    "TEST_SPLITS",
    "EvaluationOptions",
    "check_probe",
    "draw_gallery",
    "evaluate",
    "evaluate_synthetic",
    "feature_sets",
    "headlines",
    "probe_while_training",
    "random_model",
    "report_on_synthetic_faces",
    "run_evaluation",
]

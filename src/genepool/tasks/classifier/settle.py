"""The lossless early stop in compiled code, for networks that score faster than they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.early_stop.lossless import LosslessPlan
from genepool.tasks.classifier.evaluator import Classifier
from genepool.tasks.task import Task


def settle(tasks: Sequence[Task], model: Any, plan: EvaluationPlan) -> bool:
    """Ask a model all that a plan wants to know, in compiled code; false if that cannot be done.

    It can for a lossless plan that has asked nothing yet, one classifier and a model of plain
    arrays. What is asked, the answers and the end are bit for bit those of asking block by block.
    (Measured in turn on the digits from scratch: block by block the whole loop makes 0.84 of the
    steps per second.)

    Raises:
        EvaluationError: the model cannot be scored.
    """
    # Not of a subclass: it may score otherwise.
    if not isinstance(plan, LosslessPlan) or len(tasks) != 1 or type(tasks[0]) is not Classifier:
        return False
    rule = plan.rule if isinstance(model, Mapping) else None
    if rule is None:
        return False
    plan.conclude(tasks[0].mlp().settle(cast("Mapping[str, Any]", model), rule))
    return True

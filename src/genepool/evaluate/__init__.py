"""Model to scores: the evaluator contract, and one file per kind of task."""

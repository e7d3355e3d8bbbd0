"""The evaluator `lm-eval`: tasks of lm-evaluation-harness."""

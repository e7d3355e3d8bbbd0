"""The evaluator `classifier`: labelled examples, for plain arrays and for torch networks."""

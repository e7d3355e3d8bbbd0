"""The evaluator `images`: prompts, and scores for the pictures that are drawn from them."""

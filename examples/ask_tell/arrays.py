"""Evolve two arrays that are each half of a good linear model; nothing but numpy is needed."""

import numpy as np

from genepool import M2N2, Evolution, Problem

draws = np.random.default_rng(0)
good = draws.standard_normal(60).astype(np.float32)
questions = draws.standard_normal((200, 60))

# The seed models: one knows the first half of the good weights, the other the second half.
seeds = [good.copy(), good.copy()]
seeds[0][30:], seeds[1][:30] = draws.standard_normal((2, 30))


def score(weights: np.ndarray) -> np.ndarray:
    """Which questions are answered as the good model answers them: one score per question."""
    return (np.sign(questions @ weights) == np.sign(questions @ good)).astype(np.float32)


problem = Problem.of_vectors(seeds, examples=len(questions))
evolution = Evolution(problem, M2N2(archive=10))
while evolution.evaluations < 300:
    proposal = evolution.ask()
    evolution.tell(proposal.step, score(problem.express(proposal.genome)))

print(*(f"{score(seed).mean():.4f}" for seed in seeds), "->", evolution.champion.train)

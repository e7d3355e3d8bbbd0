"""Evolve PyTorch modules: two networks, each fitted to two of four classes, become one."""

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from genepool import M2N2, Evolution, Problem

torch.set_grad_enabled(False)
points = torch.randn(400, 2, generator=torch.manual_seed(0))
labels = (points > 0).long() @ torch.tensor([2, 1])
network = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))


def fitted(mine: torch.Tensor) -> torch.Tensor:
    target = torch.eye(4)[labels] * mine[:, None]
    network[2].weight[:] = (torch.linalg.pinv(network[:2](points), rtol=0.001) @ target).T
    return parameters_to_vector(network.parameters()).clone()


def score(weights: torch.Tensor) -> torch.Tensor:
    vector_to_parameters(weights, network.parameters())
    return (network(points).argmax(1) == labels).float()


seeds = [fitted(labels < 2), fitted(labels >= 2)]
evolution = Evolution(Problem.of_vectors(seeds, examples=400), M2N2(archive=10))
while evolution.evaluations < 300:
    proposal = evolution.ask()
    evolution.tell(proposal.step, score(torch.tensor(evolution.problem.express(proposal.genome))))
print(*(f"{score(seed).mean():.4f}" for seed in seeds), "->", evolution.champion.train)

"""Spending fewer examples: final held-out quality against the share of examples evaluated.

    python experiments/beyond/fewer.py --data digits --start pre --steps 5000 --seeds 10

Every method may ask `share * children * examples` answers. The rivals score every child on a fixed
subset of the examples: `random`, or `irt`, chosen by item response theory as in MERGE3 (anchors:
examples nearest to the centres of clusters of items, weighted by cluster size; the items fitted to
100 random merges of the seeds, whose scoring is not counted; in `irtpaid` it is, and children are
fewer). `all` scores fewer children on all examples with the lossless early stop, `risk` the same
with a risk of 0.2, `rounds` scores all children on a subset that changes every so often, everybody
in the archive being scored anew on it; `large` the same, with at least a tenth of the examples and
therefore fewer children. A method with `+4` behind it breeds with four split points.
In the end the five members that a method holds best are scored on all examples, and the best of
those is the result (counted, except for the rivals).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import lab
import numpy as np
from lab import World, world

from genepool.core.archive import Archive, Member, empty_archive
from genepool.core.examples import Examples, examples_of
from genepool.core.rng import generator
from genepool.strategies import Niches, Problem
from genepool.strategies.base import mate, seed_member

SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 50)
FINALISTS = 5
CALIBRATION = 100


def breed(
    place: World,
    problem: Problem,
    strategy: Niches,
    state: Archive,
    steps: range,
    examples: np.ndarray,
    budget: float,
    stop: bool,
) -> tuple[Archive, int, int]:
    """Children scored on some of the examples: the archive, answers asked, children made."""
    unknown = np.full(examples.size, np.nan, dtype=np.float32)
    asked = made = 0
    for step in steps:
        if asked >= budget:
            break
        made += 1
        proposal = strategy.propose(problem, state, step)
        if stop:
            exam = strategy.exam(state, proposal, unknown)
            while not exam.done:
                block = exam.next()
                exam.record(block, place.score(proposal.genome, examples[block]))
            scores = exam.scores
        else:
            scores = place.score(proposal.genome, examples)
        missing = int(np.isnan(scores).sum())
        asked += scores.size - missing
        if not missing:
            member = Member(
                len(problem.seeds) + step - 1,
                proposal.genome,
                proposal.plan.parents,
                problem.examples.mean(scores),
            )
            state, _ = strategy.absorb(state, member, step, scores)
    return state, asked, made


def _weighed(weights: np.ndarray) -> Examples:
    return examples_of(weights.size, binary=True, capacity=weights)


def start(place: World, problem: Problem, strategy: Niches, examples: np.ndarray) -> Archive:
    """The seeds in the archive."""
    state = strategy.begin(problem)
    for number, genome in enumerate(problem.seeds):
        scores = place.score(genome, examples)
        member = Member(number, genome, (), problem.examples.mean(scores))
        state, _ = strategy.absorb(state, member, 0, scores)
    return state


def best_of(place: World, finalists: list[tuple[float, Member]]) -> tuple[float, float]:
    """Train and test accuracy of the best on all examples of the most promising."""
    everything = np.arange(place.data.train)
    finalists = sorted(finalists, key=lambda pair: -pair[0])[:FINALISTS]
    checked = [(float(place.score(m.genome, everything).mean()), m) for _, m in finalists]
    train, member = max(checked, key=lambda pair: pair[0])
    return train, place.test(member.genome)


def members(archive: Archive) -> list[tuple[float, Member]]:
    return [(member.train, member) for member in archive.members if member is not None]


def on_subset(
    place: World, strategy: Niches, steps: int, chosen: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
    """A rival: one subset throughout."""
    problem = replace(place.problem, examples=_weighed(weights))
    state = start(place, problem, strategy, chosen)
    state, asked, made = breed(
        place, problem, strategy, state, range(1, steps + 1), chosen, np.inf, False
    )
    train, test = best_of(place, members(state))
    return {"train": train, "test": test, "asked": asked, "children": made}


def on_all(place: World, strategy: Niches, steps: int, budget: float) -> dict[str, Any]:
    """Fewer children, all examples."""
    everything = np.arange(place.data.train)
    state = start(place, place.problem, strategy, everything)
    state, asked, made = breed(
        place, place.problem, strategy, state, range(1, steps + 1), everything, budget, True
    )
    train, test = best_of(place, members(state))
    return {"train": train, "test": test, "asked": asked, "children": made}


def in_rounds(
    place: World,
    strategy: Niches,
    steps: int,
    budget: float,
    size: int,
    length: int,
    seed: int,
    warm: int = 0,
) -> dict[str, Any]:
    """A new subset every `length` children; whoever is in the archive is scored on it too.

    With `warm` random merges scored on all examples (counted), a subset has one example from each
    of `size` clusters of examples that these and the seeds solve alike, weighted by cluster size.
    """
    total, problem = place.data.train, place.problem
    everything = np.arange(total)
    spent, made, first = FINALISTS * total, 0, 1
    draws = generator(seed, 0, stream=99)
    groups: list[np.ndarray] = []
    rows, bred = [place.score(genome, everything) for genome in problem.seeds], []
    for number in range(warm):
        proposal = mate(
            problem,
            10**6 + number,
            generator(seed, number, stream=97),
            seed_member(problem, number % 2),
            seed_member(problem, 1 - number % 2),
            splits=1,
            angle="global",
            mutation=strategy.mutation,
        )
        rows.append(place.score(proposal.genome, everything))
        bred.append(Member(-1 - number, proposal.genome, (), float(rows[-1].mean())))
        spent += total
    if warm:
        groups = clusters(np.array(rows).T, size, seed)

    def choose() -> tuple[np.ndarray, Problem]:
        if groups:
            chosen = np.array([group[draws.integers(group.size)] for group in groups])
            weights = np.array([float(group.size) for group in groups])
        else:
            chosen, weights = draws.permutation(total)[:size], np.ones(size)
        return chosen, replace(problem, examples=_weighed(weights))

    chosen, here = choose()
    state = start(place, here, strategy, chosen)
    for member in bred:
        scores = place.score(member.genome, chosen)
        state, _ = strategy.absorb(
            state, replace(member, train=here.examples.mean(scores)), 0, scores
        )
    known: dict[int, tuple[float, int]] = {}
    while first <= steps and spent < budget:
        state, asked, some = breed(
            place,
            here,
            strategy,
            state,
            range(first, min(first + length, steps + 1)),
            chosen,
            budget - spent,
            True,
        )
        spent += asked
        made += some
        first += length
        for member in state.members:
            if member is not None:
                solved, count = known.get(member.id, (0.0, 0))
                known[member.id] = solved + member.train, count + 1
        if first > steps or spent >= budget:
            break
        chosen, here = choose()
        fresh = empty_archive(strategy.size, here.examples, strategy.alpha)
        for slot, member in enumerate(state.members):
            if member is not None:
                scores = place.score(member.genome, chosen)
                spent += chosen.size
                fresh = fresh.replaced(
                    slot, replace(member, train=here.examples.mean(scores)), scores
                )
        state = fresh
    # The mean of all its rounds, drawn towards that of the archive as far as they are few.
    there = [member for member in state.members if member is not None]
    overall = float(np.mean([known[m.id][0] / known[m.id][1] for m in there]))
    hopes = [((known[m.id][0] + overall) / (known[m.id][1] + 1), m) for m in there]
    train, test = best_of(place, hopes)
    return {"train": train, "test": test, "asked": spent, "children": made}


def clusters(features: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Examples that are solved alike."""
    from sklearn.cluster import MiniBatchKMeans

    jitter = np.random.default_rng(seed).random(features.shape) * 1e-3
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=2048)
    labels = means.fit(features + jitter).labels_
    groups = [np.flatnonzero(labels == number) for number in range(count)]
    return [group for group in groups if group.size]


def calibration(place: World, count: int = CALIBRATION) -> np.ndarray:
    """Scores of random merges of the seeds on all examples, [count, N]."""
    everything, rows = np.arange(place.data.train), []
    for number in range(count):
        draws = generator(12345, number)
        proposal = mate(
            place.problem,
            number + 1,
            draws,
            seed_member(place.problem, number % 2),
            seed_member(place.problem, 1 - number % 2),
            splits=min(number % 4, 1),
            angle="global",
            mutation=0.0,
        )
        rows.append(place.score(proposal.genome, everything))
    return np.array(rows)


def items(scores: np.ndarray, dimensions: int = 5) -> np.ndarray:
    """Multidimensional two-parameter IRT, P(right) = sigmoid(a_j theta_m - b_j): [N, D + 1]."""
    draws = np.random.default_rng(0)
    many, size = scores.shape
    values = {
        "theta": draws.standard_normal((many, dimensions)),
        "a": draws.standard_normal((size, dimensions)) * 0.5,
        "b": np.zeros(size),
    }
    one = {k: np.zeros_like(v) for k, v in values.items()}
    two = {k: np.zeros_like(v) for k, v in values.items()}
    for step in range(1, 301):
        chance = 1 / (1 + np.exp(-(values["theta"] @ values["a"].T - values["b"])))
        error = chance - scores
        slopes = {
            "theta": error @ values["a"] / size * 50 + 0.05 * values["theta"],
            "a": error.T @ values["theta"] / many * 5 + 0.05 * values["a"],
            "b": -error.mean(axis=0) * 5 + 0.02 * values["b"],
        }
        for k, slope in slopes.items():
            one[k] = 0.9 * one[k] + 0.1 * slope
            two[k] = 0.999 * two[k] + 0.001 * slope**2
            values[k] -= (
                0.05 * (one[k] / (1 - 0.9**step)) / (np.sqrt(two[k] / (1 - 0.999**step)) + 1e-8)
            )
    return np.column_stack([values["a"], values["b"]])


def anchors(features: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples nearest to the centres of clusters, and the clusters' sizes."""
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=2048).fit(features)
    distance = means.transform(features)
    chosen, weights = [], []
    for number in range(count):
        mine = np.flatnonzero(means.labels_ == number)
        if mine.size:
            chosen.append(int(mine[distance[mine, number].argmin()]))
            weights.append(float(mine.size))
    return np.array(chosen), np.array(weights)


def main() -> None:
    """Run what is missing; one line of JSON per run."""
    parser = lab.arguments()
    parser.add_argument("--methods", default="random,irt,all,risk,rounds,large")
    parser.add_argument("--shares", type=int, nargs="*", default=[2, 4, 8, 16, 32, 50])
    args = parser.parse_args()
    file = args.work / f"fewer-{args.data}-{args.start}-{args.steps}.jsonl"
    done = {(row["method"], row["divisor"], row["seed"]) for row in lab.rows(file)}
    mutation = 0.01 if args.start == "scratch" else 0.0
    plain = Niches(size=20, mutation=mutation)
    features = None
    for seed in range(args.first, args.first + args.seeds):
        place = world(args.data, args.start, seed)
        total = place.data.train
        for divisor in args.shares:
            budget = args.steps * total / divisor
            for method in args.methods.split(","):
                if (method, divisor, seed) in done:
                    continue
                lab.wait(args.pause)
                began = time.time()
                size = max(2, round(total / divisor))
                base, _, more = method.partition("+")
                breeder = replace(plain, splits=int(more)) if more else plain
                if base == "random":
                    chosen = generator(seed, 0, stream=98).permutation(total)[:size]
                    found = on_subset(place, breeder, args.steps, chosen, np.ones(size))
                elif base in ("irt", "irtpaid"):
                    if features is None:
                        features = items(calibration(place))
                    chosen, weights = anchors(features, size, seed)
                    children = args.steps
                    if base == "irtpaid":
                        paid = (CALIBRATION + FINALISTS) * total
                        children = int((budget - paid) / size)
                        if children < 1:
                            continue
                    found = on_subset(place, breeder, children, chosen, weights)
                    if base == "irtpaid":
                        found["asked"] += paid
                elif base == "all":
                    found = on_all(place, breeder, args.steps, budget)
                elif base == "risk":
                    found = on_all(place, replace(breeder, risk=0.2), args.steps, budget)
                else:
                    # Members are scored anew every `length` children; the early stop saves.
                    length = 50 if base == "large" else int(base.removeprefix("rounds") or 100)
                    rest = max(budget - FINALISTS * total, budget / 2)
                    size = min(total, max(8, round(rest / args.steps / (0.55 + 20 / length))))
                    if base == "large":
                        size = max(size, total // 10)
                    found = in_rounds(place, breeder, args.steps, budget, size, length, seed)
                row = {"method": method, "divisor": divisor, "seed": seed, **found}
                row["share"] = found["asked"] / (args.steps * total)
                row["seconds"] = round(time.time() - began, 1)
                lab.append(file, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()

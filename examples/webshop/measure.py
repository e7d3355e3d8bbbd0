"""Figures of the README: what random play and the walkthroughs earn, and how fast the server is.

python examples/webshop/measure.py [items_ins_v2_1000.json]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from webshop import Shop, made, serve, walkthrough
from webshop.made import Draws
from webshop.shop import keywords

ROUNDS = 7  # as many as AgentGym's evaluation allows


def random_play(shop: Shop, goal: int, seed: int = 0) -> float:
    """The reward of one who searches for what is wanted, and then clicks at random."""
    draws = Draws("play", seed, goal)
    state = shop.step(shop.start(goal), f"search[{keywords(shop.goals[goal])}]").state
    for _ in range(ROUNDS - 1):
        if state.page == "start":
            action = f"search[{keywords(state.goal)}]"
        else:
            action = f"click[{draws.pick(shop.clickables(state))}]"
        step = shop.step(state, action)
        if step.done:
            return step.reward
        state = step.state
    return 0.0


def first_result(shop: Shop, goal: int, choose: bool = False) -> float:
    """The reward of one who buys the first product that the search for what is wanted finds.

    With `choose` the options that are wanted are chosen first, as far as the product has them.
    """
    state = shop.step(shop.start(goal), f"search[{keywords(shop.goals[goal])}]").state
    state = shop.step(state, f"click[{state.found[0].lower()}]").state
    for value in state.goal.options.values() if choose else ():
        state = shop.step(state, f"click[{value}]").state
    return shop.step(state, "click[buy now]").reward


def scripted(shop: Shop, goal: int) -> float:
    """The reward of the walkthrough."""
    state, reward = shop.start(goal), 0.0
    for action in walkthrough(shop, goal):
        state, reward, _ = shop.step(state, action)
    return reward


def main() -> None:
    """Print the figures."""
    shop = Shop(*made(sys.argv[1] if len(sys.argv) > 1 else None))
    goals = range(len(shop.goals))
    print(f"{len(shop.products)} products, {len(shop.goals)} goals")
    plays = [random_play(shop, goal, seed) for seed in range(20) for goal in goals]
    print(f"random play: {statistics.fmean(plays):.3f}, at 1.0: {plays.count(1) / len(plays):.3f}")
    for choose in (False, True):
        first = [first_result(shop, goal, choose) for goal in goals]
        mean, full = statistics.fmean(first), first.count(1) / len(first)
        print(f"first result{', options chosen' * choose}: {mean:.3f}, at 1.0: {full:.3f}")
    print(f"walkthrough: {statistics.fmean(scripted(shop, goal) for goal in goals):.3f}")
    pages = [shop.text(shop.step(shop.start(g), walkthrough(shop, g)[0]).state) for g in goals]
    print(f"a page of results: {max(map(len, pages))} characters at most")
    with serve(shop) as url, httpx.Client(base_url=url) as client:
        session = client.post("/create").json()
        start, count = time.perf_counter(), 0
        for goal in goals:
            client.post("/reset", json={"env_idx": session, "session_id": goal})
            for action in walkthrough(shop, goal):
                client.post("/step", json={"env_idx": session, "action": action})
                count += 1
        seconds = time.perf_counter() - start
    print(f"{(count + len(goals)) / seconds:.0f} requests a second, one client")


if __name__ == "__main__":
    main()

"""Breed a better shopper out of two: `python examples/webshop/demo.py [FOLDER] [--budget N]`.

It starts the shop on this machine's loopback, makes two clerks who each lack something, and breeds
a third. In FOLDER (by default `shop`) lie the seeds, the run file and the pool afterwards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from webshop import Shop, made, serve
from webshop.clerk import CLERKS, FEATURES

RUN = """\
pool: {folder}/pool
seeds: [{folder}/reader.safetensors, {folder}/fitter.safetensors]
tasks:
  - name: shop
    evaluator: agent
    environment: agentgym
    settings: {{url: "{url}", actions: true}}
    policy: webshop.clerk:act
    split: train
    limit: 60
    held_out_split: test
    held_out_limit: 60
    rounds: 7
    batch: 20
strategy: {{name: m2n2, archive: 8}}
budget: {budget}
seed: {seed}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("shop"))
    parser.add_argument("--budget", type=int, default=40, help="children to breed")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    args = parser.parse_args()
    breed(args.folder.absolute(), args.budget, args.seed)


def breed(folder: Path, budget: int, seed: int = 0) -> None:
    """Write seeds and run file, start the shop, breed, and show one purchase of the champion."""
    from safetensors.numpy import save_file

    import genepool
    from genepool.run.finished.episodes import episode
    from genepool.ui.terminal.console import console
    from genepool.ui.terminal.tables import print_episode

    folder.mkdir(parents=True, exist_ok=True)
    for name, weights in CLERKS.items():
        named = dict(zip(FEATURES, np.array(weights, dtype=np.float32)[:, None], strict=True))
        save_file(named, folder / f"{name}.safetensors")
    with serve(Shop(*made(), page=5)) as url:
        file = folder / "run.yaml"
        file.write_text(RUN.format(folder=folder, url=url, budget=budget, seed=seed))
        result = genepool.evolve(file)
        with genepool.Pool(result.pool) as pool:
            print_episode(console(), episode(pool, "best", "0"))
    seeds = {one["name"]: one["held_out"] for one in result.status["seeds"]}
    champion = result.status["champion"]
    for name, score in {**seeds, "champion": champion["held_out"]}.items():
        print(f"{name:9} {100 * score:5.1f} % of the reward, on wishes that nobody was bred on")


if __name__ == "__main__":
    main()

"""How much of a block of episodes is the model's forward passes, and how much all else.

    python benchmarks/agents.py --json benchmarks/agents.json

A language model of SmolLM2's size plays 32 episodes in lockstep, in the shop of examples/webshop
(whose server runs in the same process, and counts as all else) and in TextWorld, choosing among the
admissible actions. Seconds are the processor's, on one thread. With --smoke the model is tiny.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("shop", "textworld"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.episodes, chosen.rounds = 2, 2
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = language_model(Path(folder), tiny=chosen.smoke)
        for name in ("shop", "textworld"):
            if name == "textworld" and importlib.util.find_spec("textworld") is None:
                print("textworld is left out: pip install '.[textworld]'")
            elif chosen.only in (None, name):
                with environment(name, Path(folder)) as settings:
                    found[name] = measure(model, settings, chosen.episodes, chosen.rounds)
                    print(name, json.dumps(found[name]), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


def language_model(folder: Path, *, tiny: bool) -> Any:
    """A Llama of random weights, with a tokenizer that takes four letters for a token.

    SmolLM2's takes about as many of this text.
    """
    import torch
    import transformers
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    from genepool.models.language import LanguageModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    of_four: Any = Tokenizer(models.WordLevel({"<pad>": 0, "?": 1}, unk_token="?"))
    of_four.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]{1,4}"), "isolated")
    library: Any = transformers
    words = library.PreTrainedTokenizerFast(
        tokenizer_object=of_four, unk_token="?", pad_token="<pad>"
    )
    heads = {"num_attention_heads": 2 if tiny else 9, "num_key_value_heads": 1 if tiny else 3}
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    if not tiny:
        # SmolLM2-135M's.
        size = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    config = library.LlamaConfig(
        vocab_size=512 if tiny else 49_152, max_position_embeddings=8192, pad_token_id=0,
        tie_word_embeddings=True, **size, **heads,
    )  # fmt: skip
    model = library.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LanguageModel(model.eval().requires_grad_(False), words, folder)


@contextlib.contextmanager
def environment(name: str, folder: Path) -> Generator[dict[str, Any], None, None]:
    """Settings of the evaluator, for as long as the environment runs."""
    if name == "textworld":
        yield {"environment": "textworld", "settings": {}}
        return
    sys.path.insert(0, str(ROOT / "examples"))
    from webshop import Shop, made, serve  # pyright: ignore

    with serve(Shop(*made(), page=5)) as url:
        yield {"environment": "agentgym", "settings": {"url": url, "actions": True}}


def measure(value: Any, settings: dict[str, Any], episodes: int, rounds: int) -> dict[str, Any]:
    """Seconds of the processor: the block as a whole, and the forward passes in it."""
    from genepool.tasks.agent.evaluator import Agent
    from genepool.tasks.agent.options import AgentOptions

    options: dict[str, Any] = {
        "policy": "choose", "limit": episodes, "batch": episodes, "rounds": rounds,
        "repeat": False, "context": 8192, **settings,
    }  # fmt: skip
    task = Agent(AgentOptions.model_validate(options), Path.cwd())
    spent = {"forward": 0.0, "passes": 0, "tokens": 0}
    own = value.model.forward

    @functools.wraps(own)  # What a model takes is looked up.
    def forward(*given: Any, **named: Any) -> Any:
        begin = time.process_time()
        out = own(*given, **named)
        spent["forward"] += time.process_time() - begin
        spent["passes"] += 1
        spent["tokens"] += named["input_ids"].numel()
        return out

    value.model.forward = forward
    try:
        begin = time.process_time()
        task.score(value, np.arange(len(task.samples)))
        total = time.process_time() - begin
    finally:
        del value.model.forward
    return {
        "episodes": len(task.samples),
        "actions each, at most": rounds,
        "forward passes": spent["passes"],
        "tokens": spent["tokens"],
        "outside of forward passes": round(1 - spent["forward"] / total, 4),
        "milliseconds outside, per episode": round(
            1000 * (total - spent["forward"]) / len(task.samples), 2
        ),
    }


if __name__ == "__main__":
    main()

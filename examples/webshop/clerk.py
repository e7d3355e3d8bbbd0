"""A clerk who shops: a policy of eight weights, for the demo and as an example of a policy.

Every admissible action is described by a few numbers, and the one with the highest weighted sum is
taken. Two clerks are made who each lack something: see `CLERKS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_CODE = re.compile(r"b[0-9a-z]{9}")
_BUTTONS = {
    "back to search", "next >", "< prev", "description", "features", "reviews", "buy now",
}  # fmt: skip

# What an action is described by: of a product its place on the page, the share of the title's words
# that the instruction has, and whether the price is within the limit; of the value of an option
# whether the instruction asks for it; and the rest.
FEATURES = ("place", "title", "price", "wanted", "unwanted", "buy", "search", "other")

# The reader compares titles from the top and buys at once, whatever it costs and without options;
# the fitter chooses options and knows its limit, and takes what lies far down the page.
CLERKS: Mapping[str, tuple[float, ...]] = {
    "reader": (-0.2, 3.0, 0.0, 0.4, -1.0, 1.0, 0.5, -1.0),
    "fitter": (1.0, 0.0, 1.5, 2.0, -1.0, 1.0, 0.5, -1.0),
}


def act(model: Mapping[str, Any], asked: Sequence[Any]) -> list[str]:
    """An action for each episode; a policy of genepool's evaluator `agent`.

    Args:
        model: one weight for each of `FEATURES`, each an array of one number.
        asked: what is known of each episode, `genepool.tasks.agent.episode.Asked`.
    """
    weights = np.array([float(model[name][0]) for name in FEATURES])
    return [_best(weights, one) for one in asked]


def _best(weights: np.ndarray[Any, Any], asked: Any) -> str:
    page = [part.strip() for part in asked.messages[-1]["content"].split("[SEP]")]
    wish = next((page[at + 1] for at, part in enumerate(page[:-1]) if part == "Instruction:"), "")
    actions = [one for one in asked.actions or ("search[nothing]",) if one not in asked.taken]
    values = [float(weights @ described(one, page, wish.lower())) for one in actions]
    return actions[int(np.argmax(values))] if actions else "click[buy now]"


def described(action: str, page: Sequence[str], wish: str) -> np.ndarray[Any, Any]:
    """float64[8]: an action by `FEATURES`.

    Args:
        action: as the shop takes it.
        page: the parts of the page.
        wish: the instruction, in lower case.
    """
    out = dict.fromkeys(FEATURES, 0.0)
    name = action.partition("[")[2].rstrip("]").strip().lower()
    if action.startswith("search["):
        out["search"] = 1.0
    elif _CODE.fullmatch(name):
        lower = [part.lower() for part in page]
        place = lower.index(name) if name in lower else -1
        title, price = ([*lower[place + 1 :], "", ""])[:2] if place >= 0 else ("", "")
        words = set(re.findall(r"[a-z]{3,}", title))
        codes = [part for part in lower if _CODE.fullmatch(part)]
        out["place"] = float(codes.index(name)) if name in codes else 0.0
        out["title"] = len([word for word in words if word in wish]) / max(len(words), 1)
        out["price"] = float(_amount(price) <= _amount(wish.partition("price lower than")[2]))
    elif name == "buy now":
        out["buy"] = 1.0
    elif name in _BUTTONS:
        out["other"] = 1.0
    else:
        asked_for = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", wish) is not None
        out["wanted" if asked_for else "unwanted"] = 1.0
    return np.array([out[name] for name in FEATURES])


def _amount(text: str) -> float:
    found = re.search(r"\d[\d,]*(\.\d+)?", text)
    return float(found[0].replace(",", "")) if found else 1e9

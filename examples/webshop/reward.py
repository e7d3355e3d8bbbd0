"""What a purchase is worth: WebShop's reward, as pure functions.

    reward = type factor * (attribute hits + option hits + [price <= limit])
             / (number of attributes + number of options + 1)

Source: princeton-nlp/WebShop, web_agent_site/engine/goal.py (Yao et al. 2022), whose nouns come
from a tagger. Here they follow a rule, see `products.nouns_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rapidfuzz import fuzz, utils

from .products import Goal, Product

# A value of an option that contains one of these words stands for it: the first in this order.
COLOURS = (
    "amber", "aqua", "beige", "black", "blue", "bronze", "brown", "burgundy", "charcoal",
    "chocolate", "copper", "coral", "cream", "gold", "gray", "green", "grey", "indigo", "ivory",
    "khaki", "lavender", "lilac", "lime", "magenta", "maroon", "mint", "mustard", "navy", "nude",
    "olive", "orange", "peach", "pink", "plum", "purple", "red", "rose", "rust", "silver", "tan",
    "taupe", "teal", "turquoise", "violet", "walnut", "white", "wine", "yellow",
)  # fmt: skip


def alike(one: str, other: str) -> bool:
    """Whether the token-set ratio of two texts, in whole per cent, is above 85.

    Case and punctuation do not count. Texts of which one has all the words of the other are alike.
    """
    return round(fuzz.token_set_ratio(one, other, processor=utils.default_process)) > 85


def plain_colour(value: str) -> str:
    """The colour that a value of an option contains, else the value."""
    return next((colour for colour in COLOURS if colour in value), value)


def attribute_hits(product: Product, attributes: Iterable[str]) -> int:
    """How many of the attributes a product has: as one of its own, or written in its texts."""
    texts = (product.title, " ".join(product.bullets), product.description)
    texts = tuple(text.lower() for text in texts)
    return sum(
        any(alike(own, wanted) for own in product.attributes)
        or any(wanted in text for text in texts)
        for wanted in attributes
    )


def option_hits(chosen: Iterable[str], wanted: Iterable[str]) -> int:
    """How many of the wanted values of options were chosen. The options' names do not count."""
    taken = [plain_colour(value) for value in chosen]
    return sum(any(alike(own, plain_colour(value)) for own in taken) for value in wanted)


def title_score(product: Product, wanted: Product) -> float:
    """The share of the wanted title's nouns that the product's title has; 0.2 if there are none."""
    if not wanted.nouns:
        return 0.2
    return len(set(product.nouns) & set(wanted.nouns)) / len(wanted.nouns)


def type_factor(product: Product, wanted: Product) -> float:
    """1 if the product is of the wanted kind, else 0.5, 0.1 or 0."""
    score = title_score(product, wanted)
    if score == 0:
        return 0.0
    if score < 0.1:
        return 0.1
    same_kind = product.query == wanted.query or len(product.shelves & wanted.shelves) >= 2
    return 1.0 if same_kind or score > 0.2 else 0.5


def reward(product: Product, options: Mapping[str, str], goal: Goal) -> float:
    """What it is worth, in [0, 1], to buy the product with the options chosen, by their names."""
    hits = (
        attribute_hits(product, goal.attributes)
        + option_hits(options.values(), goal.options.values())
        + (product.price <= goal.price_upper)
    )
    total = len(goal.attributes) + len(goal.options) + 1
    return type_factor(product, goal.product) * hits / total

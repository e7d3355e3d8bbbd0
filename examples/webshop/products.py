"""What the shop sells and what it is asked for, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

# Above every price: what WebShop takes where a goal names no price.
NO_LIMIT = 1_000_000.0

# Words of titles that are no nouns. A word that is missing here counts as one, which does little
# harm: it is then one more word that two titles can have in common.
_PLAIN = """
    the and for with from that this your our you its his her their are was has have not but all
    any can will may more most other than into onto over under out off per via set new pro plus
    mini easy free high low long short large small medium big little wide narrow light heavy
    dark bright soft hard fast quick slow good best great super ultra non anti multi double
    single dual fresh dry wet clean natural organic real true classic modern vintage portable
    wireless adjustable removable washable reusable rechargeable waterproof comfortable casual
    elegant women womens men mens black white red blue green grey gray pink brown yellow purple
    orange one two three four five six ten twelve
"""
NOT_NOUNS = frozenset(_PLAIN.split())


class ShopError(ValueError):
    """What a user gave cannot be used; the message is one line."""


def nouns_of(title: str) -> tuple[str, ...]:
    """The nouns of a title, in order, repeats included, by a rule that needs no tagger.

    WebShop asks a tagger (spaCy's en_core_web_lg). Here a noun is a word of at least three letters
    that is not in NOT_NOUNS; of "men's" the first part counts.
    """
    words = re.findall(r"[a-z]+", re.sub(r"['’]s\b", "", title.lower()))
    return tuple(word for word in words if len(word) >= 3 and word not in NOT_NOUNS)


@dataclass(frozen=True)
class Product:
    """One product. `code` is Amazon's ASIN or one of the same form; `price` is in dollars.

    `options` holds the values that can be chosen, by the option's name, in lower case. `query` is
    the kind of product, `category` a path of shelves joined by "›". `attributes` are never shown.
    """

    code: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price: float
    price_tag: str
    query: str
    category: str
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """The nouns of the title."""
        return nouns_of(self.title)

    @cached_property
    def shelves(self) -> frozenset[str]:
        """The parts of the category."""
        return frozenset(part.strip() for part in self.category.split("›"))


@dataclass(frozen=True)
class Goal:
    """What a customer wants: the words, and what the reward compares a purchase with.

    `wanted` is the instruction without options and price; `product` was the model for the goal,
    but any product that satisfies the goal is worth as much.
    """

    instruction: str
    wanted: str
    product: Product
    attributes: tuple[str, ...]
    options: Mapping[str, str]
    price_upper: float


def goal_for(
    product: Product,
    wanted: str,
    attributes: tuple[str, ...],
    options: Mapping[str, str],
    price_upper: float,
) -> Goal:
    """A goal in the words of WebShop's made instructions."""
    chosen = ", and ".join(f"{name}: {value}" for name, value in options.items())
    price = f", and price lower than {price_upper:.2f} dollars" if price_upper < NO_LIMIT else ""
    instruction = wanted.strip(".") + (f" with {chosen}" if chosen else "") + price
    return Goal(instruction, wanted, product, attributes, options, price_upper)


def price_limits(price: float) -> tuple[float, ...]:
    """The limits a goal may name: the second to fourth multiple of 10 dollars above the price.

    WebShop draws two of the next four such multiples and takes the higher one. From 980 dollars on
    there is no limit.
    """
    above = [10.0 * step for step in range(1, 100) if 10.0 * step > price][:4]
    return tuple(above[1:]) or (NO_LIMIT,)

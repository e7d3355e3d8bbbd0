"""A shop made by rule: the same products and goals on every machine, from real wishes or from none.

Each wish, a kind of product with attributes, becomes three products: one that satisfies it, one
that does too but costs too much, and one that lacks an attribute. So a customer has to read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from .items import instructions, strings
from .products import Goal, Product, ShopError, goal_for, price_limits
from .reward import alike
from .vocabulary import BRANDS, DEPARTMENTS, department_of

T = TypeVar("T")

BUILT_IN_GOALS = 300


class Wish(NamedTuple):
    """A kind of product with attributes that matter (`attributes`) and others that it has."""

    name: str
    text: str
    kind: str
    attributes: tuple[str, ...]
    others: tuple[str, ...]


class Draws:
    """Random draws that depend on a name alone, on every machine and version of Python."""

    def __init__(self, *name: object) -> None:
        self._name = "/".join(map(str, name))
        self._count = 0

    def below(self, limit: int) -> int:
        """A whole number in [0, limit)."""
        self._count += 1
        digest = hashlib.sha256(f"{self._name}/{self._count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % limit

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.below(len(values))]

    def some(self, values: Iterable[T], count: int) -> list[T]:
        """Up to `count` of the values, in their order."""
        left = list(values)
        while len(left) > count:
            left.pop(self.below(len(left)))
        return left


def made(data: str | None = None, seed: int = 0) -> tuple[list[Product], list[Goal]]:
    """Products and goals, in an order that the random seed decides.

    Args:
        data: WebShop's items_ins_v2_1000.json, whose 415 instructions with their attributes become
            goals. Without it the 300 goals are put together from the built-in vocabulary.
        seed: Of prices, brands, options, texts and order.

    Raises:
        ShopError: The file cannot be read, or is not of that form.
    """
    wishes = _built_in(seed) if data is None else _real(data)
    products: list[Product] = []
    goals: list[Goal] = []
    for wish in wishes:
        # The digest is what shuffles: its order has nothing to do with that of the wishes.
        draws = Draws(seed, wish.name)
        right = _product(wish, draws, None if data is None else wish.name)
        limit = draws.pick(price_limits(right.price))
        chosen = {name: draws.pick(values) for name, values in right.options.items()}
        goals.append(goal_for(right, wish.text, wish.attributes, chosen, limit))
        dear = round(limit + 1 + right.price * (1 + draws.below(100) / 100), 2)
        lacking = draws.pick(wish.attributes)
        products += [right, _product(wish, Draws(seed, wish.name, "dear"), price=dear)]
        products += [_product(wish, Draws(seed, wish.name, "lacking"), lacking=lacking)]
    products.sort(key=lambda product: Draws(seed, "order", product.code).below(2**64))
    goals.sort(key=lambda goal: Draws(seed, "order", goal.product.code).below(2**64))
    return products, goals


def _product(
    wish: Wish,
    draws: Draws,
    code: str | None = None,
    price: float | None = None,
    lacking: str | None = None,
) -> Product:
    """A product for a wish: without the attribute `lacking` and all that are like it.

    Its code is of the form that most of Amazon's have: it must not tell right from wrong.
    """
    department = department_of(wish.kind)
    own = [*wish.attributes, *draws.some(wish.others, 3)]
    if lacking is not None:
        own = [each for each in own if not alike(each, lacking)]
    cents = 100 * department.dollars[0] + draws.below(
        100 * (department.dollars[1] - department.dollars[0])
    )
    price = cents / 100 if price is None else price
    in_title, below = own[:2], own[2:]
    kind = _capitals(wish.kind)
    title = " ".join([draws.pick(BRANDS), *map(_capitals, in_title[:1]), kind])
    title += "".join(f", {_capitals(each)}" for each in in_title[1:])
    start = draws.pick(("These are made for every day", "A good choice", "Our customers like them"))
    description = f"{start}: {wish.kind}" + (f" with {', '.join(below[:2])}." if below else ".")
    letters = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
    return Product(
        code=code or f"B0{draws.pick('789')}" + "".join(draws.pick(letters) for _ in range(7)),
        title=title,
        description=description,
        bullets=tuple(f"{each.capitalize()}." for each in own),
        price=price,
        price_tag=f"${price}",
        query=wish.kind,
        category=f"{department.name} › {department.shelf} › {kind}",
        attributes=tuple(own),
        options={
            name: tuple(draws.some(values, 3 + draws.below(2)))
            for name, values in department.options.items()
        },
    )


def _capitals(text: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split())


def _built_in(seed: int) -> Iterable[Wish]:
    kinds = [(department, kind) for department in DEPARTMENTS for kind in department.kinds]
    for number in range(BUILT_IN_GOALS):
        department, kind = kinds[number % len(kinds)]
        draws = Draws(seed, "wish", number)
        attributes = draws.some(department.attributes, 2 + draws.below(2))
        others = [each for each in department.attributes if each not in attributes]
        first, last = attributes[:-1], attributes[-1]
        text = f"Find me {', '.join(first)} {kind} with {last}"
        yield Wish(f"wish {number}", text, kind, tuple(attributes), tuple(others))


def _real(path: str) -> Iterable[Wish]:
    """The products of items_ins_v2_1000.json that have an instruction."""
    found = 0
    for code, entry in instructions(path).items():
        text, attributes = entry.get("instruction"), strings(entry.get("instruction_attributes"))
        if not isinstance(text, str) or not attributes:
            continue
        found += 1
        others = tuple(each for each in strings(entry.get("attributes")) if each not in attributes)
        yield Wish(code, text, kind_of(text, attributes), attributes, others)
    if not found:
        raise ShopError(f"{path} has no product with an instruction and instruction_attributes.")


def kind_of(instruction: str, attributes: Sequence[str]) -> str:
    """The kind of product in "Find me A, B kind with C, D for E", where A to E are attributes."""
    text = instruction.lower().removeprefix("find me ").strip()
    longest_first = sorted(attributes, key=lambda each: (-len(each), each))
    while True:
        before = next((a for a in longest_first if text.startswith(f"{a}, ")), None)
        if before is None:
            break
        text = text[len(before) + 2 :]
    # The last attribute before the kind has no comma behind it.
    last = next((a for a in longest_first if text.startswith(f"{a} ")), "")
    text = text[len(last) :].strip()
    ends = [text.find(f" {word} {a}") for word in ("with", "for") for a in attributes]
    return text[: min([end for end in ends if end > 0], default=len(text))]

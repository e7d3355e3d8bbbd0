"""The shop as a pure state machine: which page a customer sees, and what an action does.

The pages' texts, what can be clicked on them and what a click does follow WebShop's text mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from .products import Goal, Product, ShopError
from .reward import reward
from .search import Search

PageName = Literal["start", "results", "product", "description", "features", "reviews", "done"]

# Whatever follows the last bracket does not count; brackets inside brackets are no action.
ACTION = re.compile(r"(search|click)\[([^\[\n]+)\]")
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class State:
    """Where a customer is: the page, and what led to it.

    `found` are the codes that the last search gave, of which page `number` (from 1) is shown.
    `options` are the values chosen on the page of the product, by the option's name.
    """

    goal: Goal
    page: PageName = "start"
    found: tuple[str, ...] = ()
    number: int = 1
    product: Product | None = None
    options: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    reward: float = 0.0


class Step(NamedTuple):
    """What an action led to."""

    state: State
    reward: float
    done: bool


class Shop:
    """Products, goals and a search over the products. Nothing in it changes.

    Args:
        products: What is sold; codes are in upper case and differ.
        goals: What is asked for; a goal's id is its place. WebShop's 0 to 99 are for testing.
        page: How many results a page shows. WebShop shows 10.
    """

    def __init__(self, products: Sequence[Product], goals: Sequence[Goal], page: int = 10) -> None:
        if not products or not goals:
            raise ShopError("A shop needs at least one product and one goal.")
        if page < 1:
            raise ShopError(f"A page of results shows at least 1 product; got {page}.")
        self.products: Mapping[str, Product] = {product.code: product for product in products}
        self.goals = tuple(goals)
        self.page = page
        self._search = Search(tuple(self.products.values()))

    def start(self, goal: int) -> State:
        """The first page of the goal with that id."""
        if not 0 <= goal < len(self.goals):
            raise ShopError(f"Goals have the ids 0 to {len(self.goals) - 1}; got {goal}.")
        return State(self.goals[goal])

    def step(self, state: State, action: str) -> Step:
        """What an action leads to. One that is not possible changes nothing and is worth 0.

        After a purchase nothing is possible any more. `reward` is 0 but for the purchase itself.
        """
        match = ACTION.match(action)
        if match is None or state.page == "done":
            return Step(state, 0.0, state.page == "done")
        name, value = match[1], match[2].lower()
        if name == "search":  # from any page, as in WebShop
            found = self._search.find(value)
            return Step(State(state.goal, "results", found), 0.0, False)
        if value == "search" or value not in self.clickables(state):
            return Step(state, 0.0, False)
        after = self._click(state, value)
        return Step(after, after.reward, after.page == "done")

    def _click(self, state: State, value: str) -> State:
        product = state.product
        if value == "back to search":
            return State(state.goal)
        if state.page == "results":
            if value in ("next >", "< prev"):
                return replace(state, number=state.number + (1 if value == "next >" else -1))
            return replace(state, page="product", product=self.products[value.upper()])
        assert product is not None
        if state.page != "product":  # a page below the product's has but one way back
            return replace(state, page="product")
        options = [name for name, values in product.options.items() if value in values]
        if options:  # of two options with one value the later is meant
            return replace(state, options={**state.options, options[-1]: value})
        if value == "< prev":  # which forgets the options
            return replace(state, page="results", product=None, options=NOTHING)
        if value == "buy now":
            return replace(state, page="done", reward=reward(product, state.options, state.goal))
        assert value in ("description", "features", "reviews")
        return replace(state, page=value)

    def shown(self, state: State) -> tuple[Product, ...]:
        """The products of a page of results."""
        first = (state.number - 1) * self.page
        return tuple(self.products[code] for code in state.found[first : first + self.page])

    def clickables(self, state: State) -> tuple[str, ...]:
        """What can be clicked, in lower case: buttons, then products or values of options.

        The button "search" is listed, as in WebShop, but a click on it does nothing.
        """
        if state.page == "start":
            return ("search",)
        if state.page == "done":
            return ()
        if state.page == "results":
            back = ("< prev",) if state.number > 1 else ()
            codes = (product.code.lower() for product in self.shown(state))
            return ("back to search", *back, "next >", *codes)
        if state.page != "product" or state.product is None:
            return ("back to search", "< prev")
        values = (value for values in state.product.options.values() for value in values)
        buttons = ("back to search", "< prev", "description", "features", "reviews", "buy now")
        return tuple(dict.fromkeys((*buttons, *values)))

    def text(self, state: State) -> str:
        """What a customer sees: the page's strings, joined by " [SEP] "."""
        return " [SEP] ".join(self._strings(state))

    def _strings(self, state: State) -> list[str]:
        instruction = ["Instruction:", state.goal.instruction]
        product = state.product
        if state.page == "start":
            return ["WebShop", *instruction, "Search"]
        head = [*instruction, "Back to Search"]
        if state.page == "results":
            total = f"Page {state.number} (Total results: {len(state.found)})"
            buttons = ["< Prev", "Next >"] if state.number > 1 else ["Next >"]
            rows = ([each.code, each.title, each.price_tag] for each in self.shown(state))
            return [*head, total, *buttons, *(text for row in rows for text in row)]
        assert product is not None
        head.append("< Prev")
        if state.page == "product":
            options = ([name, *values] for name, values in product.options.items())
            return [
                *head,
                *(text for option in options for text in option),
                *(product.title, f"Price: {product.price_tag}", "Rating: N.A."),
                *("Description", "Features", "Reviews", "Buy Now"),
            ]
        if state.page == "done":
            thanks = "Thank you for shopping with us!"
            return [thanks, "Your score (min 0.0, max 1.0)", str(state.reward)]
        if state.page == "description":
            return [*head, product.description]
        return [*head, *product.bullets] if state.page == "features" else head


def walkthrough(shop: Shop, goal: int) -> list[str]:
    """Actions that earn 1.0: search for what is wanted, click the first product that satisfies
    the goal, choose the options, buy.

    Raises:
        ShopError: The search for what is wanted does not find such a product.
    """
    state = shop.start(goal)
    wanted = state.goal
    actions = [f"search[{keywords(wanted)}]"]
    state = shop.step(state, actions[0]).state
    for place, code in enumerate(state.found):
        product = shop.products[code]
        chosen = {
            name: value
            for name, value in wanted.options.items()
            if value in product.options.get(name, ())
        }
        if reward(product, chosen, wanted) == 1.0:
            actions += ["click[next >]"] * (place // shop.page)
            actions += [f"click[{code.lower()}]"]
            actions += [f"click[{value}]" for value in chosen.values()]
            return [*actions, "click[buy now]"]
    raise ShopError(f"The search for goal {goal} finds no product that satisfies it.")


def keywords(goal: Goal) -> str:
    """What a customer with that goal would search for: the words of the wish, without options."""
    text = re.sub(r"[\[\],.]", " ", goal.wanted.lower().removeprefix("find me "))
    return " ".join(text.split())

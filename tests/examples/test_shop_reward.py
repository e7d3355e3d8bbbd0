"""The reward of the example shop: every branch, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tests.examples.needs")  # genepool[shop]

from tests.examples.shops import goal, product
from webshop.products import NO_LIMIT, nouns_of, price_limits
from webshop.reward import (
    alike,
    attribute_hits,
    option_hits,
    plain_colour,
    reward,
    title_score,
    type_factor,
)

RIGHT = {"color": "black", "size": "small"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("leak proof", "Leak-Proof", True),  # case and punctuation do not count
        ("proof leak", "leak proof", True),  # nor does the order of words
        ("stainless steel", "steel", True),  # all words of one are in the other
        ("large", "x-large", True),
        ("red", "blue", False),
        # Common word "hair": 2*4/(4+9) = 62 % for "hair"/"hair loss", and no pair has more.
        ("hair loss", "hair growth", False),
        # One letter of seven differs: 2*6/14 = 85.7 %, which is 86.
        ("abcdefg", "abcdefh", True),
        # 2*17/40 is 85 % exactly, which is not above it.
        ("a" * 17 + "bbb", "a" * 17 + "ccc", False),
        # 2*41/96 = 85.4 %, which counts as 85: whole per cents are compared.
        ("a" * 41 + "b" * 7, "a" * 41 + "c" * 7, False),
        ("", "", False),
        ("", "red", False),
        ("!", "?", False),
    ],
)
def test_the_token_set_ratio(one: str, other: str, expected: bool) -> None:
    assert alike(one, other) is alike(other, one) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("black", "black"),
        ("matte black", "black"),
        ("navy blue", "blue"),  # the first in the table's order, which is the alphabet's
        ("tall", "tall"),
        ("colored", "red"),  # parts of words count, as in WebShop
        ("", ""),
    ],
)
def test_colours(value: str, expected: str) -> None:
    assert plain_colour(value) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Acme Refillable Jars, Leak Proof", ("acme", "refillable", "jars", "leak", "proof")),
        ("The Easy Men's Shirts for Women", ("shirts",)),  # words that are no nouns
        ("Jars of 12 oz: jars, JARS", ("jars", "jars", "jars")),  # repeats count, digits do not
        ("A B", ()),
        ("", ()),
    ],
)
def test_nouns(title: str, expected: tuple[str, ...]) -> None:
    assert nouns_of(title) == expected


class TestAttributes:
    @pytest.mark.parametrize(
        ("attribute", "where"),
        [
            ("bpa free", "attributes"),
            ("bpa-free", "attributes, by the token-set ratio"),
            ("travel bottle", "attributes: one letter of 14 differs, 96 %"),
            ("leak proof", "title"),
            ("food grade", "second bullet"),
            ("opening. food", "bullets, joined by a blank"),
            ("dishwasher safe", "description"),
        ],
    )
    def test_hits(self, attribute: str, where: str) -> None:
        assert attribute_hits(product(), [attribute]) == 1, where

    def test_misses(self) -> None:
        assert attribute_hits(product(), ["dishwasher proof", "gluten free"]) == 0
        # Texts are compared as they are written: a hyphen matters there.
        assert attribute_hits(product(attributes=()), ["leak-proof", "bpa free"]) == 0
        assert attribute_hits(product(), []) == 0

    def test_each_counts_once(self) -> None:
        both = product(title="Bpa Free Jars", attributes=("bpa free", "free bpa"))
        assert attribute_hits(both, ["bpa free"]) == 1
        assert attribute_hits(both, ["bpa free", "bpa free"]) == 2


class TestOptions:
    def test_hits(self) -> None:
        assert option_hits(["black", "small"], ["black", "small"]) == 2
        assert option_hits(["small", "black"], ["black", "small"]) == 2  # names do not count
        assert option_hits(["matte black"], ["black velvet"]) == 1  # the same colour
        assert option_hits(["large"], ["x-large"]) == 1  # as in WebShop

    def test_misses(self) -> None:
        assert option_hits([], ["black", "small"]) == 0
        assert option_hits(["white", "large"], ["black", "small"]) == 0
        assert option_hits(["black"], []) == 0
        assert option_hits(["black"], ["black", "black"]) == 2  # per value that is wanted


TEN = "alpha bravo charlie delta foxtrot golf hotel india juliet kilo"
OTHER = {"query": "lamps", "category": "Home › Light › Lamps"}


class TestKind:
    """The factor for the kind of product; a title's ten nouns are TEN."""

    @pytest.mark.parametrize(
        ("changes", "score", "expected"),
        [
            ({}, 0.3, 1.0),
            ({**OTHER}, 0.3, 1.0),  # the title suffices above 0.2
            ({"title": "alpha bravo"}, 0.2, 1.0),  # the same query
            ({"title": "alpha bravo", **OTHER}, 0.2, 0.5),  # 0.2 is not above 0.2
            ({"title": "alpha bravo", "query": "lamps"}, 0.2, 1.0),  # three shelves in common
            (
                {"title": "alpha", "query": "lamps", "category": "Beauty › Containers › Lamps"},
                *(0.1, 1.0),  # two shelves
            ),
            (
                {"title": "alpha", "query": "lamps", "category": "Jars›Beauty"},
                *(0.1, 1.0),  # two, in any order
            ),
            (
                {"title": "alpha", "query": "lamps", "category": "Beauty › Light › Lamps"},
                *(0.1, 0.5),  # one shelf
            ),
            ({"title": "alpha", **OTHER}, 0.1, 0.5),  # 0.1 is not below 0.1
            ({"title": "zulu"}, 0.0, 0.0),  # even with the same query
            ({"title": ""}, 0.0, 0.0),
        ],
    )
    def test_factors(self, changes: dict[str, Any], score: float, expected: float) -> None:
        wanted = product(title=TEN)
        bought = product(**{"title": "alpha bravo charlie", **changes})
        assert title_score(bought, wanted) == score
        assert type_factor(bought, wanted) == expected

    def test_hardly_a_common_noun(self) -> None:
        wanted = product(title=TEN + " lima")  # one of eleven: 0.09
        assert type_factor(product(title="alpha"), wanted) == 0.1
        assert type_factor(product(title="alpha", **OTHER), wanted) == 0.1

    def test_a_wanted_title_without_nouns(self) -> None:
        wanted = product(title="12")
        assert title_score(product(), wanted) == 0.2
        assert type_factor(product(), wanted) == 1.0  # the same query
        assert type_factor(product(**OTHER), wanted) == 0.5

    def test_repeats_count_in_the_wanted_title_alone(self) -> None:
        assert title_score(product(title="jars jars"), product(title="jars jars lids")) == 1 / 3


class TestReward:
    """Two attributes, two options and the price: fifths."""

    @pytest.mark.parametrize(
        ("changes", "options", "expected"),
        [
            ({}, RIGHT, 1.0),
            ({}, {"size": "small"}, 4 / 5),
            ({}, {"color": "white", "size": "large"}, 3 / 5),
            ({}, {}, 3 / 5),
            ({"price": 20.0}, RIGHT, 1.0),  # at the limit
            ({"price": 20.01}, RIGHT, 4 / 5),
            ({"attributes": ()}, RIGHT, 4 / 5),
            ({"attributes": (), "title": "Acme Jars"}, RIGHT, 3 / 5),
            ({"attributes": (), "title": "Acme Jars", "price": 99.0}, {}, 0.0),
            # One of five nouns of "Acme Refillable Jars, Leak Proof", and of another kind: half.
            ({"title": "Jars", **OTHER}, RIGHT, 0.5 * 4 / 5),
            ({"title": "Lamp", **OTHER}, RIGHT, 0.0),
        ],
    )
    def test_values(
        self, changes: dict[str, Any], options: dict[str, str], expected: float
    ) -> None:
        assert reward(product(**changes), options, goal()) == pytest.approx(expected, abs=1e-12)

    def test_a_tenth(self) -> None:
        wanted = product(title=TEN + " jars")
        bought = product(title="jars", bullets=("Leak proof.",))
        assert reward(bought, RIGHT, goal(wanted)) == pytest.approx(0.1)

    def test_without_options_or_a_limit(self) -> None:
        free = goal(options={}, price_upper=NO_LIMIT)
        assert reward(product(price=5000.0), {}, free) == 1.0  # thirds
        assert reward(product(attributes=()), {}, free) == 2 / 3
        assert free.instruction == "Find me bpa free, leak proof jars"

    def test_the_instruction(self) -> None:
        assert goal().instruction == (
            "Find me bpa free, leak proof jars with color: black, and size: small, "
            "and price lower than 20.00 dollars"
        )


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (12.5, (30.0, 40.0, 50.0)),
        (20.0, (40.0, 50.0, 60.0)),  # 20 is not above 20
        (965.0, (980.0, 990.0)),
        (975.0, (990.0,)),
        (980.0, (NO_LIMIT,)),  # only 990 is left, and two are needed
        (5000.0, (NO_LIMIT,)),
    ],
)
def test_limits(price: float, expected: tuple[float, ...]) -> None:
    assert price_limits(price) == expected

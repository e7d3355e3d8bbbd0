"""The example shop without HTTP: pages, actions, and the goals that it makes or reads."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tests.examples.needs")  # genepool[shop]

from tests.examples.shops import product, small_shop
from webshop import Shop, ShopError, State, from_items, made, walkthrough
from webshop.made import kind_of
from webshop.measure import first_result, random_play
from webshop.reward import alike, plain_colour
from webshop.shop import keywords
from webshop.vocabulary import DEPARTMENTS

SHOP = small_shop()
WISH = (
    "Instruction: [SEP] Find me bpa free, leak proof jars with color: black, and size: small, "
    "and price lower than 20.00 dollars"
)


def after(shop: Shop, *actions: str, state: State | None = None) -> State:
    """The page after actions that are all possible."""
    state = state or shop.start(0)
    for action in actions:
        step = shop.step(state, action)
        assert step.state != state, action
        state = step.state
    return state


class TestPages:
    """As WebShop's text mode shows them."""

    def test_start(self) -> None:
        state = SHOP.start(0)
        assert SHOP.text(state) == f"WebShop [SEP] {WISH} [SEP] Search"
        assert SHOP.clickables(state) == ("search",)

    def test_results(self) -> None:
        state = after(SHOP, "search[refillable jars]")
        assert SHOP.text(state) == (
            f"{WISH} [SEP] Back to Search [SEP] Page 1 (Total results: 3) [SEP] Next >"
            " [SEP] B0AAAAAAA1 [SEP] Acme Refillable Jars, Leak Proof [SEP] $12.5"
            " [SEP] B0AAAAAAA3 [SEP] Cora Jars [SEP] $12.5"
            " [SEP] B0AAAAAAA2 [SEP] Bolt Jars [SEP] $30.0"
        )
        buttons = ("back to search", "next >", "b0aaaaaaa1", "b0aaaaaaa3", "b0aaaaaaa2")
        assert SHOP.clickables(state) == buttons

    def test_pages_of_results(self) -> None:
        shop = small_shop(page=2)
        first = after(shop, "search[refillable jars]")
        assert "b0aaaaaaa2" not in shop.clickables(first)
        second = after(shop, "click[Next >]", state=first)
        assert shop.text(second) == (
            f"{WISH} [SEP] Back to Search [SEP] Page 2 (Total results: 3) [SEP] < Prev"
            " [SEP] Next > [SEP] B0AAAAAAA2 [SEP] Bolt Jars [SEP] $30.0"
        )
        assert after(shop, "click[< Prev]", state=second) == first
        # WebShop shows the button on the last page, too, and then a page without products.
        third = after(shop, "click[next >]", state=second)
        assert shop.clickables(third) == ("back to search", "< prev", "next >")
        # From a product it goes back to the page on which the product was.
        assert after(shop, "click[b0aaaaaaa2]", "click[< prev]", state=second) == second

    def test_product(self) -> None:
        state = after(SHOP, "search[jars]", "click[B0AAAAAAA1]")
        assert SHOP.text(state) == (
            f"{WISH} [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] black [SEP] white"
            " [SEP] size [SEP] small [SEP] large [SEP] Acme Refillable Jars, Leak Proof"
            " [SEP] Price: $12.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features"
            " [SEP] Reviews [SEP] Buy Now"
        )
        assert SHOP.clickables(state) == (
            *("back to search", "< prev", "description", "features", "reviews", "buy now"),
            *("black", "white", "small", "large"),
        )

    @pytest.mark.parametrize(
        ("button", "shown"),
        [
            ("Description", " [SEP] Jars for creams. Dishwasher safe."),
            ("Features", " [SEP] Wide opening. [SEP] Food grade plastic."),
            ("Reviews", ""),
        ],
    )
    def test_below_a_product(self, button: str, shown: str) -> None:
        above = after(SHOP, "search[jars]", "click[b0aaaaaaa1]", "click[white]")
        state = after(SHOP, f"click[{button}]", state=above)
        assert SHOP.text(state) == f"{WISH} [SEP] Back to Search [SEP] < Prev{shown}"
        assert SHOP.clickables(state) == ("back to search", "< prev")
        assert after(SHOP, "click[< prev]", state=state) == above  # the options are kept

    def test_done(self) -> None:
        bought = ("search[jars]", "click[b0aaaaaaa1]", "click[black]", "click[small]")
        step = SHOP.step(after(SHOP, *bought), "click[Buy Now]")
        assert (step.reward, step.done) == (1.0, True)
        assert SHOP.text(step.state) == (
            "Thank you for shopping with us! [SEP] Your score (min 0.0, max 1.0) [SEP] 1.0"
        )
        assert SHOP.clickables(step.state) == ()
        for action in ("click[buy now]", "search[jars]", "click[back to search]"):
            assert SHOP.step(step.state, action) == (step.state, 0.0, True)


class TestActions:
    @pytest.mark.parametrize(
        "action",
        [
            *("", "search", "search[]", "click[]", "buy now", "Search[jars]", "CLICK[search]"),
            *("click[search]", "click[b0aaaaaaa1]", "search jars", "search [jars]", "[jars]"),
            *("Action: search[jars]", "search[jars", "search]jars[", "search[a[b]", "search[[x]]"),
            *("search[\n]", "click[buy now]", "click[next >]", "think[jars]", "search[jars\n]"),
        ],
    )
    def test_what_is_not_possible_changes_nothing(self, action: str) -> None:
        start = SHOP.start(0)
        assert SHOP.step(start, action) == (start, 0.0, False)

    def test_case_does_not_count_inside_the_brackets(self) -> None:
        assert after(SHOP, "search[JARS]") == after(SHOP, "search[jars]")
        assert after(SHOP, "search[jars]", "click[NEXT >]").number == 2

    def test_text_behind_the_bracket_does_not_count(self) -> None:
        assert after(SHOP, "search[jars] and more") == after(SHOP, "search[jars]")

    def test_a_search_is_possible_anywhere_and_forgets_the_options(self) -> None:
        state = after(SHOP, "search[lamp]", "click[b0aaaaaaa4]", "click[tall]", "search[jars]")
        assert state == after(SHOP, "search[jars]")

    def test_back_to_search(self) -> None:
        for on in (["search[jars]"], ["search[jars]", "click[b0aaaaaaa1]", "click[features]"]):
            assert after(SHOP, *on, "click[back to search]") == SHOP.start(0)

    def test_nothing_is_found(self) -> None:
        for text in ("zeppelin", " ", "the", "!?", "é"):
            state = after(SHOP, f"search[{text}]")
            assert state.found == () and "(Total results: 0)" in SHOP.text(state)

    def test_options_are_replaced_and_forgotten(self) -> None:
        page = after(SHOP, "search[jars]", "click[b0aaaaaaa1]")
        chosen = after(SHOP, "click[black]", "click[small]", "click[white]", state=page)
        assert chosen.options == {"color": "white", "size": "small"}
        assert after(SHOP, "click[< prev]", "click[b0aaaaaaa1]", state=chosen) == page

    def test_of_two_options_with_one_value_the_later_is_meant(self) -> None:
        twins = product(options={"strap": ("black",), "face": ("black", "white")})
        shop = Shop([twins], SHOP.goals)
        state = after(shop, "search[jars]", "click[b0aaaaaaa1]", "click[black]")
        assert state.options == {"face": "black"}
        assert shop.clickables(state).count("black") == 1

    def test_only_a_purchase_is_worth_something(self) -> None:
        state, rewards = SHOP.start(0), []
        for action in ["search[jars]", "click[b0aaaaaaa2]", "click[black]", "click[buy now]"]:
            state, reward, done = SHOP.step(state, action)
            rewards.append(reward)
        # Of five: black, and BPA free among the attributes; the title is another.
        assert rewards == [0, 0, 0, 2 / 5] and done

    @pytest.mark.slow
    @given(st.lists(st.one_of(st.integers(0, 9), st.text(max_size=12)), max_size=12))
    def test_any_play_leads_from_page_to_page(self, choices: list[int | str]) -> None:
        state = SHOP.start(0)
        for choice in choices:
            can = SHOP.clickables(state) or ("search",)
            action = f"click[{can[choice % len(can)]}]" if isinstance(choice, int) else choice
            if state.page == "start":
                action = "search[jars lamp]"
            before, (state, reward, done) = state, SHOP.step(state, action)
            assert 0 <= reward <= 1 and done == (state.page == "done")
            assert reward == 0 or (before.page == "product" and done)
            assert SHOP.text(state).count("Instruction:") == (0 if done else 1)


def digest(shop: Shop) -> str:
    """Of all that a customer may see first: instructions, first pages and the first results."""
    seen = hashlib.sha256()
    for goal in range(len(shop.goals)):
        start = shop.start(goal)
        found = shop.step(start, f"search[{keywords(start.goal)}]").state
        seen.update(f"{shop.text(start)}\n{shop.text(found)}\n".encode())
    return seen.hexdigest()[:16]


BUILT_IN = Shop(*made())
SHA = "151e53ea9752a9ed"
SHA_REAL = "55b9ea14c9738087"


class TestMade:
    def check(self, shop: Shop) -> None:
        """Every goal can be reached within the 7 actions of AgentGym's evaluation."""
        for goal in range(len(shop.goals)):
            actions, state, reward = walkthrough(shop, goal), shop.start(goal), 0.0
            assert len(actions) <= 7
            for action in actions:
                before, (state, reward, done) = state, shop.step(state, action)
                assert state != before
            assert reward == 1.0 and done
        instructions = [goal.instruction for goal in shop.goals]
        assert len(set(instructions)) > 0.95 * len(instructions)
        assert all("price lower than" in each and ": " in each for each in instructions)

    def play(self, shop: Shop) -> None:
        """Neither random play nor buying what comes first is enough."""
        goals = range(len(shop.goals))
        assert sum(random_play(shop, goal) for goal in goals) < 0.2 * len(goals)
        first = [first_result(shop, goal) for goal in goals]
        assert 0.4 < sum(first) / len(first) < 0.7 and max(first) < 1
        chosen = [first_result(shop, goal, choose=True) for goal in goals]
        assert 0.8 < sum(chosen) / len(chosen) < 0.9
        assert 0.4 < chosen.count(1) / len(chosen) < 0.5

    def test_from_the_built_in_vocabulary(self) -> None:
        assert len(BUILT_IN.products) == 900 and len(BUILT_IN.goals) == 300
        self.check(BUILT_IN)
        self.play(BUILT_IN)
        assert digest(BUILT_IN) == SHA

    def test_from_real_instructions(self, shared: Callable[[str], Path]) -> None:
        path = shared("data/webshop/items_ins_v2_1000.json")
        shop = Shop(*made(str(path)))
        assert len(shop.products) == 3 * 415 and len(shop.goals) == 415
        self.check(shop)
        self.play(shop)
        assert digest(shop) == SHA_REAL
        # Texts and attributes are the file's.
        entries = json.loads(path.read_text())
        for goal in shop.goals:
            entry = entries[goal.product.code]
            assert goal.instruction.startswith(entry["instruction"])
            assert list(goal.attributes) == entry["instruction_attributes"]

    def test_fewer_results_a_page(self) -> None:
        shop = Shop(*made(), page=3)
        self.check(shop)
        assert digest(shop) != SHA

    def test_another_random_seed_is_another_shop(self) -> None:
        other = Shop(*made(seed=1))
        self.check(other)
        assert digest(other) != SHA

    @pytest.mark.slow
    def test_the_same_in_another_process(self) -> None:
        code = "from tests.examples.test_shop import BUILT_IN, digest; print(digest(BUILT_IN))"
        root = Path(__file__).parents[2]
        run = [sys.executable, "-c", "import sys; sys.path[:0] = ['.', 'examples']; " + code]
        for hashing in ("1", "2"):
            env = {"PYTHONHASHSEED": hashing, "PATH": ""}
            done = subprocess.run(run, cwd=root, env=env, capture_output=True, text=True)
            assert done.stdout.strip() == SHA, done.stderr

    def test_no_value_of_an_option_passes_for_another(self) -> None:
        for department in DEPARTMENTS:
            for values in department.options.values():
                for one, other in combinations(map(plain_colour, values), 2):
                    assert not alike(one, other)

    def test_codes_do_not_tell_right_from_wrong(self) -> None:
        wanted = {goal.product.code for goal in BUILT_IN.goals}
        starts = [{code[:3] for code in BUILT_IN.products if (code in wanted) == right}
                  for right in (True, False)]  # fmt: skip
        assert starts[0] == starts[1] == {"B07", "B08", "B09"}

    @pytest.mark.parametrize(
        ("text", "attributes", "kind"),
        [
            ("Find me red, bpa free jars with lids", ["red", "bpa free", "lids"], "jars"),
            ("Find me shirts for gym", ["gym"], "shirts"),
            ("Find me machine wash shirts", ["machine wash"], "shirts"),
            # An attribute that is also part of the kind.
            ("Find me soft hair bows, clips with hair", ["soft", "hair"], "hair bows, clips"),
            ("Find me lamps", ["other"], "lamps"),
        ],
    )  # fmt: skip
    def test_kinds(self, text: str, attributes: list[str], kind: str) -> None:
        assert kind_of(text, attributes) == kind


ITEM: dict[str, Any] = {
    "asin": "B000000001",
    "name": "Jars",
    "full_description": "For creams.",
    "pricing": "$10.00$1,020.00",
    "product_category": "Beauty › Jars",
    "small_description": ["Wide."],
    "customization_options": {
        "Color": [{"value": " Red/Blue "}], "Size": [{"value": "S"}, {"value": "L"}], "Empty": None
    },
    "category": "beauty",
    "query": " Jars ",
    "images": ["x"],
}  # fmt: skip
MANY = {str(name): [{"value": str(value)} for value in range(10)] for name in range(6)}
SAID = {"B000000001": {"attributes": ["Leak Proof"], "instruction": "Find me leak proof jars.",
        "instruction_attributes": ["leak proof"]}}  # fmt: skip


def read(folder: Path, items: Any, said: Any = SAID) -> Shop:
    for name, value in (("items_shuffle_1000.json", items), ("items_ins_v2_1000.json", said)):
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name).write_text(text)
    return Shop(*from_items(str(folder / "items_shuffle_1000.json")))


class TestItems:
    def test_webshops_own_files(self, tmp_path: Path) -> None:
        rest = {"small_description": "One.", "customization_options": "", "pricing": None}
        more = [
            {**ITEM, "asin": code, **rest} for code in ("B000000002", "B000000001", "nan", "B" * 11)
        ]
        shop = read(tmp_path, [ITEM, *more])
        assert list(shop.products) == ["B000000001", "B000000002"]  # the first of equal codes
        jars, plain = shop.products.values()
        assert jars.options == {"color": ("red | blue",), "size": ("s", "l")}
        assert (jars.price, jars.price_tag) == (515.0, "$10.0 to $1020.0")
        assert (jars.query, jars.attributes) == ("jars", ("leak proof",))
        assert (plain.price, plain.price_tag) == (100.0, "$100.0")
        assert (plain.bullets, plain.options, plain.attributes) == (("One.",), {}, ())
        # A goal for each way to choose the options.
        said = {goal.instruction.split(", and price")[0] for goal in shop.goals}
        assert said == {
            f"Find me leak proof jars with color: red | blue, and size: {size}" for size in "sl"
        }
        again = read(tmp_path, [ITEM, *more])
        assert again.goals == shop.goals
        for goal in (0, 1):
            state = shop.start(goal)
            for action in walkthrough(shop, goal):
                state, reward, _ = shop.step(state, action)
            assert reward == 1.0

    @pytest.mark.parametrize(
        ("items", "said", "message"),
        [
            ("{", SAID, "cannot be read"),
            ("[" * 100_000, SAID, "cannot be read"),
            ({}, SAID, "must be a JSON list"),
            ([3], SAID, "must be a JSON list"),
            ([], SAID, "no product with an instruction"),
            ([ITEM], "", "cannot be read"),
            ([ITEM], [], "must be a JSON object"),
            ([ITEM], {"B000000001": 3}, "must be a JSON object"),
            ([ITEM], {}, "no product with an instruction"),
            ([ITEM], {"B000000001": {"instruction": "x", "instruction_attributes": 3}}, "no prod"),
            ([{**ITEM, "customization_options": {"a": [{}]}}], SAID, "at place 0"),
            ([{**ITEM, "customization_options": {"a": [{"value": 3}]}}], SAID, "at place 0"),
            ([{**ITEM, "customization_options": {"a": 3}}], SAID, "at place 0"),
            ([{**ITEM, "customization_options": [3]}], SAID, "at place 0"),
            ([{**ITEM, "customization_options": MANY}], SAID, "more than 100,000 goals"),
        ],
    )  # fmt: skip
    def test_files_that_are_wrong(
        self, items: Any, said: Any, message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ShopError, match=message) as caught:
            read(tmp_path, items, said)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    def test_files_that_are_not_there(self, tmp_path: Path) -> None:
        for reader in (from_items, made):
            with pytest.raises(ShopError, match="cannot be read"):
                reader(str(tmp_path / "absent.json"))


def test_shops_that_cannot_be() -> None:
    with pytest.raises(ShopError, match="at least one product and one goal"):
        Shop([], SHOP.goals)
    with pytest.raises(ShopError, match="at least one product and one goal"):
        Shop([product()], [])
    with pytest.raises(ShopError, match="at least 1 product; got 0"):
        small_shop(page=0)
    for goal in (-1, 1):
        with pytest.raises(ShopError, match=f"0 to 0; got {goal}"):
            SHOP.start(goal)
    stock = [product(), product("B0AAAAAAA2", price=1.0)]
    with pytest.raises(ShopError, match="finds no product that satisfies it"):
        dear = Shop([product(price=99.0)], SHOP.goals)
        walkthrough(dear, 0)
    assert len(Shop(stock, SHOP.goals).products) == 2

"""The client of AgentGym against the example shop, over real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tests.examples.needs")  # genepool[shop]

from genepool.errors import EnvironmentDown, EpisodeError
from genepool.tasks.agent.environment import Step, Turn, open_environment
from genepool.testing import check_environment
from tests.examples.shops import small_shop
from webshop import serve


def opener(url: str, **options: Any) -> Any:
    return open_environment("agentgym", {"url": url, "splits": {"all": [0]}, **options}, Path())


@pytest.mark.parametrize("actions", [False, True])
def test_it_keeps_the_contract(actions: bool) -> None:
    with serve(small_shop()) as url:
        known = ("search[jars]", "click[b0aaaaaaa1]", "click[black]", "click[buy now]")
        check_environment(opener(url, actions=actions), "all", actions=known, steps=8)


def test_the_goal_can_be_reached_by_what_is_offered() -> None:
    with serve(small_shop()) as url:
        session = opener(url, actions=True)()
        turn = session.reset("0")
        words = "find me bpa free leak proof jars with color black and size small"
        assert turn.actions == (f"search[{words}]",)
        for action in (turn.actions[0], "click[b0aaaaaaa1]", "click[black]", "click[small]"):
            assert action in turn.actions
            step = session.step(action)
            turn = step.turn
            assert step[1:] == (0.0, False)
        assert session.step("click[no such button]") == Step(turn, 0.0, False)
        assert "click[buy now]" in turn.actions
        assert session.step("click[buy now]")[1:] == (1.0, True)


def test_what_the_shop_refuses_is_no_reward() -> None:
    with serve(small_shop()) as url:
        session = opener(url, splits={"all": "0-9"})()
        with pytest.raises(EpisodeError, match=r"HTTP 422 .*session_id must be null or a"):
            session.reset("7")
        assert isinstance(session.reset("0"), Turn)
    with pytest.raises(EnvironmentDown, match="see whether the server runs"):
        session.step("search[jars]")

"""The evaluator `agent`, with models of arrays that a function makes act."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.errors import ConfigError, EnvironmentDown, EpisodeError, EvaluationError
from genepool.tasks.agent import sessions
from genepool.tasks.agent.environment import Step, Turn
from genepool.tasks.agent.episode import Asked
from genepool.tasks.agent.evaluator import Agent
from genepool.tasks.agent.options import AgentOptions
from genepool.tasks.agent.policies import action_in
from genepool.tasks.agent.sessions import Session
from genepool.testing import check_task
from tests.tasks.agent import worlds

WORLDS = "tests.tasks.agent.worlds"
POLICY = "tests.tasks.agent.test_agent:walk"


def walk(model: Any, asked: Sequence[Asked]) -> list[str]:
    """Walk right as often as the model says for that door, then open."""
    steps = np.asarray(model["steps"])
    if not np.isfinite(steps).all():
        raise EvaluationError("the model holds NaN")
    replies: list[str] = []
    for one in asked:
        door = int(one.messages[2]["content"].split()[2])
        wanted = int(steps[door])
        replies.append("Thought: on. Action: " + ("right" if len(one.taken) < wanted else "open"))
    return replies


def walk_on(_model: Any, asked: Sequence[Asked]) -> list[str]:
    """Walk right."""
    return ["right"] * len(asked)


def model(*steps: float) -> dict[str, Any]:
    return {"steps": np.array(steps, dtype=np.float32)}


def agent(world: str = "Corridor", policy: str = POLICY, **options: Any) -> Agent:
    given = {"environment": f"{WORLDS}:{world}", "policy": policy, "patience": 5.0, **options}
    return Agent(AgentOptions.model_validate(given), Path.cwd())


ALL = np.arange(5)
KNOWS_SOME = model(0, 1, 1, 3, 0)


def test_scores_are_the_rewards_of_the_last_action() -> None:
    # Door 2 is missed by one and door 4 by four.
    scores = agent().score(KNOWS_SOME, ALL)
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([1, 1, 0.1, 1, 0])


def test_the_contract() -> None:
    def reopen() -> Agent:
        return agent(held_out_split=None, batch=2)

    check_task(reopen(), KNOWS_SOME, reopen=reopen)


def test_a_scale_maps_rewards_to_scores() -> None:
    task = agent(scale=[-1.0, 1.0], ids=["2", "4"])
    # Rewards of 0.1 and 0: (0.1 + 1) / 2 and (0 + 1) / 2.
    assert task.score(KNOWS_SOME, np.arange(2)).tolist() == pytest.approx([0.55, 0.5])


def test_final_sum_and_max_differ_where_rewards_are_given_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(self: worlds.Corridor, text: str) -> Step:
        self.at += 1
        return Step(self._turn(), [0.5, 0.25, 0.0][self.at - 1], self.at == 3)

    monkeypatch.setattr(worlds.Corridor, "step", step)
    known = {
        how: float(agent(score=how, scale=[0.0, 2.0], ids=["0"]).score(KNOWS_SOME, np.arange(1))[0])
        for how in ("final", "sum", "max")
    }
    assert known == {"final": 0.0, "sum": 0.375, "max": 0.25}


def test_an_episode_ends_at_the_limit_of_rounds() -> None:
    task = agent(rounds=3)
    assert task.score(model(0, 1, 2, 3, 4), ALL).tolist() == [1, 1, 1, 0, 0]
    (ended,) = task.transcripts(model(9, 9, 9, 9, 9), np.array([2]))
    assert ended["ended"] == "action limit" and len(ended["actions"]) == 3


def test_held_out_tasks_come_from_their_own_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def tasks(self: worlds.Corridor, split: str) -> list[str]:
        return {"train": ["0", "1", "2"], "test": ["3", "4"]}.get(split, [])

    monkeypatch.setattr(worlds.Corridor, "tasks", tasks)
    task = agent(held_out_split="test")
    assert task.samples == ("0", "1", "2") and task.held_out == ("3", "4")
    assert task.score(KNOWS_SOME, np.arange(2), held_out=True).tolist() == [1, 0]
    with pytest.raises(ConfigError, match="split 'dev' has no tasks"):
        agent(split="dev")


def test_the_digest_holds_whatever_changes_a_score(tmp_path: Path) -> None:
    (tmp_path / "told.txt").write_text("Go.")
    told = str(tmp_path / "told.txt")
    digests = [
        task.digest
        for task in (
            agent(),
            agent(limit=3),
            agent(rounds=5),
            agent(score="sum"),
            agent(scale=[0.0, 2.0]),
            agent(batch=3),
            agent(settings={"greeting": "Seek door"}),
            agent(settings={"actions": False}),
            agent(settings={"doors": 6}, limit=5),
            agent(instructions=told),
            agent(policy="choose"),
            agent(policy="choose", leave_out=["left"]),
            agent(policy="choose", repeat=False),
            agent(policy="generate"),
            agent(policy="generate", max_new_tokens=5),
            agent(policy="generate", context=99),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert agent(patience=1.0, measured=3).digest == digests[0]


def test_an_environment_may_say_which_of_its_settings_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = agent(limit=5).digest
    monkeypatch.setattr(worlds.Corridor, "digest", "", raising=False)
    assert agent(limit=5, settings={"doors": 6}).digest == plain
    monkeypatch.setattr(worlds.Corridor, "digest", "six doors", raising=False)
    assert agent(limit=5, settings={"doors": 6}).digest != plain


def test_what_is_measured_besides() -> None:
    found = agent(rounds=3, measured=5).measures(model(0, 1, 1, 9, 9))
    assert found["solved"] == pytest.approx(0.4)
    assert found["ended by action limit"] == pytest.approx(0.4)
    assert found["ended by context limit"] == 0


def test_no_more_is_measured_than_was_asked_for() -> None:
    """Blocks are played whole."""
    knows_two = model(0, 1, 9, 9, 9)
    assert [agent(measured=n).measures(knows_two)["solved"] for n in (1, 2, 4)] == [1, 1, 0.5]


def write_over(given: Any, asked: Sequence[Asked]) -> list[str]:
    """Walk, and spoil what was said."""
    replies = walk(given, asked)
    for one in asked:
        for message in one.messages:
            message["content"] += " 4 4 4"  # type: ignore[index]
    return replies


def test_what_a_policy_does_to_messages_is_undone() -> None:
    """The instructions are those of all episodes and models."""
    task, plain = agent(policy=f"{__name__}:write_over"), agent()
    for _ in range(2):
        assert task.score(KNOWS_SOME, ALL).tolist() == plain.score(KNOWS_SOME, ALL).tolist()
    assert task.transcripts(KNOWS_SOME, ALL) == plain.transcripts(KNOWS_SOME, ALL)


def test_transcripts_tell_all_and_are_bounded() -> None:
    (one,) = agent().transcripts(KNOWS_SOME, np.array([1]))
    assert one["score"] == 1 and one["ended"] == "done"
    assert one["actions"] == ["right", "open"] and one["rewards"] == [0, 1]
    said = [message["role"] for message in one["messages"]]
    assert said == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    settings = {"greeting": f"{'x' * 9000} Find door"}
    (long,) = agent(settings=settings, policy=f"{POLICY}_on").transcripts(KNOWS_SOME, ALL[:1])
    assert all(len(message["content"]) < 4100 for message in long["messages"])


# Environments that break


def test_a_lost_session_is_opened_again_and_played_up_to_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("genepool.tasks.agent.sessions._FIRST", 0.001)
    worlds.Fragile.lost = 0
    task = agent("Fragile")
    for _ in range(5):
        assert task.score(model(0, 1, 2, 3, 4), ALL).tolist() == [1, 1, 1, 1, 1]
    assert worlds.Fragile.lost > 5


def test_an_environment_that_stays_away_ends_the_run_in_one_line() -> None:
    task = agent("Gone", patience=0.6)
    begin = time.monotonic()
    with pytest.raises(EpisodeError, match=r"connection refused.*Nothing is lost") as caught:
        task.score(KNOWS_SOME, ALL)
    assert time.monotonic() - begin > 0.5
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, (EvaluationError, EnvironmentDown))


def test_that_an_environment_is_waited_for_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "_SILENT", 0.0)
    monkeypatch.setattr(sessions, "_told", float("-inf"))
    task = agent("Gone", patience=0.9)
    with pytest.raises(EpisodeError):
        task.score(KNOWS_SOME, ALL)
    (line,) = caplog.messages
    assert "connection refused" in line and line.endswith("It is tried again for 1 s more")


def test_an_environment_with_an_error_is_nobodys_zero() -> None:
    with pytest.raises(EpisodeError, match=r"in task '0'.*KeyError.*door"):
        agent("Buggy").score(KNOWS_SOME, ALL)


def test_an_environment_that_begins_otherwise_is_refused_with_what_moved() -> None:
    with pytest.raises(EpisodeError, match=r"task '0' begins otherwise.*dollars.*was.*this time"):
        agent("Restless")


def test_an_environment_that_goes_on_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genepool.tasks.agent.sessions._FIRST", 0.001)
    task = agent("Drifting")
    with pytest.raises(EpisodeError, match=r"goes on, after action 1.*otherwise"):
        for _ in range(10):
            task.score(model(4, 4, 4, 4, 4), ALL)


@pytest.mark.parametrize(("world", "alone"), [("OneForAll", [1.0] * 5), ("Tired", None)])
def test_episodes_that_would_go_otherwise_alone_are_refused(
    world: str, alone: list[float] | None
) -> None:
    """Sessions share what they should not, or an episode depends on the former ones."""
    knows_all = model(0, 1, 2, 3, 4)
    with pytest.raises(EpisodeError, match=r"goes on, after action \d.*otherwise.*'batch: 1'"):
        agent(world).score(knows_all, ALL)
    if alone is not None:
        assert agent(world, batch=1).score(knows_all, ALL).tolist() == alone


def test_what_goes_on_otherwise_is_told_once_where_the_user_allows_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("genepool.tasks.agent.sessions._FIRST", 0.001)
    for world in ("Tired", "Drifting"):
        caplog.clear()
        task = agent(world)
        task.let_differ()
        for _ in range(5):
            task.score(KNOWS_SOME, ALL)
        (line,) = caplog.messages
        assert "goes on, after action" in line and line.endswith("This is told once")
    # The digest holds what a task begins with.
    with pytest.raises(EpisodeError, match="begins otherwise"):
        agent("Restless")


def test_an_episode_that_ends_early_when_it_is_played_again_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody acts in an episode that is over; it is played again until it comes as far."""
    monkeypatch.setattr("genepool.tasks.agent.sessions._FIRST", 0.001)
    task = agent("Hasty", ids=["3"], settings={"doors": 4})
    task.let_differ()
    monkeypatch.setattr(worlds.Hasty, "happened", [])
    assert task.score(model(0, 1, 2, 3), np.arange(1)).tolist() == [1]
    assert worlds.Hasty.happened == ["lost", "over"]


def test_what_is_asked_no_longer_is_not_asked() -> None:
    """Calls that wait for a thread when another one fails would each wait for their server."""
    task = agent("Distant")
    asked: list[int] = []

    def call(number: int) -> None:
        asked.append(number)
        if not number:
            raise EpisodeError("away")
        task._stop.wait(5)  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(EpisodeError, match="away"):
        task._at_once([lambda n=n: call(n) for n in range(90)])  # pyright: ignore
    assert len(asked) < 60


def test_rewards_off_the_scale_end_the_run() -> None:
    with pytest.raises(EpisodeError, match=r"its final reward is 100, outside of the 'scale'"):
        agent("Generous").score(KNOWS_SOME, ALL)
    assert agent("Generous", scale=[0.0, 100.0]).score(KNOWS_SOME, ALL)[0] == 1


@pytest.mark.parametrize(
    "given",
    [
        None,
        3,
        Step(Turn("on"), float("nan"), False),
        Step(Turn("on"), float("inf"), False),
        Step(Turn("on"), "1", False),  # pyright: ignore[reportArgumentType]
        Step(Turn(b"on"), 1.0, False),  # pyright: ignore[reportArgumentType]
        Step(Turn("on", ("a", 3)), 1.0, False),  # pyright: ignore[reportArgumentType]
        Step(Turn("on", "abc"), 1.0, False),  # pyright: ignore[reportArgumentType]
        Step(Turn("on"), True, False),
        Step(Turn("on"), 1.0, "false"),  # pyright: ignore[reportArgumentType]
        Step(Turn("on"), 1.0, None),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_is_no_step_is_no_score(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genepool.tasks.agent.sessions._FIRST", 0.001)
    monkeypatch.setattr(worlds.Odd, "given", given)
    with pytest.raises(EpisodeError):
        agent("Odd", patience=100).score(KNOWS_SOME, ALL)


@pytest.mark.parametrize("ids", [None, "01234", iter("01234"), {"0": 1}, 5])
def test_tasks_that_are_no_list_are_told(ids: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds.Corridor, "tasks", lambda _self, _split: ids)
    with pytest.raises(ConfigError, match=r"split 'train': expected a list of the tasks' ids; got"):
        agent()


def test_instructions_that_are_no_text_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds.Corridor, "instructions", None)
    with pytest.raises(EpisodeError, match=r"expected the environment's instructions as text"):
        agent()


def test_numbers_of_numpy_are_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Step(Turn("on"), np.float32(0.25), np.bool_(True))  # pyright: ignore
    monkeypatch.setattr(worlds.Odd, "given", given)
    assert agent("Odd").score(KNOWS_SOME, ALL).tolist() == [0.25] * 5


def test_an_episode_is_solved_where_its_shares_are_all_there() -> None:
    """What is a sixth but for rounding, six times, is less than 1 by its last bits."""
    task = agent("Shares", f"{POLICY}_on", score="sum", rounds=6)
    assert task.score(KNOWS_SOME, ALL).tolist() == [1.0] * 5
    assert task.measures(KNOWS_SOME)["solved"] == 1


def test_episodes_draw_the_same_random_numbers_whatever_is_played_beside_them() -> None:
    how: dict[str, Any] = {"score": "sum", "scale": [0.0, 10.0]}
    alone = agent("Dice", batch=1, **how).score(KNOWS_SOME, ALL)
    assert len(set(alone[1:4].tolist())) == 3
    task = agent("Dice", batch=5, **how)
    assert task.score(KNOWS_SOME, ALL).tolist() == alone.tolist()
    assert task.score(model(0, 0, 3, 3, 0), ALL)[3] == alone[3]


def test_it_shows_that_an_environment_draws_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who scores asks twice then, and refuses what does not repeat."""
    task, quiet = agent("Dice", score="sum", scale=[0.0, 10.0]), agent()
    before = random.getstate()
    quiet.score(KNOWS_SOME, ALL)
    assert random.getstate() == before
    task.score(KNOWS_SOME, ALL)
    assert random.getstate() != before
    # It sets no random seed any longer.
    monkeypatch.setattr(worlds.Dice, "reset", worlds.Corridor.reset)
    assert task.score(KNOWS_SOME, ALL)[3] != task.score(KNOWS_SOME, ALL)[3]


def test_held_out_tasks_that_begin_as_others_do_are_told() -> None:
    assert not agent(held_out_split=None).notices
    (notice,) = agent("Twins", held_out_split="test").notices
    assert notice.startswith("5 of 5 held-out tasks begin exactly as selection ones do")


def test_tasks_that_begin_alike_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that passes over its random seed has one task."""
    own = worlds.Corridor.reset
    monkeypatch.setattr(
        worlds.Corridor, "reset", lambda self, id: own(self, id if id == "4" else "0")
    )
    (notice,) = agent().notices
    assert notice.startswith("4 of 5 selection tasks begin exactly as others do; make sure")


def test_nobody_waits_for_an_environment_once_it_is_given_up() -> None:
    stop = threading.Event()
    stop.set()
    session = Session(
        lambda: worlds.Gone(worlds.Gone.Options(), Path()), 300, stop, sessions.Differences()
    )
    session.begin("1")
    with pytest.raises(EpisodeError, match="connection refused"):
        session.act("open")


def test_half_characters_are_mended_before_a_tokenizer_sees_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worlds.Odd, "given", Step(Turn("a \ud83d b", ("go \ud83d",)), 1.0, True))
    (told,) = agent("Odd").transcripts(KNOWS_SOME, ALL[:1])
    assert told["messages"][-1]["content"] == "a ? b"


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environment": "corridor"}, "there is no environment 'corridor'"),
        ({"environment": f"{WORLDS}:Hall"}, "Hall"),
        ({"settings": {"windows": 3}}, "windows"),
        ({"policy": "sample"}, "expected 'generate', 'choose' or a 'module:function'"),
        ({"policy": f"{WORLDS}:nothing"}, "nothing"),
        ({"scale": [1.0, 1.0]}, "lo below hi"),
        ({"scale": [0.0]}, "lo below hi"),
        ({"scale": [0.0, float("inf")]}, "lo below hi"),
        ({"ids": ["7"]}, "split 'train' has no '7'"),
        ({"ids": ["1", "1"]}, "have the same id '1'"),
        ({"held_out_split": "train"}, "have the same id"),
        ({"instructions": "missing.txt"}, "missing.txt"),
        ({"policy": "choose", "settings": {"actions": False}}, "begins without any"),
    ],
)
def test_options_that_are_of_no_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agent(**options)


@pytest.mark.parametrize("returned", [None, ["open"], ["open"] * 4 + [3], "open!"])
def test_a_policy_that_returns_no_actions(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.tasks.agent.test_agent.walk", lambda _model, _asked: returned)
    with pytest.raises(EvaluationError, match="expected a list of 5 actions as text"):
        agent().score(KNOWS_SOME, ALL)


def test_a_model_that_is_no_language_model_cannot_generate() -> None:
    with pytest.raises(EvaluationError, match="needs a language model with a tokenizer; got dict"):
        agent(policy="generate").score(KNOWS_SOME, ALL)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Thought: buy it.\nAction:\nclick[Buy Now]", "click[Buy Now]"),
        ("Action: go\nAction: open door ", "open door"),
        ("look", "look"),
        ("Thought: well. Action:", ""),
        ("**Thought:** well. **Action:** go", "go"),
        ("**Action**: go\n", "go"),
        ("**Action: go**", "go"),
        ("__Action:__ go", "go"),
        ("*Action:* _go_", "_go_"),
        ("### Action:\n`go`", "go"),
        ("`Action: go`", "go"),
        ("**Action:** **go**", "go"),
        ("Action: **go**\n**Action:** open", "open"),
        # Emphasis of parts, code of several lines, and what is no mark are the action's own.
        ("Action: **go** and **look**", "**go** and **look**"),
        ("Action: click[**]", "click[**]"),
        ("Action: __init__", "__init__"),
        ("Action: ```\nls\n```", "```\nls\n```"),
        ("Action: **", "**"),
        ("`ls`", "`ls`"),
        ("", ""),
    ],
)
def test_the_action_follows_the_last_mark(reply: str, action: str) -> None:
    assert action_in(reply) == action

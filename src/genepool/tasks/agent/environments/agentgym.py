"""The environment `agentgym`: servers of AgentGym, over HTTP."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

from pydantic import AfterValidator, Field, model_validator

from genepool.documents import list_of
from genepool.errors import EnvironmentDown, EpisodeError
from genepool.messages import shown
from genepool.settings import Section
from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.json_over_http import Answer, JsonServer, ServerGone, Url
from genepool.tasks.agent.environments.tasks_and_texts import (
    ACTING,
    FORM,
    Splits,
    action_text,
    at,
    checked_splits,
    number,
    task_number,
    tasks_of,
    texts,
)

# Tasks of WebShop, as AgentGym divides them.
_WEBSHOP: Splits = {"test": "0-99", "train": "100-199"}

_SHOPPING = (
    """You are shopping on a web site. A task is an instruction that says what to buy; you see one
page of the site at a time, as text.

There are two kinds of action:
search[words] looks for products. It works on pages that have a search bar.
click[name] clicks on what the page shows under that name: the code of a product, the value of an
option, or a button, such as click[Next >] or click[Buy Now].

An action that the page does not offer changes nothing. Choose the options that the instruction
asks for before you buy. click[Buy Now] ends the task, and how well the product fits the
instruction decides what it is worth.
"""
    + FORM
)


class AgentGymOptions(Section):
    """Options of the environment `agentgym`."""

    url: Url | Annotated[list[Url], Field(min_length=1)] = Field(
        description="The server listens at this address ('http://127.0.0.1:36001'); sessions are "
        "spread over the servers of a list, which must all be the same."
    )
    dialect: Literal["webshop", "id"] = Field(
        default="webshop",
        description="The server calls sessions and tasks `env_idx` and `session_id` ('webshop'), "
        "or `id` and `data_idx` ('id', such as TextCraft and BabyAI).",
    )
    splits: Annotated[Splits, AfterValidator(checked_splits)] = Field(
        default={},
        description="Names of splits, each with its tasks: 'FIRST-LAST' or a list of numbers. By "
        "default 'test' of WebShop is '0-99', and 'train' is '100-199'.",
    )
    actions: bool = Field(
        default=False,
        description="The server is asked for the admissible actions of each page, which the policy "
        "'choose' needs: a search for the words of the instruction, and all that can be clicked. "
        "Only WebShop says them.",
    )
    timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=60.0, description="A request must be answered within so many seconds."
    )

    @model_validator(mode="after")
    def _consistent(self) -> AgentGymOptions:
        if self.dialect == "id" and self.actions:
            raise ValueError("'actions' needs 'dialect: webshop'; other servers do not tell them")
        return self


# Whose turn it is, of several servers.
_turns = itertools.count()
# How often each server was found to be gone or to have forgotten a session: it may give the numbers
# of older sessions to others, so nobody goes on with these.
_losses: Counter[str] = Counter()


@environment("agentgym")
class AgentGym:
    """A session with a server of AgentGym.

    It is made at the first reset and used for every later one, since that is dear with WebShop. The
    reward of a step is the server's.
    """

    Options = AgentGymOptions
    remote = True
    digest = ""

    def __init__(self, options: AgentGymOptions, directory: Path) -> None:
        """Ask nothing yet; `directory` is not needed."""
        urls = [options.url] if isinstance(options.url, str) else options.url
        self._server = JsonServer(urls[next(_turns) % len(urls)], options.timeout)
        self._actions = options.actions
        self._shop = options.dialect == "webshop"
        self._splits = options.splits or (_WEBSHOP if self._shop else {})
        self._session_key, self._task_key = (
            ("env_idx", "session_id") if self._shop else ("id", "data_idx")
        )
        self._session: int | None = None
        self._losses = 0
        self._search = ""
        self._wish: str | None = None

    @property
    def instructions(self) -> str:
        """See `Environment`."""
        return _SHOPPING if self._shop else ACTING

    def tasks(self, split: str) -> Sequence[str]:
        """See `Environment`."""
        return tasks_of(self._splits, split)

    def reset(self, id: str) -> Turn:
        """See `Environment`."""
        task = task_number(id)
        known = self._session is not None and self._losses == _losses[self._server.url]
        found = self._reset(task, known)
        if self._actions:
            self._search = _search_for(self._told("/instruction_text", "the instruction", str))
        self._wish = _wish_on(found)
        return Turn(found, self._available())

    def step(self, text: str) -> Step:
        """See `Environment`."""
        if self._session is None or self._losses != _losses[self._server.url]:
            self._session = None
            raise EnvironmentDown(
                f"{self._server.url}: the server was away, so that this session is no more; "
                "the episode must be played from its beginning"
            )
        expected = "an observation, a reward and whether it is done"
        body = {self._session_key: self._session, "action": action_text(text)}
        status, value = self._ask("POST", "/step", body, expected, (404, 410, 500))
        if status >= 400 or at(value, "error") is not None:
            # So says a server that was started anew, of a session that it does not know.
            self._forgotten("/step", expected, status, value)
        seen, reward, done = (
            _observation(value),
            number(at(value, "reward")),
            at(value, "done"),
        )
        if seen is None or reward is None or not isinstance(done, bool):
            self._server.wrong("/step", expected, value)
        if None not in (self._wish, wish := _wish_on(seen)) and wish != self._wish:
            # Another process has got this number from a server that was started anew.
            self._lost()
            got = f"a page with another instruction ({shown(wish)})"
            self._server.down("/step", expected, got, "the session is opened again")
        return Step(Turn(seen, () if done and self._actions else self._available()), reward, done)

    def close(self) -> None:
        """See `Environment`. WebShop keeps sessions for ever; there is nothing to say to it."""
        session, self._session = self._session, None
        if session is not None and not self._shop:
            try:
                self._server.ask("POST", "/close", {"id": session}, "a session to be closed")
            except EpisodeError:
                return

    def _reset(self, task: int, known: bool) -> str:
        if not known:
            self._create()
        body = {self._session_key: self._session, self._task_key: task}
        expected = "the first observation of a task"
        # A server that was started anew says no to a session that it does not know.
        refusals = (400, 404, 410, 422, 500) if known else ()
        status, value = self._ask("POST", "/reset", body, expected, refusals)
        # WebShop's is a list, of which the first is the observation.
        seen = _observation({"state": list_of(value)[0]} if list_of(value) else value)
        if known and (status >= 400 or seen is None):
            return self._reset(task, False)
        if seen is None:
            self._server.wrong("/reset", expected, value)
        return seen

    def _create(self) -> None:
        self._session = None
        self._losses = _losses[self._server.url]
        expected = "the number of a new session"
        value = self._ask("POST", "/create", None, expected).value
        made = value if self._shop else at(value, "id")
        if type(made) is not int or made < 0:
            self._server.wrong("/create", expected, value)
        self._session = made

    def _told(self, path: str, expected: str, kind: type[Any]) -> Any:
        """What the server tells about the page, of that type."""
        path = f"{path}?{self._session_key}={self._session}"
        status, value = self._ask("GET", path, None, expected, (404, 410))
        if status >= 400:
            # As for a step.
            self._forgotten(path, expected, status, value)
        if type(value) is not kind:
            self._server.wrong(path, expected, value)
        return value

    def _available(self) -> tuple[str, ...] | None:
        if not self._actions:
            return None
        expected = "has_search_bar and the list of clickables"
        told = cast("dict[str, Any]", self._told("/available_actions", expected, dict))
        bar, names = told.get("has_search_bar"), texts(told.get("clickables"))
        if not isinstance(bar, bool) or names is None:
            self._server.wrong("/available_actions", expected, told)
        # The button beside the search bar does nothing by itself.
        clicks = [f"click[{name}]" for name in names if name.lower() != "search"]
        return tuple(([self._search] if bar else []) + clicks)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        expected: str,
        refusals: tuple[int, ...] = (),
    ) -> Answer:
        try:
            return self._server.ask(method, path, body, expected, refusals)
        except ServerGone:
            self._lost()
            raise

    def _forgotten(self, path: str, expected: str, status: int, value: Any) -> NoReturn:
        """Say that the server does not know the session."""
        self._lost()
        got = f"HTTP {status} ({shown(value)})"
        self._server.down(path, expected, got, "see its log; the session is opened again")

    def _lost(self) -> None:
        _losses[self._server.url] += 1
        self._session = None


def _observation(answer: Any) -> str | None:
    text = at(answer, "state" if at(answer, "observation") is None else "observation")
    return text if isinstance(text, str) else None


def _wish_on(page: str) -> str | None:
    """The instruction that WebShop shows on its pages; None where there is none."""
    found = re.search(r"Instruction: ?\[SEP\](.*?)\[SEP\]", page, re.DOTALL)
    return None if found is None else found[1].strip()


def _search_for(instruction: str) -> str:
    """A search for the words of an instruction; the price limit behind them is no word to find."""
    text = re.sub(r"^\W*instruction:?", "", instruction.replace("[SEP]", ""), flags=re.IGNORECASE)
    text = re.sub(r",? and price (lower|less|under)\b.*$", "", text, flags=re.IGNORECASE | re.S)
    words = re.findall(r"[\w'.%&/-]+", text.lower())
    return f"search[{' '.join(word.strip('.-/') for word in words).strip()}]"

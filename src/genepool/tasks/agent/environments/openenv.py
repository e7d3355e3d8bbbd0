"""The environment `openenv`: servers of OpenEnv, whose sessions are WebSockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

from pydantic import AfterValidator, Field

from genepool.checkpoints.files.cache import shared_cache
from genepool.documents import list_of, read_text
from genepool.errors import EpisodeError
from genepool.messages import one_line, shown, some
from genepool.settings import Section
from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.json_over_http import JsonServer, ServerGone, Url
from genepool.tasks.agent.environments.json_over_websocket import JsonSocket
from genepool.tasks.agent.environments.openenv_tasks import OpenEnvTasks
from genepool.tasks.agent.environments.tasks_and_texts import (
    ACTING,
    Splits,
    action_text,
    at,
    checked_splits,
    number,
    task_number,
    tasks_of,
    texts,
)

# Where the agent's text goes in an action.
_TEXT = "{action}"
# By plain requests a server keeps one episode: a token of it, for this process, and for others of
# this user in a file of the cache.
_playing: dict[str, str] = {}
_FIRST, _NEXT = "the first observation of a task", "an observation, a reward and whether it is done"


def _checked_action(action: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(action, dict) and not _keys_with_text(action):
        raise ValueError(f"expected '{_TEXT}' as one of its values: there goes the agent's text")
    return action


class OpenEnvOptions(Section):
    """Options of the environment `openenv`."""

    url: Url = Field(description="The server listens at this address ('http://127.0.0.1:8000').")
    transport: Literal["websocket", "http"] = Field(
        default="websocket",
        description="A session is a WebSocket, as servers of OpenEnv keep it. With 'http' it is "
        "plain requests, for a server that keeps its one episode between these.",
    )
    action: Annotated[str | dict[str, Any] | None, AfterValidator(_checked_action)] = Field(
        default=None,
        description="The agent's text is the value of this key of an action; or an action is this "
        "mapping, in which the text takes the place of the value '{action}', as in {tool_name: "
        "submit, arguments: {answer: '{action}'}}. By default it is the only text of an action by "
        "the server's schema.",
    )
    observation: str | None = Field(
        default=None,
        description="The agent is shown what an observation has under this key ('info.text' is "
        "the key text of info). By default it is all of it, as JSON with sorted keys.",
    )
    admissible: str | None = Field(
        default=None,
        description="An observation lists the admissible actions under this key, as above.",
    )
    splits: Annotated[Splits, AfterValidator(checked_splits)] = Field(
        default={},
        description="Names of splits, each with its tasks: 'FIRST-LAST' or a list of numbers, "
        "which are the random seeds that episodes are reset with. By default the server is asked "
        "for its splits and tasks.",
    )
    name: str | None = Field(
        default=None,
        description="The server lists its tasks under this name; by default it has one alone.",
    )
    timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=60.0, description="A request must be answered within so many seconds."
    )


@environment("openenv")
class OpenEnv:
    """A session with a server of OpenEnv, opened at the first reset and used for every later one.

    A reward that is null counts as 0. An action that the server finds invalid, by the agent's text,
    is a step that changes nothing: the agent is told why.
    """

    Options = OpenEnvOptions
    remote = True

    def __init__(self, options: OpenEnvOptions, directory: Path) -> None:
        """Ask nothing yet; `directory` is not needed.

        Raises:
            MissingExtraError: the package for WebSockets is not installed.
        """
        self._options = options
        self._server = JsonServer(options.url, options.timeout)
        self._socket, self._episode, cache = None, "", shared_cache()
        name = hashlib.sha256(options.url.encode()).hexdigest()[:16]
        self._mark = None if cache is None else cache / f"openenv-{name}"
        if options.transport == "websocket":
            self._socket = JsonSocket(self._server, options.timeout)
        self._action: dict[str, Any] | None = None
        self._tasks = OpenEnvTasks(self._server, options.name)
        self._turn = Turn("")

    @property
    def exclusive(self) -> bool:
        """See `Exclusive`: without a session a server keeps one episode."""
        return self._socket is None

    @property
    def digest(self) -> str:
        """See `Digested`; not where the server is."""
        given = self._options.model_dump(include={"action", "name"}, exclude_none=True)
        return json.dumps(given, sort_keys=True) if given else ""

    @property
    def instructions(self) -> str:
        """See `Environment`."""
        return ACTING

    def tasks(self, split: str) -> Sequence[str]:
        """See `Environment`."""
        if self._options.splits:
            return tasks_of(self._options.splits, split)
        count = self._tasks.count(split)
        return tuple(f"{split}-{index}" for index in range(count))

    def reset(self, id: str) -> Turn:
        """See `Environment`."""
        if self._options.splits:
            wanted: dict[str, Any] = {"seed": task_number(id)}
        else:
            split, _, last = id.rpartition("-")
            index = task_number(last)
            count = self._tasks.count(split)
            if index >= count or str(index) != last:
                raise EpisodeError(f"there is no task '{one_line(id)}': the split has {count}")
            wanted = {"seed": index, "split": split, "index": index}
        if self._action is None:
            self._action = self._pattern()
        self._episode = self._claim()
        begun = self._asked("reset", wanted, _FIRST)
        self._require_alone(sent=True)
        if begun.done:
            raise EpisodeError(f"{self._server.url}: task '{one_line(id)}' is over as it begins")
        self._turn = begun.turn
        return begun.turn

    def step(self, text: str) -> Step:
        """See `Environment`."""
        if self._action is None:
            raise EpisodeError(f"{self._server.url}: no episode has begun")
        self._require_alone()
        step = self._asked("step", _filled(self._action, action_text(text)), _NEXT)
        self._require_alone(sent=True)
        self._turn = step.turn
        return step

    def _claim(self) -> str:
        """Say that an episode begins here; its token."""
        token = _playing[self._server.url] = secrets.token_hex(8)
        if self._mark is not None:
            self._mark.write_text(token)
        return token

    def _require_alone(self, *, sent: bool = False) -> None:
        """Require that nobody else has begun an episode since, where the server keeps but one.

        Args:
            sent: whether the server was asked something meanwhile, which may have spoiled theirs:
                then they get the same error.

        Raises:
            EpisodeError: somebody has.
        """
        if self._socket is not None:
            return
        found = _playing.get(self._server.url)
        if self._mark is not None:
            with contextlib.suppress(OSError):
                found = read_text(self._mark, 100)
        if found != self._episode:
            if sent:
                self._claim()
            raise EpisodeError(
                f"{self._server.url}: another session, perhaps of another run, has begun an "
                "episode there, and by plain requests a server keeps no more than one: take "
                "'transport: websocket', or play one at a time ('batch: 1', one run)"
            )

    def close(self) -> None:
        """See `Environment`."""
        if self._socket is not None:
            self._socket.close()

    def _asked(self, kind: str, data: Mapping[str, Any], expected: str) -> Step:
        """What comes of a reset or step.

        Raises:
            EnvironmentDown: the server is not there, or something broke in it.
            EpisodeError: it wants other messages.
        """
        known = self._socket is not None and self._socket.is_open
        try:
            return self._read(kind, self._answer(kind, data, expected), expected)
        except EpisodeError as error:
            self.close()
            # A server may have given up a session that nobody used for a while.
            if kind == "step" or not known or not isinstance(error, ServerGone):
                raise
        return self._asked(kind, data, expected)

    def _answer(self, kind: str, data: Mapping[str, Any], expected: str) -> Any:
        """What the server says; `_Invalid` for an action's text that it refuses."""
        if self._socket is None:
            body = {"action": data} if kind == "step" else data
            status, value = self._server.ask("POST", f"/{kind}", body, expected, (422,))
            return value if status != 422 else self._invalid(kind, at(value, "detail"), expected)
        if kind == "step" and not self._socket.is_open:
            self._server.down("/ws", expected, "no session any more", "the episode begins anew")
        return self._told(kind, self._socket.ask({"type": kind, "data": data}, expected), expected)

    def _told(self, kind: str, answer: Any, expected: str) -> Any:
        said, code = at(answer, "type"), at(answer, "data.code")
        if said == "observation":
            return at(answer, "data")
        if said != "error":
            self._server.wrong("/ws", expected, answer)
        if code == "VALIDATION_ERROR":
            return self._invalid(kind, at(answer, "data.errors"), expected)
        if code in ("INVALID_JSON", "UNKNOWN_TYPE"):
            self._refuse(f"/ws ({kind})", expected, answer)
        advice = "see the server's log"
        if code == "CAPACITY_REACHED":
            advice = "let the server hold more sessions, or play fewer together ('batch')"
        return self._server.down(f"/ws ({kind})", expected, shown(at(answer, "data")), advice)

    def _invalid(self, kind: str, errors: Any, expected: str) -> _Invalid:
        """The server finds a message invalid: for the agent's text, or for what is around it."""
        keys = _keys_with_text(self._action or {})
        for error in list_of(errors):
            place = {one for one in list_of(at(error, "loc")) if isinstance(one, str)}
            other = at(error, "type") in ("extra_forbidden", "missing")
            if kind == "step" and keys & place and not other:
                return _Invalid(one_line(at(error, "msg")))
        return self._refuse(f"/{kind}", expected, errors)

    def _refuse(self, path: str, expected: str, got: Any) -> NoReturn:
        raise EpisodeError(
            f"{self._server.url}{path}: expected {expected}; got {shown(got)}; see what the server "
            "takes (GET /schema), and the setting 'action'"
        )

    def _read(self, kind: str, answer: Any, expected: str) -> Step:
        if isinstance(answer, _Invalid):
            return Step(self._turn._replace(text=f"This is no valid action: {answer}"), 0.0, False)
        seen, given, done = (at(answer, key) for key in ("observation", "reward", "done"))
        reward = float(given or 0) if given is None or type(given) is bool else number(given)
        if not isinstance(seen, dict) or reward is None or type(done) is not bool:
            self._server.wrong(f"/{kind}", expected, answer)
        held = cast("dict[str, Any]", seen)
        text = held if self._options.observation is None else at(held, self._options.observation)
        if text is None:
            key = one_line(self._options.observation)
            raise EpisodeError(
                f"{self._server.url}: an observation has no '{key}'; it has {some(held, 9)}"
            )
        if not isinstance(text, str):
            text = json.dumps(text, sort_keys=True, ensure_ascii=False)
        told = None if self._options.admissible is None else at(seen, self._options.admissible)
        actions = None if told is None else texts(told)
        if actions is None and told is not None:
            self._server.wrong(f"/{kind}", "admissible actions as a list of texts", told)
        return Step(Turn(text, actions), reward, done)

    def _pattern(self) -> dict[str, Any]:
        """An action with `_TEXT` in place of the agent's text."""
        if isinstance(self._options.action, dict):
            return self._options.action
        if isinstance(self._options.action, str):
            return {self._options.action: _TEXT}
        expected = "the schema of an action"
        answer = self._server.ask("GET", "/schema", None, expected).value
        fields = at(answer, "action.properties")
        if not isinstance(fields, dict):
            self._server.wrong("/schema", expected, answer)
        fields = cast("dict[str, Any]", fields)
        known = [key for key, field in fields.items() if at(field, "type") == "string"]
        if len(known) != 1:
            raise EpisodeError(
                f"{self._server.url}/schema: expected an action with one text; it has "
                f"{some(known, 9) or 'none'} of {some(fields, 9) or 'no fields'}: say with the "
                "setting 'action' which is the agent's"
            )
        return {known[0]: _TEXT}


class _Invalid(str):
    """Why the server refuses an agent's text."""


def _filled(pattern: Any, text: str) -> Any:
    """An action of a pattern: the text takes the place of `_TEXT`, wherever it stands."""
    if isinstance(pattern, dict):
        return {key: _filled(one, text) for key, one in cast("dict[str, Any]", pattern).items()}
    if isinstance(pattern, list):
        return [_filled(one, text) for one in cast("list[Any]", pattern)]
    return text if pattern == _TEXT else pattern


def _keys_with_text(pattern: dict[str, Any]) -> set[str]:
    """Keys at any depth whose value is `_TEXT`."""
    inner = [cast("dict[str, Any]", one) for one in pattern.values() if isinstance(one, dict)]
    return {key for key, one in pattern.items() if one == _TEXT}.union(*map(_keys_with_text, inner))

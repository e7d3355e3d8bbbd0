"""Splits and tasks that a server of OpenEnv lists, over plain HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from genepool.documents import list_of
from genepool.errors import EpisodeError
from genepool.messages import one_line, some
from genepool.tasks.agent.environments.json_over_http import JsonServer
from genepool.tasks.agent.environments.tasks_and_texts import MOST_TASKS, at, texts

# What servers answer that list no tasks.
_ABSENT = (404, 405, 501)


class OpenEnvTasks:
    """The tasks of one environment of a server, each by its place in its split."""

    def __init__(self, server: JsonServer, name: str | None) -> None:
        """Ask nothing yet.

        Args:
            server: that is asked.
            name: of the environment there; None where it has one alone.
        """
        self._server = server
        self._name = name
        self._counts: dict[str, int] = {}

    def count(self, split: str) -> int:
        """How many tasks a split has; the server is asked once.

        Raises:
            EpisodeError: there is no such split, or the server lists none.
            EnvironmentDown: the server cannot be asked.
        """
        if split not in self._counts:
            self._counts[split] = self._counted(split)
        return self._counts[split]

    def _counted(self, split: str) -> int:
        name = quote(self._name or self._only_name(), safe="")
        path, expected = f"/{name}/splits", "a list of splits"
        answer = self._ask("GET", path, None, expected)
        names = [at(one, "name") or one for one in list_of(answer)]
        if not isinstance(answer, list) or texts(names) is None:
            self._server.wrong(path, expected, answer)
        if split not in names:
            known = some(names) or "none"
            raise EpisodeError(f"there is no split '{one_line(split)}'; the server has {known}")
        path, expected = f"/{name}/num_tasks", "the number of tasks of a split"
        answer = self._ask("POST", path, {"split": split}, expected)
        count = at(answer, "num_tasks")
        if type(count) is not int or not 0 <= count <= MOST_TASKS:
            self._server.wrong(path, expected, answer)
        return count

    def _only_name(self) -> str:
        path, expected = "/list_environments", "a list with the name of one environment"
        answer = self._ask("GET", path, None, expected)
        known = texts(answer)
        if known is None:
            self._server.wrong(path, expected, answer)
        if len(known) != 1:
            raise EpisodeError(
                f"{self._server.url}{path}: expected one; got {some(known) or 'none'}: say which "
                "with the setting 'name'"
            )
        return known[0]

    def _ask(self, method: str, path: str, body: dict[str, str] | None, expected: str) -> Any:
        status, value = self._server.ask(method, path, body, expected, _ABSENT)
        if status >= 400:
            raise EpisodeError(
                f"{self._server.url}{path}: expected {expected}; got HTTP {status}: the server "
                "lists no tasks; name random seeds with the setting 'splits' ({test: '0-99'})"
            )
        return value

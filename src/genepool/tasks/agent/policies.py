"""Policies: how a model is made to act. One is chosen by name in the run file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genepool.errors import ConfigError, EpisodeError, EvaluationError
from genepool.messages import blamed, count, failures_as, one_line, shown
from genepool.models.language import LanguageModel
from genepool.models.live import Answering
from genepool.models.user_code import load_function
from genepool.tasks.agent.episode import CONTEXT, STUCK, Asked, Replies, Reply
from genepool.tasks.agent.options import AgentOptions

if TYPE_CHECKING:
    from genepool.tasks.agent.likelihoods import Reader

# What comes before an action in a reply.
ACTION = "Action:"
# The same as models write it who emphasise: **Action:** or **Action**: or **Action: ...**
_ACTION = re.compile(r"(?<!\w)(?P<mark>\*{1,3}|_{1,3}|`)Action(?::(?P=mark)|(?P=mark):|:)|Action:")


def open_policy(options: AgentOptions, directory: Path) -> Generate | Choose | Call:
    """The policy that a run file names.

    Its `digest` is whatever changes what a model does, as text, and `needs_actions` says whether it
    must know the admissible actions. `begin` gives what answers one batch of episodes, from their
    beginning to their end: one reply for each that goes on. It may keep what it has read; the
    model's weights stay meanwhile. It raises EvaluationError for a model that cannot be asked, and
    so do its replies.

    Raises:
        ConfigError: there is none of that name.
    """
    if options.policy == "generate":
        return Generate(options.max_new_tokens, options.context)
    if options.policy == "choose":
        return Choose(options.context, tuple(options.leave_out), options.repeat)
    if ":" in options.policy:
        return Call(options.policy, load_function(options.policy, directory))
    raise ConfigError(
        f"policy: expected 'generate', 'choose' or a 'module:function' of yours; got "
        f"'{one_line(options.policy)}'"
    )


def action_in(reply: str) -> str:
    """The action in a reply ("Thought: ... Action: ..."): what follows the last "Action:", without
    emphasis around it; all of the reply where there is none."""
    *_, last = [None, *_ACTION.finditer(reply)]
    if last is None:
        return reply.strip()
    action = reply[last.end() :].strip()
    if last["mark"] is not None and last[0].endswith("Action:"):
        action = action.removesuffix(last["mark"]).rstrip()
    for mark in ("**", "`"):
        inner = action.removeprefix(mark).removesuffix(mark)
        if inner and mark not in inner and action == f"{mark}{inner}{mark}":
            return inner.strip()
    return action


@dataclass(frozen=True)
class Generate:
    """The model writes a reply, always the likeliest token next by its generation settings.

    Attributes:
        max_new_tokens: of a reply, at most.
        context: tokens of the conversation with room for a reply, at most.
    """

    max_new_tokens: int
    context: int
    needs_actions: bool = False

    @property
    def digest(self) -> str:
        """See `open_policy`."""
        return f"generate 1 {self.max_new_tokens} {self.context}"

    def begin(self, model: Any) -> Replies:
        """See `open_policy`."""
        return partial(self._replies, _language_model(model, "generate"))

    def _replies(self, value: LanguageModel, asked: Sequence[Asked]) -> list[Reply]:
        """The episodes are asked together, padded on the left."""
        from genepool.tasks.agent import decoding

        prompts = decoding.prompts(value, [one.messages for one in asked])
        context = decoding.room(value, self.context)
        reply = f"'max_new_tokens: {self.max_new_tokens}' for a reply"
        replies = [_too_long(p, reply, context, self.context) for p in prompts]
        going = [at for at, p in enumerate(prompts) if len(p) + self.max_new_tokens <= context]
        what = "policy 'generate': the model failed"
        with value.asked(), failures_as(EvaluationError, what, passing=EvaluationError):
            texts = decoding.continued(value, [prompts[at] for at in going], self.max_new_tokens)
        for at, text in zip(going, texts, strict=True):
            replies[at] = Reply(text, action_in(text))
        return replies


@dataclass(frozen=True)
class Choose:
    """The model takes the admissible action whose tokens have the highest mean log-likelihood.

    Attributes:
        context: tokens of the conversation with the action, at most.
        leave_out: patterns of actions that are never chosen.
        repeat: whether an action may be chosen twice in an episode.
    """

    context: int
    leave_out: tuple[str, ...]
    repeat: bool
    needs_actions: bool = True

    @property
    def digest(self) -> str:
        """See `open_policy`."""
        return f"choose 2 {self.context} {self.leave_out} {self.repeat}"

    def begin(self, model: Any) -> Replies:
        """See `open_policy`."""
        from genepool.tasks.agent.likelihoods import Reader

        value = _language_model(model, "choose")
        if value.model.config.is_encoder_decoder:
            raise EvaluationError(
                "policy 'choose' needs a model that continues the text that it is given; got "
                f"{type(value.model).__name__}, which reads it with an encoder: take 'policy: "
                "generate', or a function of yours"
            )
        return partial(self._replies, value, Reader(value))

    def _replies(self, value: LanguageModel, reader: Reader, asked: Sequence[Asked]) -> list[Reply]:
        """The episodes are asked together; of equals the first is taken."""
        from genepool.tasks.agent import decoding

        prompts = decoding.prompts(value, [one.messages for one in asked], ACTION)
        context = decoding.room(value, self.context)
        replies = [_STUCK] * len(asked)
        offered: dict[int, list[str]] = {}
        ends: dict[int, list[list[int]]] = {}
        for at, one in enumerate(asked):
            if one.actions is None:
                raise EpisodeError(
                    "policy 'choose' needs the admissible actions, and the environment does not "
                    f"say them after {count(len(one.taken), 'action')}; see whether its settings "
                    "can make it tell them each time, or take 'policy: generate'"
                )
            if not (actions := self._open_to(one)):
                continue
            rows = decoding.endings(value, ACTION, actions)
            longest = max(map(len, rows))
            if len(prompts[at]) + longest > context:
                action = f"{longest} for an action"
                replies[at] = _too_long(prompts[at], action, context, self.context)
            elif len(actions) == 1:  # who has no choice is not asked
                replies[at] = _chosen(actions[0])
            else:
                offered[at], ends[at] = actions, rows
        what = "policy 'choose': the model failed"
        with value.asked(), failures_as(EvaluationError, what, passing=EvaluationError):
            known = reader.likelihoods([prompts[at] for at in ends], list(ends.values()))
        for (at, actions), likelihoods in zip(offered.items(), known, strict=True):
            best = max(range(len(actions)), key=likelihoods.__getitem__)
            replies[at] = _chosen(actions[best])
        return replies

    def _open_to(self, asked: Asked) -> list[str]:
        """Actions that may be chosen, each once."""
        known: list[str] = []
        # Brackets are part of many actions: click[Buy Now].
        patterns = [one.replace("[", "[[]") for one in self.leave_out]
        for action in dict.fromkeys(asked.actions or ()):
            again = not self.repeat and action in asked.taken
            if not again and not any(fnmatchcase(action, one) for one in patterns):
                known.append(action)
        return known


def _chosen(action: str) -> Reply:
    return Reply(f"{ACTION} {action}", action)


_STUCK = Reply("", None, STUCK, "leaves no action to choose; look at 'leave_out'")


def _too_long(prompt: Sequence[int], reply: str, room: int, context: int) -> Reply:
    """What ends an episode whose text and a reply to it have too many tokens."""
    limit = f"the {room} that the model has positions for; shorten"
    if room == context:
        limit = f"'context: {context}'; raise it, or shorten"
    told = f"has {count(len(prompt), 'token')} and needs {reply}, more than {limit} "
    return Reply("", None, CONTEXT, f"{told}'instructions' or the observations")


@dataclass(frozen=True)
class Call:
    """A function of the user's acts.

    Attributes:
        name: of the function.
        function: called with the model (and its tokenizer) and the episodes.
    """

    name: str
    function: Callable[..., object]
    needs_actions: bool = False

    @property
    def digest(self) -> str:
        """See `open_policy`; the function's name, not its code."""
        return f"call 1 {self.name}"

    def begin(self, model: Any) -> Replies:
        """See `open_policy`."""
        return partial(self._replies, model)

    def _replies(self, model: Any, asked: Sequence[Asked]) -> list[Reply]:
        with failures_as(
            EvaluationError,
            f"policy '{self.name}' failed",
            passing=EvaluationError,
            told=partial(blamed, function=self.function),
        ):
            if isinstance(model, Answering):
                with model.asked():
                    found: object = self.function(*model.arguments, list(asked))
            else:
                found = self.function(model, list(asked))
        texts = list(cast("Sequence[object]", found)) if isinstance(found, (list, tuple)) else []
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if len(texts) != len(asked) or wrong is not None:
            raise EvaluationError(
                f"policy '{self.name}': expected a list of {len(asked)} actions as text; got "
                f"{shown(cast('object', found) if wrong is None else wrong)}"
            )
        return [Reply(text, action_in(text)) for text in cast("list[str]", texts)]


def _language_model(model: Any, policy: str) -> LanguageModel:
    if isinstance(model, LanguageModel) and model.tokenizer is not None:
        return model
    got = "one without" if isinstance(model, LanguageModel) else type(model).__name__
    raise EvaluationError(
        f"policy '{policy}' needs a language model with a tokenizer; got {got}. With 'policy: "
        "module:function' a function of yours makes models of other kinds act"
    )


def opening(instructions: str) -> tuple[Mapping[str, str], ...]:
    """What is said before the first observation."""
    if not instructions.strip():
        return ()
    return (
        {"role": "user", "content": instructions},
        {"role": "assistant", "content": "Ok."},
    )

"""Episodes: what an agent is asked, what it answers, and a batch of them played in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genepool.tasks.agent.environment import Step, Turn
from genepool.tasks.agent.sessions import Session

# Why an episode has ended.
DONE = "done"
ROUNDS = "action limit"
CONTEXT = "context limit"
STUCK = "no action left"

# What is kept to be looked at, of each text.
_KEPT = 4_000


@dataclass(frozen=True)
class Asked:
    """What a policy sees of an episode.

    Attributes:
        messages: the conversation so far as chat messages, each with `role` and `content`; the last
            is the newest observation.
        actions: the admissible ones; None where the environment does not say.
        taken: actions so far.
    """

    messages: tuple[Mapping[str, str], ...]
    actions: tuple[str, ...] | None
    taken: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What a policy answers.

    Attributes:
        text: what the agent says, which the conversation goes on with.
        action: what the environment is given; None ends the episode.
        ended: why it ends, where it does.
        told: the same in full, of a beginning.
    """

    text: str
    action: str | None
    ended: str = ""
    told: str = ""


Replies = Callable[[Sequence[Asked]], Sequence[Reply]]


@dataclass
class Episode:
    """An episode as it goes on.

    Attributes:
        id: of the task.
        turn: what is seen now.
        messages: the conversation so far, as chat messages.
        actions, rewards: of each step.
        ended: why it has ended; "" while it goes on.
        told: the same in full, where the policy has ended it.
    """

    id: str
    turn: Turn
    messages: list[Mapping[str, str]]
    actions: list[str] = field(default_factory=list[str])
    rewards: list[float] = field(default_factory=list[float])
    ended: str = ""
    told: str = ""

    def asked(self) -> Asked:
        """What the policy is asked next: copies, which it may change."""
        return Asked(
            tuple({**message} for message in self.messages), self.turn.actions, tuple(self.actions)
        )

    def replied(self, reply: Reply) -> None:
        """Take over what the agent says."""
        if reply.action is None:
            self.ended, self.told = reply.ended, reply.told
        else:
            self.messages.append({"role": "assistant", "content": reply.text})
            self.actions.append(reply.action)

    def stepped(self, step: Step, rounds: int) -> None:
        """Take over what came of it."""
        self.turn = step.turn
        self.messages.append({"role": "user", "content": step.turn.text})
        self.rewards.append(step.reward)
        if step.done:
            self.ended = DONE
        elif len(self.actions) >= rounds:
            self.ended = ROUNDS

    def transcript(self, score: float) -> dict[str, Any]:
        """All of it for people, as JSON holds it; long texts are cut."""
        return {
            "id": self.id,
            "score": score,
            "ended": self.ended,
            "rewards": self.rewards,
            "actions": [_cut(action) for action in self.actions],
            "messages": [
                {"role": message["role"], "content": _cut(message["content"])}
                for message in self.messages
            ],
        }


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _KEPT else f"{text[:_KEPT]} [...]"


def play(
    sessions: Sequence[Session],
    turns: Mapping[str, Turn],
    opening: Sequence[Mapping[str, str]],
    rounds: int,
    replies: Replies,
    at_once: Callable[[Sequence[Callable[[], Any]]], Sequence[Any]],
) -> list[Episode]:
    """Play one episode for each task, all of them in lockstep: one round of replies at a time.

    Args:
        sessions: at least one for each task.
        turns: id of each task -> the turn that it begins with.
        opening: chat messages before the first observation.
        rounds: actions after which an episode ends.
        replies: asks the agent about the episodes that go on.
        at_once: calls functions, perhaps in threads, and gives what they return.

    Raises:
        EpisodeError: the environment is broken or does not repeat itself.
        EvaluationError: the model cannot be asked.
    """
    pairs = list(zip(sessions, turns.items(), strict=False))
    begun: Sequence[Turn] = at_once(
        [lambda s=session, i=id, t=turn: s.begin(i, t) for session, (id, turn) in pairs]
    )
    episodes = [
        Episode(id, turn, [*opening, {"role": "user", "content": turn.text}])
        for id, turn in zip(turns, begun, strict=True)
    ]
    while going := [number for number, one in enumerate(episodes) if not one.ended]:
        said = replies([episodes[number].asked() for number in going])
        for number, reply in zip(going, said, strict=True):
            episodes[number].replied(reply)
        acting = [number for number in going if not episodes[number].ended]
        steps: Sequence[Step] = at_once(
            [lambda n=number: sessions[n].act(episodes[n].actions[-1]) for number in acting]
        )
        for number, step in zip(acting, steps, strict=True):
            episodes[number].stepped(step, rounds)
    return episodes

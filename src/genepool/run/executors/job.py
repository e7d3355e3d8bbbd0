"""A job that several workers may share: what is asked of whom, what is known, and who refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.genome import Genome
from genepool.run.executors.executor import Evaluation
from genepool.run.executors.scorer import Part, in_parts


class Refusal(NamedTuple):
    """A worker said that the model cannot be scored.

    Attributes:
        worker: its number.
        place: where it is, for people.
        text: what it said, in one line.
    """

    worker: int
    place: str
    text: str


@dataclass(eq=False, slots=True)
class Block:
    """What a plan wants to know next, in parts that are asked one by one.

    Attributes:
        indices: int64[n], the examples.
        parts: places in `indices`, int64 each.
        scores: float32[n], of the parts that are not `left`.
        asked: by how many each part is being asked, or was.
        left: numbers of the parts without an answer.
        refusal: of the first part that was refused; later ones are not asked.
    """

    indices: NDArray[np.int64]
    parts: list[NDArray[np.int64]]
    scores: NDArray[np.float32]
    asked: list[int]
    left: set[int]
    refusal: Refusal | None = None


@dataclass(eq=False, slots=True)
class Job:
    """A genome, and the plan to ask it by. All methods need the executor's lock.

    Attributes:
        step: it is known by this to the driver; -1 for what is asked besides.
        part: which examples these are.
        request: asked instead of the plan's examples; `reply` is what came back.
        began: when a worker took it first, in seconds; None before.
        known: number of examples with an answer.
        losses: number of workers that were lost over it.
        refused: the first worker that cannot score it; it is asked elsewhere again.
        crew: worker -> the block and the number of its part that it is being asked, if any.
        block: what is being asked; None before and between.
        answer: what came of it.
    """

    step: int
    genome: Genome
    plan: EvaluationPlan
    part: Part = "train"
    request: bytes = b""
    reply: bytes = b""
    began: float | None = None
    known: int = 0
    losses: int = 0
    refused: Refusal | None = None
    crew: dict[int, tuple[Block, int] | None] = field(
        default_factory=dict[int, "tuple[Block, int] | None"]
    )
    block: Block | None = None
    answer: Evaluation | BaseException | None = None

    def take(
        self, worker: int, blocks: NDArray[np.int64] | None, *, late: bool
    ) -> tuple[Block, int] | None:
        """The part that a worker asks next; None: it is not needed any more.

        Args:
            worker: its number.
            blocks: int64[N] of the examples, in parts of which a question is asked.
            late: whether to ask what somebody else is being asked already.
        """
        self.crew[worker] = None
        if self.answer is not None:
            return None
        if self.block is None:
            if self.plan.done:
                return None
            indices = self.plan.next()
            parts = in_parts(indices, blocks if self.part == "train" else None)
            scores = np.empty(indices.size, dtype=np.float32)
            self.block = Block(indices, parts, scores, [0] * len(parts), set(range(len(parts))))
        block = self.block
        number = min(sorted(block.left), key=block.asked.__getitem__, default=None)
        if number is None or (block.asked[number] and not late):
            return None
        block.asked[number] += 1
        self.crew[worker] = block, number
        return block, number

    def record(self, block: Block, number: int, scores: NDArray[np.float32]) -> None:
        """Take in the answer to a part, unless somebody else was first."""
        if self.block is not block or number not in block.left:
            return
        block.left.discard(number)
        block.scores[block.parts[number]] = scores
        self.known += block.parts[number].size
        if not block.left and block.refusal is None:
            self.plan.record(block.indices, block.scores)
            self.block = None

    def refuse(self, block: Block, number: int, refusal: Refusal) -> None:
        """A part cannot be scored. Those before it are still asked, so that what is told of the
        model does not depend on who was first."""
        if self.block is block and number in block.left:
            block.refusal = refusal
            block.left = {other for other in block.left if other < number}

    def leave(self, worker: int) -> None:
        """A worker does no more; what it has not answered is anybody's."""
        if (held := self.crew.pop(worker, None)) is not None:
            block, number = held
            block.asked[number] -= 1

    @property
    def over(self) -> bool:
        """Nothing is left to ask."""
        block = self.block
        return self.plan.done if block is None else not block.left

    def has_room(self, *, late: bool) -> bool:
        """Whether one more worker would have something to do.

        Args:
            late: it may ask what another one is being asked.
        """
        block = self.block
        if self.answer is not None or self.refused is not None or self.over:
            return False
        if block is None:
            return late and len(self.crew) < 2
        free = sum(not block.asked[number] for number in block.left)
        # Those that are at it take a further part each, as soon as they can.
        return free > len(self.crew) or (late and len(self.crew) <= len(block.left))


def packed(indices: NDArray[np.int64]) -> bytes:
    """int64[n] in [0, 2^32) on their way to a worker.

    Low bytes first, then all higher ones, which are alike: it is compressed on its way.
    """
    return indices.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def unpacked(body: bytes) -> NDArray[np.int64]:
    """What `packed` has packed."""
    parts = np.frombuffer(body, dtype=np.uint8).reshape(4, -1).T
    return np.ascontiguousarray(parts).view("<u4").ravel().astype(np.int64)

"""The evaluator `function`: scores from a function of yours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genepool.errors import EvaluationError
from genepool.messages import blamed, one_line, pass_on, shown
from genepool.models.live import Answering
from genepool.models.user_code import load_function
from genepool.settings import Section
from genepool.tasks.checks import checked_indices, checked_scores, content_digest, require_unique
from genepool.tasks.example_files import contents, example_ids, own_copy, read_examples
from genepool.tasks.garbage import GarbageCheck
from genepool.tasks.limits import time_limit
from genepool.tasks.stored import BlockedTask, copies_told, divided
from genepool.tasks.task import evaluator


class FunctionOptions(Section):
    """Options of the evaluator `function`."""

    function: str = Field(
        description="This 'module:function' is called as function(model, examples) with a list of "
        "examples, or as function(model, tokenizer, examples) if the model is a language "
        "model. It returns one score in [0, 1] for each, in their order; one for language "
        "models may return (scores, answers) with the texts that the model wrote, one for "
        "each. The module is looked for in the run file's folder first."
    )
    examples: str | None = Field(
        default=None,
        description="The examples are in this .jsonl, .json, .npy or .npz file, or 'module:name' "
        "is a list of them or a function that returns one; by default they are 'examples' in the "
        "module of 'function'.",
    )
    held_out_examples: str | None = Field(
        default=None, description="The held-out examples are given like 'examples'."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="This share of 'examples' is held out, from the end; by default it is 0. It "
        "cannot be given together with 'held_out_examples'.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Members are selected by the first so many examples only."
    )
    batch: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="The function is given the examples in fixed blocks of so many, one block a "
        "call, so that padding cannot make scores depend on what else is asked. By default all "
        "that are asked are given at once, and to a function for language models 16.",
    )
    binary: bool = Field(
        default=False, description="Every score is 0 or 1; any other is then an error."
    )
    garbage: bool = Field(
        default=True,
        description="A language model fails if most of its answers in a block, as the function "
        "returns them or as `generate` makes them while it runs, are empty or end in endless "
        "repetition, unless the seeds' do so too. Logits that are NaN fail always.",
    )
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="One call of the function may take so many seconds, however many examples it "
        "is given; a model that takes longer fails. Without it there is no limit.",
    )


# Examples in a block for language models, unless told otherwise.
_BLOCK = 16


@evaluator("function")
class Function(BlockedTask):
    """Scores from a function of the user's.

    The function must not change the model, and the score of an example must not depend on which
    others are asked with it, unless `batch` fixes them. It is given copies of the examples. For a
    language model it is called without gradients and with the same random numbers at every call,
    and a model whose logits are NaN, or that generates garbage, fails whatever it returns. What the
    model's own `generate` makes is overheard; a function that decodes in its own way returns what
    it made beside the scores. Otherwise it should raise rather than return a score for a model that
    it cannot judge.
    """

    Options = FunctionOptions

    def __init__(self, options: FunctionOptions, directory: Path) -> None:
        """Load the function and the examples.

        Raises:
            ConfigError: the function or the examples cannot be loaded, two examples have one id, or
                the options contradict each other.
        """
        self._options, self._batch = options, options.batch or _BLOCK
        self._what = f"function '{options.function}'"
        self._check_garbage = GarbageCheck(self._what)
        self._function: Callable[..., object] = load_function(options.function, directory)
        source = options.examples or f"{options.function.partition(':')[0]}:examples"
        stored, read = read_examples(source, directory), partial(read_examples, directory=directory)
        train, test = divided(stored, options.held_out, options.held_out_examples, read)
        train = train[: options.limit]
        self._examples = [*train, *test]
        ids, digests = example_ids(self._examples)
        require_unique(ids, source)
        settings = f"{len(train)} {options.binary}"
        if options.batch is not None:
            settings += f" {options.batch}"
        if not options.garbage:
            settings += " with garbage"
        # The function's name, not its code; an id is the field "id", or a digest of the example.
        digest = content_digest(["function 1", options.function, settings, *ids, *digests])
        super().__init__(ids, len(train), digest)
        # Without ids two examples alike have been refused.
        nameless = contents(self._examples) if test and ids != digests else ()
        self.notices = copies_told(nameless[: len(train)], nameless[len(train) :])

    @property
    def binary(self) -> bool:
        """As the options say; checked on every score."""
        return self._options.binary

    def score(
        self, model: Any, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> NDArray[np.float32]:
        """See `Task.score`.

        Raises:
            EvaluationError: the function raises, takes too long, or returns anything but one score
                in [0, 1] per example.
        """

        answering = model if isinstance(model, Answering) else None

        def ask(rows: list[int]) -> NDArray[np.float32]:
            if answering is not None:
                return self._ask_and_judge(rows, answering)
            return self._scores(self._call(rows, self._options.time_limit, model), rows)

        if self._options.batch is not None or answering is not None:
            return np.array(self._by_blocks(indices, held_out, ask), dtype=np.float32)
        first, last = self._range(held_out)
        rows: list[int] = (checked_indices(indices, last - first) + first).tolist()
        return ask(rows) if rows else np.empty(0, dtype=np.float32)

    def _ask_and_judge(self, rows: list[int], value: Answering) -> NDArray[np.float32]:
        def ask(limit: float | None) -> tuple[NDArray[np.float32], Sequence[Any]]:
            with value.asked() as heard:
                raw = self._call(rows, limit, *value.arguments)
            raw, told = self._with_answers(raw, len(rows))
            return self._scores(raw, rows), heard if told is None else told

        scores, answers = ask(self._options.time_limit)
        if self._options.garbage:
            self._check_garbage(answers, rows[0], value, lambda: ask(None)[1])
        return scores

    def _call(self, rows: list[int], limit: float | None, *given: Any) -> object:
        what = self._what
        with time_limit(limit, what):
            try:
                return self._function(*given, [own_copy(self._examples[row]) for row in rows])
            except EvaluationError as error:
                raise EvaluationError(f"{what}: {one_line(error)}") from error
            except BaseException as error:
                pass_on(error)
                hint = ""
                if isinstance(error, TypeError) and not _takes(self._function, len(given) + 1):
                    names = ", ".join([*("model", "tokenizer")[: len(given)], "examples"])
                    hint = f" (it is called as function({names}))"
                elif len(given) == 2 and given[1] is None:
                    hint = " (the first seed has no tokenizer; 'model.tokenizer' can name one)"
                raise EvaluationError(
                    f"{what} failed: {blamed(error, self._function)}{hint}"
                ) from error

    def _scores(self, raw: object, rows: list[int]) -> NDArray[np.float32]:
        try:
            return checked_scores(
                raw, len(rows), ids=[self._ids[row] for row in rows], binary=self._options.binary
            )
        except EvaluationError as error:
            raise EvaluationError(f"{self._what}: {error}") from error

    def _with_answers(self, raw: object, n: int) -> tuple[object, Sequence[str] | None]:
        """The scores that a function returned, and the answers if it returned any."""
        if not isinstance(raw, tuple):
            return raw, None
        items = cast("tuple[object, ...]", raw)
        if len(items) != 2 or not isinstance(items[1], (list, tuple)):
            return items, None
        told = cast("Sequence[object]", items[1])
        wrong = next((item for item in told if not isinstance(item, str)), None)
        if wrong is not None or len(told) != n:
            got = len(told) if wrong is None else f"one that is {shown(wrong)}"
            raise EvaluationError(f"{self._what}: expected {n} answers as text; got {got}")
        return items[0], cast("Sequence[str]", told)


def _takes(function: Callable[..., object], arguments: int) -> bool:
    """Whether a function can be called with so many arguments, as far as it tells."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except ValueError:
        return True
    except TypeError:
        return False
    return True

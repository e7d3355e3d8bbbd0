"""The evaluator `lm-eval`: tasks of lm-evaluation-harness, example by example."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genepool.errors import ConfigError, EvaluationError, require_packages
from genepool.messages import agreeing, at, count, failures_as, one_line, some
from genepool.models.language import LanguageModel
from genepool.settings import Section
from genepool.tasks.checks import checked_scores, content_digest
from genepool.tasks.garbage import GarbageCheck
from genepool.tasks.limits import time_limit
from genepool.tasks.stored import BlockedTask, class_by_class, copies_told, train_size
from genepool.tasks.task import evaluator

# Metrics that are 0 or 1 for each example, whatever the model says.
_BINARY = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")

# Metrics that come as (log-likelihood in nats, number of units) for each example.
_PER_UNIT = ("word_perplexity", "byte_perplexity", "bits_per_byte")


class GenerationOptions(Section):
    """How answers are generated."""

    max_gen_toks: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="An answer has at most so many tokens; by default the task says how many, or "
        "it is 256.",
    )
    until: list[str] | None = Field(
        default=None,
        description="An answer ends before any of these; by default the task says before which.",
    )
    do_sample: bool | None = Field(
        default=None,
        description="Tokens are drawn, with the same random numbers for every model and block; "
        "without it the likeliest is taken, as generation_config.json has it. By default the task "
        "says which.",
    )
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Tokens are drawn at this temperature; by default the task says at which.",
    )


class LmEvalOptions(Section):
    """Options of the evaluator `lm-eval`."""

    task: str = Field(
        description="This is the name of a task of lm-evaluation-harness (not of a group), or a "
        "task file that ends in .yaml. Relative paths in a task file start from the run file's "
        "folder."
    )
    include: str | None = Field(
        default=None, description="This directory with task files of yours is looked through first."
    )
    metric: str | None = Field(
        default=None,
        description="This one of the task's metrics is the score; by default it is the first.",
    )
    bounds: list[float] | None = Field(
        default=None,
        description="Of [lo, hi], the values of the metric, lo scores 0 and hi scores 1, and "
        "values beyond count as the bound; where lower is better, hi scores 0. It is needed for a "
        "metric that is not in [0, 1], or where lower is better.",
    )
    filter: str | None = Field(
        default=None,
        description="This one of the task's filters extracts the answer; by default it is the "
        "first.",
    )
    fewshot: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="A prompt shows so many examples; by default the task says how many.",
    )
    split: Literal["train", "validation", "test"] | None = Field(
        default=None,
        description="The selection examples come from this split; by default it is what the "
        "harness would score: 'test' if there is one, else 'validation'.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Members are selected by the first so many examples only."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="This share of the split is held out, from the end; by default it is 0. It "
        "cannot be given together with 'held_out_split'.",
    )
    held_out_split: Literal["train", "validation", "test"] | None = Field(
        default=None, description="All of this other split is held out."
    )
    held_out_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Only the first so many held-out examples are scored."
    )
    chat_template: bool = Field(
        default=False,
        description="Prompts are put into the chat template of the model's tokenizer, few-shot "
        "examples as turns.",
    )
    system: str | None = Field(
        default=None, description="Each prompt begins with this system instruction."
    )
    batch: int = Field(
        default=16,
        ge=1,
        description="Examples are scored in fixed blocks of so many, and so many requests are one "
        "forward pass, so that padding cannot make scores depend on what else is asked.",
    )
    generation: GenerationOptions = Field(
        default=GenerationOptions(), description="It says how answers are generated."
    )
    garbage: bool = Field(
        default=True,
        description="A model fails if most of its generated answers in a block are empty or end in "
        "endless repetition, unless the seeds' do so too. Logits that are NaN fail always.",
    )
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="One block may take so many seconds; a model that takes longer fails. Without "
        "it there is no limit.",
    )


# So many examples that are not scored are looked at, to see whether labels are mixed.
_LABELLED = 10_000

_LOG = logging.getLogger("genepool.lm_eval")


@evaluator("lm-eval")
class LmEval(BlockedTask):
    """One task of lm-evaluation-harness: its prompts, its metric, per example."""

    Options = LmEvalOptions

    def __init__(self, options: LmEvalOptions, directory: Path) -> None:
        """Load the task and its data, and make the prompts.

        Raises:
            MissingExtraError: lm-evaluation-harness is not installed.
            ConfigError: there is no such task, split, metric or filter; the data set cannot be
                loaded or is empty; or the metric needs bounds.
        """
        needed = ("torch", "transformers", "lm_eval", "datasets")
        require_packages("llm", "the evaluator 'lm-eval'", *needed)
        from genepool.tasks.lm_eval import harness

        self._harness = harness
        self._options, self._batch = options, options.batch
        include = None if options.include is None else directory / options.include
        self._task: Any = harness.open_harness_task(options.task, include, directory)
        self._what = f"lm-eval task '{one_line(options.task)}'"
        self._check_garbage = GarbageCheck(self._what)
        self.notices: tuple[str, ...] = ()
        if options.fewshot is not None:
            self._task.set_config("num_fewshot", options.fewshot)
        self._set_generation()
        self._metric = self._chosen_metric()
        self._filter = self._chosen_filter()
        self._low, self._high, self._falls = self._chosen_bounds()
        train, test, ids = self._documents()
        self._docs = [*train, *test]
        plain = self._prompts(None)
        self._requests: list[list[Any]] | None = None if options.chat_template else plain
        self._wrapped: tuple[LanguageModel, Any] | None = None
        self._looked = False
        settings = options.model_dump(
            include={"metric", "bounds", "filter", "batch", "chat_template", "garbage"}
        )
        # Prompts as they are before a chat template: the tokenizer is not there yet.
        digest = content_digest(
            ["lm-eval 1", self._task.task_name, json.dumps(settings), str(len(train))]
            + [
                part
                for doc, one in zip(self._docs, plain, strict=True)
                for part in _parts(doc, one)
            ]
        )
        super().__init__(ids, len(train), digest)

    @property
    def binary(self) -> bool:
        """Whether the metric is one of the harness's that are 0 or 1; checked on every score."""
        return not self._own_results and self._metric in _BINARY and self._options.bounds is None

    @property
    def generates(self) -> bool:
        """See `Generating`."""
        return self._task.OUTPUT_TYPE == "generate_until"

    def score(
        self, model: Any, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> NDArray[np.float32]:
        """See `Task.score`.

        Raises:
            EvaluationError: no language model, no tokenizer or no chat template; logits with NaN;
                garbage; a metric out of bounds; too much time; or the harness fails.
        """
        if not isinstance(model, LanguageModel):
            raise EvaluationError(
                f"{self._what} needs a language model, as a seed directory with a config.json "
                f"gives one; got {type(model).__name__}"
            )
        if model.tokenizer is None:
            raise EvaluationError(
                f"{self._what} needs a tokenizer, and {at(model.directory)} holds none; copy its "
                "files there, or name a directory that holds them in 'model.tokenizer'"
            )
        found = self._by_blocks(indices, held_out, lambda places: self._score_block(model, places))
        return np.array(found, dtype=np.float32)

    def _score_block(self, model: LanguageModel, rows: list[int]) -> NDArray[np.float32]:
        answered, found = self._ask(model, rows, self._options.time_limit)
        if self._options.garbage:

            def again() -> list[str]:
                return _texts(self._ask(model, rows, None)[0])

            self._check_garbage(_texts(answered), rows[0], model, again)
        ids = [self._ids[row] for row in rows]
        values = [self._value(one, example) for one, example in zip(found, ids, strict=True)]
        try:
            return checked_scores(values, len(rows), ids=ids, binary=self.binary)
        except EvaluationError as error:
            raise EvaluationError(
                f"{self._what}, metric '{self._metric}': {error}; 'bounds' can say which values "
                "score 0 and 1"
            ) from error

    def _ask(
        self, model: LanguageModel, rows: list[int], limit: float | None
    ) -> tuple[list[list[Any]], list[Mapping[str, Any]]]:
        """The answered requests of a block, and what the metrics say of them."""
        from genepool.models.transformers import inference

        harness = self._harness
        with (
            time_limit(limit, f"a block of {self._what}"),
            harness.quiet(),
            inference(model.model),
            harness.own_lengths(model.model),
            failures_as(EvaluationError, f"{self._what} failed", passing=EvaluationError),
        ):
            requests = self._rendered(model)
            if not self._looked:
                self._look(model, requests)
            answered = harness.ask(self._lm(model), [requests[row] for row in rows])
            docs = [self._docs[row] for row in rows]
            return answered, harness.metrics(self._task, docs, answered, self._filter)

    def _look(self, model: LanguageModel, requests: list[list[Any]]) -> None:
        """Tell, once, what the tokenizer does to prompts."""
        self._looked = True
        if cut := self._harness.cut(self._lm(model), requests):
            _LOG.warning(
                "%s: %d of %s %s more tokens than the model has room for, so that beginnings "
                "are left out",
                self._what, cut, count(len(self._docs), "prompt"), agreeing(cut, "has", "have"),
            )  # fmt: skip
        texts = (json.dumps(doc, ensure_ascii=False, default=str) for doc in self._docs)
        if held := [found[0] for text in texts if (found := model.special.search(text))]:
            _LOG.warning(
                "%s: %d of %s %s special tokens of the tokenizer (such as '%s'), and the model "
                "reads them as these",
                self._what, len(held), count(len(self._docs), "example"),
                agreeing(len(held), "holds", "hold"), one_line(held[0]),
            )  # fmt: skip

    def _lm(self, model: LanguageModel) -> Any:
        if self._wrapped is None or self._wrapped[0] is not model:
            self._wrapped = (model, self._harness.wrap(model, self._options.batch))
        return self._wrapped[1]

    def _rendered(self, model: LanguageModel) -> list[list[Any]]:
        if self._requests is None:
            if not model.tokenizer.chat_template:
                raise EvaluationError(
                    f"{self._what}: 'chat_template' is on, but the tokenizer of "
                    f"{at(model.directory)} has no chat template; turn it off, or name a tokenizer "
                    "that has one in 'model.tokenizer'"
                )
            self._requests = self._prompts(model)
        return self._requests

    def _value(self, found: Mapping[str, Any], example: str) -> float:
        if self._metric not in found:
            raise EvaluationError(
                f"{self._what} gives no metric '{one_line(self._metric)}' for example '{example}'; "
                f"it gives {some(found, limit=8) or 'none'}"
            )
        value: Any = found[self._metric]
        if self._metric == "perplexity" and not self._own_results and isinstance(value, float):
            # Of each example the harness gives the log-likelihood in nats.
            value = math.exp(min(-value, 700.0))
        if isinstance(value, tuple) and self._metric in _PER_UNIT:
            nats, units = cast("tuple[float, int]", value)
            per_unit = -nats / max(units, 1)
            bits = self._metric == "bits_per_byte"
            value = per_unit / math.log(2) if bits else math.exp(min(per_unit, 700.0))
        if not isinstance(value, (Real, np.bool_)):
            raise EvaluationError(
                f"{self._what}: metric '{one_line(self._metric)}' is not a number for each example "
                f"(got {one_line(cast('object', value))}); choose another metric"
            )
        number = float(cast("Any", value))
        if self._options.bounds is None or math.isnan(number):
            return number
        share = (min(max(number, self._low), self._high) - self._low) / (self._high - self._low)
        return 1.0 - share if self._falls else share

    @property
    def _own_results(self) -> bool:
        """Whether a function of the task says what its metrics are."""
        return callable(self._task.config.process_results)

    # Opening

    def _set_generation(self) -> None:
        given = self._options.generation.model_dump(exclude_none=True)
        if not given:
            return
        if not self.generates:
            raise ConfigError(f"generation: {self._what} generates nothing; leave it out")
        self._task.set_config("generation_kwargs", given, update=True)
        said = self._task.config.generation_kwargs
        if given.get("temperature") and said.get("do_sample") is False:
            self.notices += (
                "generation.temperature is passed over, because do_sample is false"
                + ("" if "do_sample" in given else " where the task says how answers are generated")
                + "; say 'do_sample: true' to draw tokens",
            )

    def _chosen_metric(self) -> str:
        known = list(cast("Mapping[str, Any]", self._task.higher_is_better()))
        chosen = self._options.metric
        if chosen is not None and known and chosen not in known:
            raise ConfigError(
                f"metric: {self._what} has no metric '{one_line(chosen)}'; it has {some(known, 12)}"
            )
        if chosen is None and not known:
            raise ConfigError(f"metric: {self._what} declares no metric; name one")
        return chosen or known[0]

    def _chosen_filter(self) -> str:
        known = self._harness.filter_names(self._task)
        chosen = self._options.filter or known[0]
        if chosen not in known:
            raise ConfigError(
                f"filter: {self._what} has no filter '{one_line(chosen)}'; it has {some(known, 12)}"
            )
        return chosen

    def _chosen_bounds(self) -> tuple[float, float, bool]:
        rises = cast("Mapping[str, Any]", self._task.higher_is_better()).get(self._metric, True)
        falls = rises is False
        given = self._options.bounds
        if given is None:
            if falls or self._metric in _PER_UNIT:
                raise ConfigError(
                    f"bounds: lower is better for metric '{one_line(self._metric)}' of "
                    f"{self._what}; say which values score 1 and 0, such as bounds: [1, 100]"
                )
            return 0.0, 1.0, False
        if len(given) != 2 or not (math.isfinite(given[1] - given[0]) and given[0] < given[1]):
            raise ConfigError(f"bounds: expected [lo, hi] with lo < hi; got {given}")
        return given[0], given[1], falls

    def _documents(self) -> tuple[list[Any], list[Any], tuple[str, ...]]:
        options = self._options
        harness = self._harness
        train = harness.documents(self._task, options.split)
        name = options.split or ("test" if self._task.has_test_docs() else "validation")
        if options.held_out_split is not None:
            if options.held_out is not None:
                raise ConfigError(
                    "'held_out' and 'held_out_split' exclude each other; give one of them"
                )
            if options.held_out_split == name:
                raise ConfigError(
                    f"held_out_split: the selection examples come from split '{name}' too; name "
                    "another, or hold out a share of it by 'held_out'"
                )
            test = harness.documents(self._task, options.held_out_split)
            ids = [f"{options.held_out_split}/{position}" for position in range(len(test))]
        else:
            n = train_size(len(train), options.held_out or 0.0)
            ids = [f"{name}/{position}" for position in range(n, len(train))]
            train, test = train[:n], train[n:]
        stored, train = train, train[: options.limit]
        test = test[: options.held_out_limit]
        if test or len(train) < len(stored):
            # All of them may be hundreds of thousands.
            rest = stored[len(train) :]
            parts = [*train, *rest[:: len(rest) // _LABELLED + 1]], train, test
            labels = [np.array(harness.targets(self._task, part), dtype=str) for part in parts]
            self.notices += class_by_class(*labels)
        if test:
            questions = [harness.questions(self._task, part) for part in (train, test)]
            self.notices += copies_told(*questions)
        if hidden := harness.unanswerable(self._task, [*train, *test]):
            self.notices += (
                f"{hidden} of {count(len(train) + len(test), 'example')} "
                f"{agreeing(hidden, 'has', 'have')} no right answer among the choices (some "
                "test splits hide it), so that no model is right there",
            )
        own = [f"{name}/{position}" for position in range(len(train))]
        return train, test, (*own, *ids[: options.held_out_limit])

    def _prompts(self, template: LanguageModel | None) -> list[list[Any]]:
        what = f"{self._what}: its prompts cannot be made"
        with failures_as(ConfigError, what), self._harness.quiet():
            return self._harness.prompts(self._task, self._docs, self._options.system, template)


def _parts(doc: object, requests: Sequence[Any]) -> list[str]:
    """What says whether a document and its prompts are the same."""
    return [_plain(doc), *(_plain([request.request_type, *request.args]) for request in requests)]


def _plain(value: object) -> str:
    # Of what JSON cannot say (a picture) the type only: its own text may name an address in memory.
    return json.dumps(value, sort_keys=True, default=lambda other: type(other).__name__)


def _texts(answered: Sequence[Sequence[Any]]) -> list[str]:
    return [
        str(request.resps[0])
        for one in answered
        for request in one
        if request.request_type == "generate_until"
    ]

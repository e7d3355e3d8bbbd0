"""The evaluator `images`: scores for pictures that are drawn from prompts."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.errors import ConfigError, EvaluationError, require_packages
from genepool.messages import count, is_text, one_line, shown, some
from genepool.models.live import Drawing, refuse_one_colour
from genepool.tasks.checks import checked_indices, content_digest, require_unique
from genepool.tasks.example_files import example_ids, read_examples
from genepool.tasks.images.options import ImagesOptions
from genepool.tasks.images.references import Read, reader
from genepool.tasks.images.scorers import Examples, Picky, likeness, open_scorer
from genepool.tasks.stored import BlockedTask, divided
from genepool.tasks.task import evaluator
from genepool.threads import available_threads

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]

_NONE: UInt8 = np.zeros((0, 0, 0, 3), dtype=np.uint8)


@evaluator("images")
class Images(BlockedTask):
    """Prompts, and how good the pictures are that a model draws from them.

    Pictures are drawn and scored in fixed blocks; the noise of each belongs to its example.
    """

    Options = ImagesOptions

    def __init__(self, options: ImagesOptions, directory: Path) -> None:
        """Read the examples, look at their real pictures and try the scorer on noise.

        Raises:
            ConfigError: examples, pictures, tower or options are of no use; or the scorer likes
                noise.
            CheckpointError: the tower cannot be loaded.
            MissingExtraError: a package that it needs is not installed.
        """
        require_packages("pictures", "the evaluator 'images'", "torch", "transformers", "PIL")
        self._options, self._batch = options, options.batch
        train, test = _examples(options, directory)
        self._examples = [*train, *test]
        key = options.id
        bare = next((e for e in self._examples if key not in e), None)
        if bare is not None and key != "id":
            raise ConfigError(
                f"id: an example has none under '{one_line(key)}'; its keys are {some(bare, 12)}"
            )
        named = [{**e, "id": e[key]} if key in e else e for e in self._examples]
        ids, digests = example_ids(named)
        require_unique(ids, options.examples)
        super().__init__(ids, len(train), "")
        self._prompts = self._texts("prompt", "no prompt", options.prompt, _is_prompt)
        self._languages = {
            name: self._texts(f"languages.{one_line(name)}", "no prompt", key, _is_prompt)
            for name, key in options.languages.items()
        }
        self._labels: tuple[str, ...] = ()
        if options.group is not None:
            self._labels = self._texts("group", "none", options.group, _is_label)
        wanted = options.score == "reference" or options.pictures is not None
        self._read: Read | None = None
        seen: tuple[str, ...] = ()
        if wanted or any(isinstance(e.get(options.picture), np.ndarray) for e in self._examples):
            self._read = reader(options.pictures, options.picture, directory)
        material = Examples(ids, self._prompts, self._examples, self._reference)
        self._scorer = open_scorer(options, directory, material)
        if self._read is not None:
            seen = self._look_at_references()
        settings = options.model_dump(include={"score", "device", "resize", "batch"})
        tower = "" if self._scorer.tower is None else self._scorer.tower.digest
        self._digest = content_digest(
            ["images 1", json.dumps(settings), str(len(train)), tower]
            + [*ids, *self._prompts, *seen, *self._labels]
            # Of the rest of an example nothing but a function knows.
            + ([] if self._scorer.function is None else [*digests])
        )
        self._picky = Picky(self._scorer, ids[: self._n], allowed=options.noise == "allow")
        self.notices = self._picky.at_opening(None if self._read is None else self._reference)
        if options.score == "prompt" and self._scorer.tower is not None:
            self.notices += self._scorer.tower.cut(self._prompts)

    @property
    def binary(self) -> bool:
        """Likeness is no yes or no."""
        return False

    @property
    def prompts(self) -> tuple[str, ...]:
        """See `Prompting`; those of languages too."""
        texts = dict.fromkeys([self._prompts, *self._languages.values()])
        return tuple(text for each in texts for text in each)

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Labelled`; empty where no group is named."""
        return self._labels[: self._n]

    def score(self, model: Any, indices: Int64, *, held_out: bool = False) -> Float32:
        """See `Task.score`.

        Raises:
            EvaluationError: the model draws no pictures, or broken ones, or the scorer fails.
        """

        def draw(rows: Sequence[int]) -> UInt8:
            # A device may have room for one block alone.
            starts = range(0, len(rows), self._batch)
            parts = [rows[start : start + self._batch] for start in starts]
            return np.concatenate([self._drawn(model, part, self._prompts) for part in parts])

        self._picky.at_first_model(model, draw)

        def block(places: list[int]) -> Float32:
            return self._scorer.score(self._drawn(model, places, self._prompts), places)

        return np.array(self._by_blocks(indices, held_out, block), dtype=np.float32)

    # What people look at

    def drawn(self, model: Any, indices: Int64, *, held_out: bool = False) -> UInt8:
        """See `Drawn`."""
        found = self._by_blocks(
            indices, held_out, lambda places: self._drawn(model, places, self._prompts)
        )
        return np.stack(found) if found else _NONE

    def captions(self, indices: Int64, *, held_out: bool = False) -> Sequence[str]:
        """See `Drawn`."""
        first, last = self._range(held_out)
        rows: list[int] = checked_indices(indices, last - first).tolist()
        return [self._prompts[first + row] for row in rows]

    def references(self, indices: Int64, *, held_out: bool = False) -> UInt8 | None:
        """See `Drawn`; of several sizes, all get the first one's."""
        if self._read is None:
            return None
        from PIL import Image

        first, last = self._range(held_out)
        rows = checked_indices(indices, last - first).tolist()
        found = [self._reference(first + row) for row in rows]
        if not found:
            return _NONE
        height, width = found[0].shape[:2]
        return np.stack(
            [
                one
                if one.shape == found[0].shape
                else np.asarray(Image.fromarray(one).resize((width, height)))
                for one in found
            ]
        )

    def measures(self, model: Any) -> Mapping[str, float]:
        """See `Measured`: how good the pictures are that are drawn from each language, and how
        alike those from two of them, drawn from the same noise, where there is a tower.

        Raises:
            EvaluationError: the model draws no pictures, or broken ones, or the scorer fails.
        """
        if not self._languages:
            return {}
        first, _ = self._range(bool(self.held_out))
        size = min(self._options.measured, len(self.held_out or self.samples))
        scores: dict[str, list[Float32]] = {}
        for places in self._blocks_of(np.arange(size), bool(self.held_out)):
            kept = sum(place < first + size for place in places)
            features: dict[str, Float32] = {}
            for name, prompts in self._languages.items():
                pictures = self._drawn(model, places, prompts)
                scores.setdefault(name, []).append(self._scorer.score(pictures, places)[:kept])
                if self._scorer.tower is not None:
                    features[name] = self._scorer.seen(pictures, places)
            for a, b in itertools.combinations(features, 2):
                alike = likeness(features[a], features[b])[:kept]
                scores.setdefault(f"{a}/{b} consistency", []).append(alike)
        return {name: float(np.concatenate(found).mean()) for name, found in scores.items()}

    # Drawing

    def _drawn(self, model: Any, places: Sequence[int], prompts: Sequence[str]) -> UInt8:
        if not isinstance(model, Drawing):
            raise EvaluationError(
                "the evaluator 'images' needs a model that draws pictures, as a seed directory "
                f"with a model_index.json gives one; got {type(model).__name__}. An image "
                "generator in a single file is converted to such a directory first ('model: {kind: "
                "diffusers}' says how)"
            )
        ids = [self._ids[place] for place in places]
        found: Any = model.pictures([prompts[place] for place in places], ids)
        if getattr(found, "dtype", None) != np.uint8 or getattr(found, "ndim", 0) != 4:
            raise EvaluationError(
                f"expected pictures, uint8[n, height, width, 3]; got {shown(found)}"
            )
        pictures = cast("UInt8", found)
        if pictures.shape[0] != len(ids) or pictures.shape[3] != 3 or 0 in pictures.shape:
            raise EvaluationError(
                f"expected {count(len(ids), 'picture')} of shape [height, width, 3]; got an array "
                f"of shape {pictures.shape}"
            )
        refuse_one_colour(ids, pictures)
        return pictures

    # Opening

    def _texts(
        self, option: str, lack: str, key: str, fits: Callable[[Any], bool]
    ) -> tuple[str, ...]:
        """What stands under a key as text, one for each example, if it fits."""
        for name, example in zip(self._ids, self._examples, strict=True):
            if not fits(value := example.get(key)):
                raise ConfigError(
                    f"{option}: example '{one_line(name)}' has {lack} under '{one_line(key)}': "
                    f"got {shown(value)}; its keys are {some(example, 12)}"
                )
        return tuple(str(example[key]) for example in self._examples)

    def _reference(self, place: int) -> UInt8:
        if self._read is None:
            raise ConfigError("there are no reference pictures; name them in 'pictures'")
        return self._read(self._examples[place], f"example '{one_line(self._ids[place])}'")

    def _look_at_references(self) -> tuple[str, ...]:
        """Digests of the real pictures; each is read now, so that none is found missing later."""
        tower = self._scorer.tower if self._scorer.kind == "reference" else None

        def look(place: int) -> str:
            picture = self._reference(place)
            if tower is not None and (reason := tower.refuses(picture.shape)):
                raise ConfigError(f"the picture of example '{one_line(self._ids[place])}' {reason}")
            return content_digest([picture])

        with ThreadPoolExecutor(available_threads()) as pool:
            return tuple(pool.map(look, range(len(self._examples))))


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_text(value)


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int)) and is_text(str(value))


def _examples(
    options: ImagesOptions, directory: Path
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Selection examples and held-out ones."""
    read = partial(_mappings, options=options, directory=directory)
    stored = read(options.examples)
    train, test = divided(stored, options.held_out, options.held_out_examples, read)
    return train[: options.limit], test[: options.held_out_limit]


def _mappings(source: str, options: ImagesOptions, directory: Path) -> list[Mapping[str, Any]]:
    found = read_examples(source, directory)
    for position, example in enumerate(found):
        if not isinstance(example, Mapping):
            raise ConfigError(
                f"{one_line(source)}: example {position} (counting from 0) is no mapping with a "
                f"prompt; got {shown(example)}"
            )
    kept = [e for e in found if all(e.get(k) in v for k, v in options.filter.items())]
    if not kept:
        raise ConfigError(
            f"{one_line(source)}: none of its {count(len(found), 'example')} is let through by "
            f"'filter' ({shown(options.filter)})"
        )
    if options.shuffle is not None:
        start = str(options.shuffle)
        kept.sort(key=lambda example: _place(start, example.get(options.id), example))
    return kept


def _place(start: str, name: object, example: Mapping[str, Any]) -> bytes:
    own = example_ids([example])[1][0] if name is None else str(name)
    return hashlib.blake2b(f"{start}:{own}".encode("utf-8", "surrogatepass")).digest()

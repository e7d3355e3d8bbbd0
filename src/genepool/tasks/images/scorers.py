"""How good pictures are: as a vision tower sees them, or by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.family import fetched, locate
from genepool.errors import ConfigError, EvaluationError, GenepoolError
from genepool.messages import at, blamed, count, one_line, pass_on
from genepool.models.user_code import load_function
from genepool.tasks.checks import checked_scores
from genepool.tasks.example_files import own_copy
from genepool.tasks.images.options import ImagesOptions

if TYPE_CHECKING:
    from genepool.tasks.images.tower import Tower

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# Examples on which noise is tried.
_TRIED = 8


@dataclass(frozen=True, eq=False)
class Examples:
    """What a scorer is given of all examples, the selection ones first.

    Attributes:
        ids: of the X examples.
        prompts: theirs.
        content: as the user gave them.
        reference: the real picture of an example, uint8[H, W, 3], by its place.
    """

    ids: Sequence[str]
    prompts: Sequence[str]
    content: Sequence[Mapping[str, Any]]
    reference: Callable[[int], UInt8]


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores pictures of examples.

    Attributes:
        kind: "reference", "prompt", or the user's `module:function`.
        examples: all of them.
        tower: None where a function needs none.
        function: the user's, if there is one.
    """

    kind: str
    examples: Examples
    tower: Tower | None
    function: Callable[..., object] | None = None
    _known: dict[int, Float32] = field(default_factory=dict[int, Float32], repr=False)

    def score(self, pictures: UInt8, places: Sequence[int]) -> Float32:
        """Score the pictures of a block.

        Args:
            pictures: uint8[n, H, W, 3].
            places: of their examples.

        Returns:
            float32[n] in [0, 1].

        Raises:
            EvaluationError: tower or function fails, or the tower refuses their size.
        """
        if self.function is not None:
            return self._by_function(self.function, pictures, places)
        return likeness(self.seen(pictures, places), self._wanted(places))

    def seen(self, pictures: UInt8, places: Sequence[int]) -> Float32:
        """float32[n, features] of pictures; see `Tower.features`."""
        if self.tower is None:
            raise EvaluationError("there is no tower that could see pictures")
        ids = [self.examples.ids[place] for place in places]
        if reason := self.tower.refuses(pictures.shape[1:]):
            raise EvaluationError(f"the picture for example '{one_line(ids[0])}' {reason}")
        return self.tower.features([*pictures], ids)

    def _wanted(self, places: Sequence[int]) -> Float32:
        """The features that pictures should have; computed once for each block."""
        new = [place for place in places if place not in self._known]
        if new and self.tower is not None:
            ids = [self.examples.ids[place] for place in new]
            try:
                if self.kind == "prompt":
                    prompts = [self.examples.prompts[place] for place in new]
                    found = self.tower.text_features(prompts, ids)
                else:
                    found = self.tower.features([self.examples.reference(p) for p in new], ids)
            except ConfigError as error:
                raise EvaluationError(str(error)) from error
            self._known.update(zip(new, found, strict=True))
        return np.stack([self._known[place] for place in places])

    def _by_function(
        self, function: Callable[..., object], pictures: UInt8, places: Sequence[int]
    ) -> Float32:
        what = f"function '{self.kind}'"
        ids = [self.examples.ids[place] for place in places]
        try:
            raw = function(pictures, [own_copy(self.examples.content[place]) for place in places])
        except GenepoolError as error:
            raise EvaluationError(f"{what}: {one_line(error)}") from error
        except BaseException as error:
            pass_on(error)
            raise EvaluationError(f"{what} failed: {blamed(error, function)}") from error
        try:
            return checked_scores(raw, len(places), ids=ids)
        except EvaluationError as error:
            raise EvaluationError(f"{what}: {error}") from error


def likeness(a: Float32, b: Float32) -> Float32:
    """Cosines of features row by row, float32[n] in [0, 1]: what points away from each other has 0.

    The paper says "normalised to [0, 1]" and not how.
    """
    cosines = np.einsum("ij,ij->i", a.astype(np.float64), b.astype(np.float64))
    return cosines.clip(0, 1).astype(np.float32)


def open_scorer(options: ImagesOptions, directory: Path, examples: Examples) -> Scorer:
    """The scorer that options name.

    Raises:
        ConfigError: there is no such tower or function, or the tower is of no use for it.
        CheckpointError: the tower cannot be loaded.
    """
    function = None
    if options.score not in ("reference", "prompt"):
        function = load_function(options.score, directory)
    elif options.tower is None:
        raise ConfigError(
            f"score: '{options.score}' needs a 'tower', a model that sees pictures; or name a "
            "function: 'module:function'"
        )
    if options.tower is None:
        return Scorer(options.score, examples, None, function)
    from genepool.tasks.images.tower import Tower

    place = fetched(locate(options.tower, directory))
    if not (place / "config.json").is_file():
        raise ConfigError(f"tower: {at(place)} is no directory of a model (it has no config.json)")
    tower = Tower(place, options.device, resize=options.resize)
    if options.score == "prompt" and (reason := tower.why_no_prompts):
        raise ConfigError(
            f"score: 'prompt' needs a tower that reads text too, such as CLIP or SigLIP; {reason}"
        )
    return Scorer(options.score, examples, tower, function)


class Picky:
    """Sees to it that a scorer does not like noise: what it likes is what is bred."""

    def __init__(self, scorer: Scorer, ids: Sequence[str], *, allowed: bool) -> None:
        """Prepare.

        Args:
            scorer: to be tried.
            ids: of the selection examples.
            allowed: whether it may like noise.
        """
        self._scorer = scorer
        self._places = list(range(min(_TRIED, len(ids))))
        self._allowed = allowed
        self._tried = allowed

    def at_opening(self, reference: Callable[[int], UInt8] | None) -> tuple[str, ...]:
        """Try noise, pictures of one colour and real ones; a line that says what they score.

        Raises:
            ConfigError: the scorer likes noise.
        """
        if reference is None and self._scorer.tower is None:
            # Which size pictures have is not known before one is drawn.
            return ()
        real = None if reference is None else [reference(place) for place in self._places]
        tower = self._scorer.tower
        shape = real[0].shape if real else (*tower.side, 3) if tower else (64, 64, 3)
        try:
            found = self._blanks(shape[:2])
            if real is not None:
                each = [self._scorer.score(p[None], [i])[0] for i, p in enumerate(real)]
                found["the real pictures"] = float(np.mean(each))
        except EvaluationError as error:
            raise ConfigError(f"the scorer was tried on noise and real pictures: {error}") from None
        if real is not None:
            self._require(found, "the real pictures", ConfigError)
        said = ", ".join(f"{what} {score:.3f}" for what, score in found.items())
        return (f"mean scores of {count(len(self._places), 'example')}: {said}",)

    def at_first_model(self, model: Any, draw: Callable[[Sequence[int]], UInt8]) -> None:
        """Compare noise with what the seeds draw, when the first model is scored.

        Raises:
            EvaluationError: the scorer likes noise.
        """
        of_seeds = None if self._tried else getattr(model, "of_seeds", None)
        self._tried = True
        if of_seeds is None:
            return
        shapes: list[tuple[int, ...]] = []

        def ask() -> float:
            try:
                pictures = draw(self._places)
                shapes.append(pictures.shape[1:3])
                return float(self._scorer.score(pictures, self._places).mean())
            except EvaluationError:
                # It is told when that seed is scored.
                return 0.0

        best = max(of_seeds(ask), default=0.0)
        if shapes:
            found = {**self._blanks(shapes[0]), "the best seed's pictures": best}
            self._require(found, "the best seed's pictures", EvaluationError)

    def _blanks(self, size: Sequence[int]) -> dict[str, float]:
        """Mean scores of noise and of pictures of one colour."""
        shape = (len(self._places), int(size[0]), int(size[1]), 3)
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, shape, dtype=np.uint8)
        given = {
            "noise": noise,
            "grey": np.full(shape, 128, dtype=np.uint8),
            "white": np.full(shape, 255, dtype=np.uint8),
        }
        return {
            what: float(self._scorer.score(pictures, self._places).mean())
            for what, pictures in given.items()
        }

    def _require(self, found: Mapping[str, float], good: str, kind: type[GenepoolError]) -> None:
        if self._allowed:
            return
        for what, score in found.items():
            if what != good and score >= found[good]:
                raise kind(
                    f"the scorer likes {what}: it scores {score:.3f} on average and {good} "
                    f"{found[good]:.3f}, so that selection would lead there; use another scorer, "
                    "or say 'noise: allow'"
                )

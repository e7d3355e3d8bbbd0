"""What pictures and prompts are to a vision tower: features, whose cosine is a score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.errors import ConfigError, EvaluationError
from genepool.messages import agreeing, at, count, failures_as, one_line
from genepool.models.transformers import load_tower, quiet
from genepool.tasks.checks import content_digest

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# Files that say, beside weights, what a tower sees in a picture or reads in a prompt.
_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt",
    "spiece.model", "tokenizer.model",
)  # fmt: skip


class Tower:
    """A vision tower of transformers, with its text tower if it has one; float32.

    Pictures are prepared as its preprocessor_config.json says. Where there is none, their pixels
    are laid from 0..255 onto -1..1, and they must have the tower's size.
    """

    def __init__(self, directory: Path, device: str, *, resize: bool) -> None:
        """Load it.

        Args:
            directory: with config.json and safetensors.
            device: where it runs, as torch writes it.
            resize: whether pictures of another size are made to fit, where nothing says how.

        Raises:
            ConfigError: it sees no pictures, or cannot be put on the device.
            CheckpointError: it cannot be loaded.
        """
        self._directory = directory
        self._resize = resize
        model, self._processor, self._tokenizer = load_tower(directory)
        self._see: Any = getattr(model, "get_image_features", None)
        self._read: Any = getattr(model, "get_text_features", None)
        if self._see is None:
            if model.main_input_name != "pixel_values":
                raise ConfigError(
                    f"tower: {at(directory)} is a '{one_line(model.config.model_type)}', which "
                    "sees no pictures; expected CLIP, SigLIP, DINOv2 or the like"
                )
            self._see = model
        what = f"device: the tower cannot be put on '{one_line(device)}'"
        with failures_as(ConfigError, what):
            self._device = torch.device(device)
            model.to(self._device)
        self._config: Any = model.config
        found = open_checkpoint(directory).digest()
        files = [(directory / name) for name in _FILES if (directory / name).is_file()]
        self.digest = content_digest([found, *(f.read_bytes() for f in files)])

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of the pictures that it sees, in pixels."""
        vision = getattr(self._config, "vision_config", self._config)
        size: Any = getattr(vision, "image_size", 224)
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def why_no_prompts(self) -> str | None:
        """Why it cannot read prompts; None if it can."""
        if self._read is None:
            return f"{at(self._directory)} has no text tower"
        if self._tokenizer is None:
            return f"{at(self._directory)} holds no tokenizer"
        return None

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Why it takes no pictures of this shape, (height, width, 3); None if it does."""
        if self._processor is not None or self._resize or shape[:2] == self.side:
            return None
        height, width = self.side
        return (
            f"is {shape[1]}x{shape[0]} pixels, and the tower {at(self._directory)} sees "
            f"{width}x{height} and has no preprocessor_config.json that says how a picture is "
            "made to fit; 'resize: true' does so"
        )

    def features(self, pictures: Sequence[UInt8], ids: Sequence[str]) -> Float32:
        """What it sees.

        Args:
            pictures: n of them, uint8[H, W, 3], of one size or of several.
            ids: of the examples, for messages.

        Returns:
            float32[n, features], of length 1 each.

        Raises:
            EvaluationError: the tower fails, or its features hold NaN.
        """
        return self._asked(lambda: self._see(pixel_values=self._pixels(pictures)), "picture", ids)

    def text_features(self, prompts: Sequence[str], ids: Sequence[str]) -> Float32:
        """What it reads, as `features`."""

        def read() -> Any:
            words = self._tokenizer(
                list(prompts),
                padding="max_length",
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            known = {"input_ids", "attention_mask"}
            return self._read(**{k: v.to(self._device) for k, v in words.items() if k in known})

        return self._asked(read, "prompt", ids)

    def cut(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """A line that says how many prompts it does not read to their end, if there are any."""
        with quiet():
            sizes = [len(ids) for ids in self._tokenizer(list(prompts))["input_ids"]]
        long = sum(size > self._longest for size in sizes)
        if not long:
            return ()
        return (
            f"{long} of {count(len(prompts), 'prompt')} {agreeing(long, 'has', 'have')} more "
            f"tokens than the {self._longest} that the tower reads, and what follows these is not "
            "scored",
        )

    @property
    def _longest(self) -> int:
        text = getattr(self._config, "text_config", self._config)
        return int(text.max_position_embeddings)

    def _asked(self, ask: Any, what: str, ids: Sequence[str]) -> Float32:
        tower = f"the tower {at(self._directory)}"
        with quiet(), torch.inference_mode(), failures_as(EvaluationError, tower):
            found = _vectors(ask()).to("cpu", torch.float32).reshape(len(ids), -1).numpy()
        for name, one in zip(ids, found, strict=True):
            if not np.isfinite(one).all():
                raise EvaluationError(
                    f"{tower}: its features of the {what} of example '{one_line(name)}' hold NaN "
                    "or infinity"
                )
        length = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
        return (found / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)

    def _pixels(self, pictures: Sequence[UInt8]) -> torch.Tensor:
        if self._processor is not None:
            made = self._processor(images=list(pictures), return_tensors="pt")
            return made["pixel_values"].to(self._device, torch.float32)
        fitted = [self._fitted(picture) for picture in pictures]
        return torch.stack(fitted).to(self._device) / 127.5 - 1

    def _fitted(self, picture: UInt8) -> torch.Tensor:
        given = torch.from_numpy(np.array(picture))  # pyright: ignore
        pixels = given.permute(2, 0, 1).to(torch.float32)
        if tuple(picture.shape[:2]) == self.side:
            return pixels
        resized = torch.nn.functional.interpolate(
            pixels[None], size=self.side, mode="bicubic", antialias=True
        )
        return resized[0].clamp(0, 255)


def _vectors(out: Any) -> torch.Tensor:
    """The features in what a tower returns."""
    if isinstance(out, torch.Tensor):
        return out
    for name in ("image_embeds", "text_embeds", "pooler_output"):
        found = getattr(out, name, None)
        if isinstance(found, torch.Tensor):
            return found
    return cast("torch.Tensor", out.last_hidden_state[:, 0])

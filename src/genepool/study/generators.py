"""Tiny image generators, trained from nothing: the seeds of the pictures demo.

Latent diffusion in small, all of it as diffusers writes it: a VAE that keeps the size of a picture,
a text encoder that reads words, and a U-Net that draws 8x8 digits. Everything runs on one thread,
so that the number of cores does not change a bit. Imported late; beside live models, only this file
imports diffusers and transformers, because only it trains any.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn import functional
from transformers.convert_slow_tokenizer import bytes_to_unicode

from genepool.checkpoints.model_files.built import without_remarks
from genepool.threads import Progress

# Neither's annotations are complete enough to check against.
_DF = cast("Any", importlib.import_module("diffusers"))
_TF = cast("Any", transformers)

# Width of what the text encoder says of a token, tokens of a prompt, channels of a latent picture.
_WIDTH, _TOKENS, _LATENT = 32, 8, 4
_BATCH = 64
# Share of prompts that are left out in training, so that there is something to be guided away from.
_UNSAID = 0.1

Loss = Callable[[torch.Generator], torch.Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Material:
    """What there is to learn.

    Attributes:
        pictures: float32[n, 8, 8], from 0 (black) to 1 (white).
        digits: int64[n], in 0..9.
        words: language -> its words for 0..9; the first language is what the base reads.
    """

    pictures: NDArray[np.float32]
    digits: NDArray[np.int64]
    words: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Training:
    """How one model comes from another, or from nothing.

    Attributes:
        start: name of the model that is trained on; "" trains U-Net and text encoder from nothing.
        language: of the prompts. Where it is new to the text encoder, that learns its words and
            nothing else: what it says of those that it knows stays as it was.
        digits: that are drawn.
        steps: batches of 64.
    """

    start: str
    language: str
    digits: Sequence[int]
    steps: int


def train_pipelines(
    directory: Path,
    material: Material,
    plan: Mapping[str, Training],
    keep: Sequence[str],
    seed: int,
    advance: Progress,
) -> None:
    """Train models, one after the other, and save some of them as pipelines.

    Args:
        directory: exists; a directory of each kept model's name is written below it.
        material: what there is to learn.
        plan: name -> how it is trained; each comes after the one that it starts from.
        keep: names of those that are saved.
        seed: the random seed.
        advance: called with the fraction of all steps that is done.
    """
    with _alone():
        trainer = _Trainer(material, seed, sum(each.steps for each in plan.values()), advance)
        for name, training in plan.items():
            trainer.train(name, training)
        for name in keep:
            trainer.save(name, directory)


@dataclass(frozen=True, eq=False, slots=True)
class _Model:
    unet: Any
    reader: Any
    languages: tuple[str, ...]


class _Trainer:
    """Training, one model after the other; all of them share VAE, tokenizer and scheduler."""

    def __init__(self, material: Material, seed: int, steps: int, advance: Progress) -> None:
        # A VAE, which has a third of a U-Net's work in a step, is not long in coming.
        redraw = max(1, steps // 4)
        self._material, self._seed, self._steps = material, seed, steps + redraw
        self._advance = advance
        self._stage = self._done = 0
        self._models: dict[str, _Model] = {}
        self._digits = torch.tensor(material.digits)
        self._tokenizer = tokenizer([word for words in material.words.values() for word in words])
        self._scheduler = _DF.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            clip_sample=False,
            steps_offset=1,
        )
        self._vae = self._made(_vae)
        grey = torch.tensor(material.pictures)[:, None].expand(-1, 3, -1, -1) * 2 - 1
        self._fit(self._vae.parameters(), self._redrawn(grey), redraw, 3e-3)
        self._vae.eval()
        with torch.no_grad():
            latents: torch.Tensor = self._vae.encode(grey).latent_dist.mean
        scale = 1 / float(latents.std())
        self._vae.register_to_config(scaling_factor=scale)
        self._latents = latents * scale

    def train(self, name: str, training: Training) -> None:
        """See `Training`."""
        language = training.language
        if training.start:
            start = self._models[training.start]
            unet, reader = copy.deepcopy(start.unet), copy.deepcopy(start.reader)
            known = start.languages
            reader.requires_grad_(False)
            parameters = [*unet.parameters()]
            if language not in known:
                parameters.append(self._new_words(reader, language, known))
        else:
            unet, reader = self._made(_unet), self._made(lambda: _text_encoder(self._tokenizer))
            known = ()
            parameters = [*unet.parameters(), *reader.parameters()]
        loss = self._drawn(unet, reader, language, training.digits)
        self._fit(parameters, loss, training.steps, 2e-3)
        self._models[name] = _Model(unet, reader, (*known, language))

    def save(self, name: str, directory: Path) -> None:
        """As a pipeline of diffusers, in a directory of its name."""
        model = self._models[name]
        pipeline = _DF.StableDiffusionPipeline(
            vae=self._vae,
            text_encoder=model.reader,
            tokenizer=self._tokenizer,
            unet=model.unet,
            scheduler=self._scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(str(directory / name))

    def _new_words(self, reader: Any, language: str, known: Sequence[str]) -> torch.nn.Parameter:
        """The embeddings of a text encoder, of which only those of a new language learn."""
        words: torch.nn.Parameter = reader.get_input_embeddings().weight.requires_grad_(True)
        new = torch.zeros(len(words), 1)
        new[self._read(self._material.words[language])] = 1
        old = [word for other in known for word in self._material.words[other]]
        new[self._read(["", *old])] = 0

        def of_new_ones(slope: torch.Tensor) -> torch.Tensor:
            return slope * new

        words.register_hook(of_new_ones)  # pyright: ignore[reportUnknownMemberType]
        return words

    def _made(self, make: Callable[[], Any]) -> Any:
        """A model with weights of its own random numbers."""
        self._stage += 1
        torch.manual_seed(self._seed * 1000 + self._stage)  # pyright: ignore[reportUnknownMemberType]
        return make()

    def _fit(
        self,
        parameters: Iterable[torch.nn.Parameter],
        loss: Loss,
        steps: int,
        rate: float,
    ) -> None:
        """Adam, warmed up and then cooled down to a twentieth along half a cosine."""
        self._stage += 1
        chance = torch.Generator().manual_seed(self._seed * 1000 + self._stage)
        chosen = [*parameters]
        optimizer = torch.optim.Adam(chosen, foreach=True)
        for step in range(steps):
            self._advance(self._done / self._steps)
            cooled = 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20) * cooled
            optimizer.zero_grad()
            loss(chance).backward()  # pyright: ignore[reportUnknownMemberType]
            torch.nn.utils.clip_grad_norm_(chosen, 1.0)
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            self._done += 1

    def _redrawn(self, pictures: torch.Tensor) -> Loss:
        """What a VAE should keep of pictures, float32[n, 3, 8, 8] in -1..1."""

        def loss(chance: torch.Generator) -> torch.Tensor:
            some = pictures[torch.randint(len(pictures), (_BATCH,), generator=chance)]
            found = self._vae.encode(some).latent_dist
            noise = torch.randn(found.mean.shape, generator=chance)
            redrawn = self._vae.decode(found.mean + found.std * noise).sample
            return functional.mse_loss(redrawn, some) + 1e-3 * found.kl().mean() / 64

        return loss

    def _drawn(self, unet: Any, reader: Any, language: str, digits: Sequence[int]) -> Loss:
        """How far a U-Net is from the velocity (Salimans, Ho 2022) of digits with their prompts."""
        wanted = torch.isin(self._digits, torch.tensor([*digits]))
        rows = torch.nonzero(wanted)[:, 0]
        prompts = self._read(self._material.words[language])
        unsaid = self._read([""])[0]

        def loss(chance: torch.Generator) -> torch.Tensor:
            mine = rows[torch.randint(len(rows), (_BATCH,), generator=chance)]
            clean = self._latents[mine]
            silent = torch.rand(_BATCH, generator=chance) < _UNSAID
            said = torch.where(silent[:, None], unsaid, prompts[self._digits[mine]])
            times = torch.randint(1000, (_BATCH,), generator=chance)
            noise = torch.randn(clean.shape, generator=chance)
            noisy = self._scheduler.add_noise(clean, noise, times)
            found = unet(noisy, times, reader(said).last_hidden_state).sample
            return functional.mse_loss(found, self._scheduler.get_velocity(clean, noise, times))

        return loss

    def _read(self, prompts: Sequence[str]) -> torch.Tensor:
        """int64[n, tokens]."""
        padded = self._tokenizer(list(prompts), padding="max_length", max_length=_TOKENS)
        return torch.tensor(padded.input_ids)


@contextlib.contextmanager
def one_thread() -> Generator[None, None, None]:
    """Torch on one thread. So small tensors gain little by more, and lose much where cores are busy
    with something else: threads of OpenMP spin while they wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _alone() -> Generator[None, None, None]:
    """One thread, no remarks or progress bars of the libraries; torch's random numbers stay."""
    chance = cast("Any", torch.random)
    with without_remarks(_DF, _TF), one_thread(), chance.fork_rng(devices=[]):
        yield


def tokenizer(words: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer as CLIP's, to which each of some words is one token."""
    letters = bytes_to_unicode()
    tokens = [*letters.values(), *(f"{letter}</w>" for letter in letters.values())]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        whole = parts[0]
        for part in parts[1:]:
            merges[whole, part] = None
            whole += part
            tokens.append(whole)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return _TF.CLIPTokenizer(vocab=vocabulary, merges=[*merges], model_max_length=_TOKENS)


def _vae() -> Any:
    return _DF.AutoencoderKL(
        latent_channels=_LATENT,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(16,),
        norm_num_groups=8,
        sample_size=8,
        mid_block_add_attention=False,
    )


def _text_encoder(tokenizer: Any) -> Any:
    config = _TF.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=64,
        projection_dim=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _TF.CLIPTextModel(config)


def _unet() -> Any:
    return _DF.UNet2DConditionModel(
        sample_size=8,
        in_channels=_LATENT,
        out_channels=_LATENT,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )

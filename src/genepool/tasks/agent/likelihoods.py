"""How likely actions are to a language model of transformers, as what follows conversations."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genepool.models.language import LanguageModel
from genepool.tasks.agent.decoding import laid

# Tokens that are read at once, with what is kept of those before them, at most; and tokens of
# actions, of which there are logits.
_READ, _SAID = 16_384, 1024
# Bytes of what was read that are kept for what is read next, at most.
_KEPT = 2 * 1024**3
# Layers of a model's state for which it does not matter what stands where the mask is 0, and from
# which several texts can go on. (Recurrent ones may pass over their state for several tokens.)
_PLAIN = {"DynamicLayer", "DynamicSlidingWindowLayer"}


class Reader:
    """Ranks what may follow conversations that grow; nothing is read twice.

    It is for one batch of episodes: what it keeps is of the model's weights as they are.
    """

    def __init__(self, value: LanguageModel) -> None:
        """`value`: the model."""
        self._model: Any = value.model
        self._kept: list[_Read] = []
        self._turn = _turn(value.model.config.get_text_config())

    def likelihoods(
        self, prompts: Sequence[list[int]], ends: Sequence[Sequence[list[int]]]
    ) -> list[list[float]]:
        """The mean log-likelihood of the tokens of each ending after its prompt.

        Prompts go on from those of the last call that begin as they do. Others are read together,
        padded on the left; and all endings go on from there, in groups that depend on nothing but
        what has been asked here. Models whose state after a prompt cannot be padded (recurrent
        ones), or which do not take positions, read each prompt by itself, from its beginning.

        Args:
            prompts: token ids, at least one each.
            ends: for each prompt, token ids of its endings, at least one each.
        """
        longest = [len(p) + max(map(len, rows)) for p, rows in zip(prompts, ends, strict=True)]
        alone = max(longest, default=0) > self._turn
        found: dict[int, list[float]] = {}
        kept, self._kept = [] if alone else self._kept, []
        begun = _begun(kept, prompts)
        for known in kept:
            more = {at: len(prompts[at]) - n for at, (read, _, n) in begun.items() if read is known}
            places = sorted(more, key=lambda at: more[at])
            while places:
                # Much would be padded where one has read a page, and the others a line.
                alike = sum(more[at] <= 2 * more[places[0]] for at in places)
                group = places[: _rows(alike, [len(prompts[at]) for at in places], _READ)]
                places = places[len(group) :]
                starts = [(row, length) for _, row, length in (begun[at] for at in group)]
                read = _read_on(self._model, known, starts, [prompts[at] for at in group])
                found |= self._answered(read, group, ends)
        order = [at for at in range(len(prompts)) if at not in begun]
        order.sort(key=lambda at: len(prompts[at]))
        together = 1  # The first shows what state the model keeps.
        while order:
            group = order[: _rows(together, [len(prompts[at]) for at in order], _READ)]
            order = order[len(group) :]
            read = _read(self._model, [prompts[at] for at in group], whole=alone)
            found |= self._answered(read, group, ends)
            together = len(order) if read.padded else 1
        return [
            [total / len(row) for total, row in zip(found[at], ends[at], strict=True)]
            for at in range(len(prompts))
        ]

    def _answered(
        self, read: _Read, group: Sequence[int], ends: Sequence[Sequence[list[int]]]
    ) -> dict[int, list[float]]:
        """Place of each prompt of a group -> sums for its endings. What was read may be kept."""
        totals = _go_on(self._model, read, [ends[at] for at in group])
        if read.grows and sum(one.size for one in [*self._kept, read]) <= _KEPT:
            self._kept.append(read)
        return dict(zip(group, totals, strict=True))


@dataclass(frozen=True)
class _Read:
    """Prompts that were read together.

    Attributes:
        prompts: token ids.
        first: float64[prompts, vocabulary], log-likelihoods of the next token.
        cache: the model's state after them, padded on the left, which is not changed; None if it
            cannot go on in several ways.
        padded: whether prompts of several lengths may be read together.
        masked: whether the model takes a mask of which token sees which.
    """

    prompts: list[list[int]]
    first: torch.Tensor
    cache: Any
    padded: bool
    masked: bool

    @property
    def length(self) -> int:
        """Tokens of the longest one."""
        return max(map(len, self.prompts))

    @property
    def grows(self) -> bool:
        """Whether each may go on with a text of its own: the state has all tokens."""
        layers = self.cache.layers if self.padded else ()
        return {type(layer).__name__ for layer in layers} == {"DynamicLayer"}

    @property
    def size(self) -> int:
        """Bytes of the state."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in _filled(self.cache))


def _begun(
    kept: Sequence[_Read], prompts: Sequence[list[int]]
) -> dict[int, tuple[_Read, int, int]]:
    """Place of each prompt that begins as one does that was read -> that one, as its read and row,
    and how many tokens they have in common: of all the most, and one less than the prompt has."""
    found: dict[int, tuple[_Read, int, int]] = {}
    rows = [(read, row, np.array(ids)) for read in kept for row, ids in enumerate(read.prompts)]
    for at, prompt in enumerate(prompts):
        ids = np.array(prompt)
        for read, row, known in rows:
            most = min(len(known), len(ids) - 1)
            differ = np.flatnonzero(known[:most] != ids[:most])
            common = int(differ[0]) if differ.size else most
            if common > (found[at][2] if at in found else 0):
                found[at] = read, row, common
    return found


def _turn(config: Any) -> float:
    """Tokens from which on a model computes the positions of all tokens in another way, those it
    has read as well (`longrope`, of Phi-3 and MiniCPM)."""
    given: Any = getattr(config, "rope_parameters", None) or {}
    # Of all layers, or of each kind of layers.
    kinds: list[dict[str, Any]] = [d for d in (given, *given.values()) if isinstance(d, dict)]
    long = [one for one in kinds if one.get("rope_type") == "longrope"]
    turns: list[float] = [one["original_max_position_embeddings"] for one in long]
    return min(turns, default=math.inf)


def _read(model: Any, prompts: list[list[int]], *, whole: bool) -> _Read:
    """Read prompts; several of them are padded on the left.

    Args:
        model: of transformers.
        prompts: token ids.
        whole: nothing goes on from there.
    """
    ids, mask = laid(prompts, max(map(len, prompts)), left=True)
    given = {} if len(prompts) == 1 else {"attention_mask": mask, "position_ids": _positions(mask)}
    read = _asked(model, ids, 1, use_cache=True, **given)
    cache = getattr(read, "past_key_values", None)
    plain = not whole and _plain(cache, ids.shape[1])
    padded = plain and "position_ids" in inspect.signature(model.forward).parameters
    first = torch.log_softmax(read.logits[:, -1].double(), dim=-1)
    return _Read(prompts, first, cache if plain else None, padded, _takes_masks(model))


def _takes_masks(model: Any) -> bool:
    """Whether a model hands a mask of which token sees which to its attention as it is: rotary ones
    do whose layers all take what transformers' function makes of a mask."""
    decoder = model.get_decoder()
    config: Any = model.config.get_text_config()
    others = ("alibi", "sliding_window", "attention_chunk_size")
    return (
        "create_causal_mask" in vars(sys.modules[type(decoder).__module__])
        and getattr(decoder, "rotary_emb", None) is not None
        and not any(getattr(config, name, None) for name in others)
        and config._attn_implementation in ("eager", "sdpa")
    )


def _read_on(
    model: Any, known: _Read, starts: Sequence[tuple[int, int]], prompts: list[list[int]]
) -> _Read:
    """Read what prompts have more than what was read before.

    Args:
        model: of transformers.
        known: what was read; it `grows`.
        starts: for each prompt, which of `known` it begins as, and with how many tokens.
        prompts: token ids, at least one more each.
    """
    rows, lengths = [row for row, _ in starts], [length for _, length in starts]
    more = [prompt[length:] for prompt, length in zip(prompts, lengths, strict=True)]
    longest, most = max(lengths), max(map(len, more))
    least = min(map(len, more))
    # What is padded stands behind: no token that counts has it before itself.
    ids, behind = laid(more, most, left=False)
    _, before = laid([known.prompts[row][:n] for row, n in starts], longest, left=True)
    mask = torch.cat([before, behind], dim=1)
    pads = [known.length - len(known.prompts[row]) for row in rows]
    stops = [pad + length for pad, length in zip(pads, lengths, strict=True)]
    read = _asked(
        model,
        ids,
        most - least + 1,
        use_cache=True,
        attention_mask=mask,
        position_ids=_positions(mask)[:, -most:],
        past_key_values=_moved(known.cache, rows, stops, longest),
    )
    ends = torch.tensor([len(row) for row in more], device=read.logits.device)
    last = read.logits[torch.arange(len(more)), ends - 1 - most + read.logits.shape[1]]
    cache = _moved(
        read.past_key_values,
        range(len(more)),
        [longest + len(row) for row in more],
        max(map(len, prompts)),
    )
    first = torch.log_softmax(last.double(), dim=-1)
    return _Read(prompts, first, cache, known.padded, known.masked)


def _moved(cache: Any, rows: Sequence[int], stops: Sequence[int], length: int) -> Any:
    """A model's state with these rows, each up to where it stops, padded on the left."""
    moved = copy.copy(cache)
    # Its layers put new tensors in the place of theirs, and do not write into them.
    moved.layers = [copy.copy(layer) for layer in cache.layers]
    chosen = torch.tensor(rows)[:, None]
    places = (torch.tensor(stops)[:, None] - length + torch.arange(length)).clamp(min=0)
    for layer in _filled(moved):
        at = chosen.to(layer.keys.device), slice(None), places.to(layer.keys.device)
        layer.keys, layer.values = layer.keys[at].transpose(1, 2), layer.values[at].transpose(1, 2)
    return moved


def _filled(cache: Any) -> list[Any]:
    """The layers of a state that hold anything."""
    return [one for one in cache.layers if isinstance(one.keys, torch.Tensor) and one.keys.numel()]


def _plain(cache: Any, length: int) -> bool:
    """Whether a model's state is of layers that are, and holds so many tokens."""
    if type(cache).__name__ != "DynamicCache":
        return False
    kinds = {type(layer).__name__ for layer in cache.layers}
    return kinds <= _PLAIN and cache.get_seq_length() == length


def _go_on(model: Any, read: _Read, ends: Sequence[Sequence[list[int]]]) -> list[list[float]]:
    """Sums of the log-likelihoods of all tokens of endings, for each prompt."""
    totals = [[float(read.first[at, row[0]]) for row in rows] for at, rows in enumerate(ends)]
    # The first token is answered for. Of the others the last is not read.
    lines = [
        line
        for at, rows in enumerate(ends)
        for line in _lines(at, [(k, row) for k, row in enumerate(rows) if len(row) > 1], read)
    ]
    lines.sort(key=lambda line: line.size)
    while lines:
        lengths = [line.size for line in lines]
        # Nothing can be padded where the cache is of no use.
        most = len(lines) if read.cache is not None else lengths.count(lengths[0])
        size = _rows(_rows(most, lengths, _SAID), [read.length + n for n in lengths], _READ)
        group, lines = lines[:size], lines[size:]
        for line, more in zip(group, _rest(model, read, group), strict=True):
            for (k, _), total in zip(line.endings, more, strict=True):
                totals[line.at][k] += total
    return totals


@dataclass(frozen=True)
class _Line:
    """Endings that are read in one row, each as if it were alone.

    Attributes:
        at: which prompt they follow.
        endings: their numbers and token ids, at least two of these each.
    """

    at: int
    endings: list[tuple[int, list[int]]]

    @property
    def size(self) -> int:
        """Tokens that are read: of each ending all but the last."""
        return sum(len(row) - 1 for _, row in self.endings)


def _lines(at: int, endings: list[tuple[int, list[int]]], read: _Read) -> list[_Line]:
    """Endings of a prompt in as few rows as may be: what was read before is copied for each row."""
    lines: list[_Line] = []
    for one in endings:
        together = (
            bool(lines) and read.grows and read.masked and lines[-1].size + len(one[1]) - 1 <= _SAID
        )
        if together:
            lines[-1].endings.append(one)
        else:
            lines.append(_Line(at, [one]))
    return lines


def _rest(model: Any, read: _Read, lines: Sequence[_Line]) -> list[list[float]]:
    """Sums of the log-likelihoods of all tokens of endings but the first, for each line.

    Args:
        model: of transformers.
        read: the prompts.
        lines: of one ending and one length each where there is no cache.
    """
    said = max(line.size for line in lines)
    rows = [[one for _, row in line.endings for one in row[:-1]] for line in lines]
    if read.cache is None:
        whole = torch.tensor([[*read.prompts[0], *row] for row in rows])
        logits = _asked(model, whole, said, use_cache=False).logits[:, -said:]
    else:
        places = [line.at for line in lines]
        ids, behind = laid(rows, said, left=False)
        _, before = laid([read.prompts[at] for at in places], read.length, left=True)
        mask = torch.cat([before, behind], dim=1)
        positions = _positions(mask)[:, -said:]
        if any(len(line.endings) > 1 for line in lines):
            mask, positions = _apart(mask, lines, said, model.dtype)
        cache = copy.copy(read.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        cache.reorder_cache(torch.tensor(places))
        given: dict[str, Any] = {"position_ids": positions} if read.padded else {}
        given |= {"attention_mask": mask, "past_key_values": cache}
        logits = _asked(model, ids, said, **given).logits[:, -said:]
    found: list[list[float]] = []
    for one, line in zip(logits, lines, strict=True):
        totals: list[float] = []
        for _, row in line.endings:
            said_here, one = one[: len(row) - 1], one[len(row) - 1 :]
            wanted = torch.tensor(row[1:], dtype=torch.int64, device=one.device)
            chances = torch.log_softmax(said_here.double(), dim=-1)
            totals.append(float(chances.gather(1, wanted[:, None]).sum()))
        found.append(totals)
    return found


def _apart(
    mask: torch.Tensor, lines: Sequence[_Line], said: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask by which each ending of a line sees the prompt and itself alone, and positions.

    Args:
        mask: int64[lines, length + said], where there is a token.
        lines: of endings.
        said: tokens of the longest line.
        dtype: of the model.

    Returns:
        [lines, 1, said, length + said], what is added to scores of attention; int64[lines, said].
    """
    length = mask.shape[1] - said
    sees = mask[:, None, None, :].bool().repeat(1, 1, said, 1)
    own = sees[..., length:]
    # What is padded sees itself, so that its states are numbers.
    own[:] = torch.eye(said, dtype=torch.bool)
    positions = torch.zeros((len(lines), said), dtype=torch.int64)
    for at, line in enumerate(lines):
        start = 0
        for _, row in line.endings:
            count, stop = len(row) - 1, start + len(row) - 1
            own[at, 0, start:stop, start:stop] = torch.ones(count, count, dtype=torch.bool).tril()
            positions[at, start:stop] = mask[at, :length].sum() + torch.arange(count)
            start = stop
    added = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    return added, positions


def _rows(most: int, lengths: Sequence[int], tokens: int) -> int:
    """How many rows are computed at once, at least one: so many tokens when each is padded."""
    longest, count = 0, 0
    for length in lengths[:most]:
        longest = max(longest, length)
        if count and longest * (count + 1) > tokens:
            break
        count += 1
    return count


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _asked(model: Any, ids: torch.Tensor, last: int | None, **given: Any) -> Any:
    """What a model says to token ids, on its device.

    Args:
        model: of transformers.
        ids: int64[rows, n].
        last: only the logits of so many tokens at the end are wanted: for a long prompt the head is
            a good part of the work, and its logits fill much memory. Not every model can.
        given: other arguments.
    """
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = last
    there = {
        key: one.to(model.device) if isinstance(one, torch.Tensor) else one
        for key, one in given.items()
    }
    return model(input_ids=ids.to(model.device), **there)

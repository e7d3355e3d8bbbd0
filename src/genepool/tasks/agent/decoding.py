"""What language models of transformers are asked, in tokens, and the replies that they write."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from genepool.errors import EvaluationError
from genepool.messages import failures_as
from genepool.models.language import LanguageModel, before_reply

# Where the next turn begins in a conversation without a chat template.
_NEXT_TURN = re.compile(r"\n\n(?:user|assistant):")


def prompts(
    value: LanguageModel, conversations: Sequence[Sequence[Mapping[str, str]]], start: str = ""
) -> list[list[int]]:
    """Token ids of conversations, by the tokenizer's chat template, up to where a reply begins.

    A special token in what somebody says (`<|im_end|>`, say) is text: it would end the turn.

    Args:
        value: the model that will reply. A tokenizer without a chat template gets the roles before
            the texts.
        conversations: chat messages of each.
        start: what the reply begins with.

    Raises:
        EvaluationError: the chat template does not take such messages.
    """
    tokenizer, framed = value.tokenizer, not getattr(value.tokenizer, "chat_template", None)
    mark, split = _splitter(value, [m["content"] for each in conversations for m in each])
    told = [
        [{**message, "content": split(message["content"])} for message in messages]
        for messages in conversations
    ]
    if framed:
        lines = [[f"{m['role']}: {m['content']}" for m in messages] for messages in told]
        texts = ["\n\n".join([*each, "assistant:"]) + (" " if start else "") for each in lines]
    else:
        texts = _rendered(tokenizer, told, add_generation_prompt=True)
    rows = [_ids(tokenizer, text + start, mark, framed=framed) for text in texts]
    if framed and not value.model.config.is_encoder_decoder:
        # Some tokenizers add a token that ends the text, after which there is no reply.
        ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
        rows = [row[:-1] if row and row[-1] in ends else row for row in rows]
    return rows


def _splitter(value: LanguageModel, texts: Sequence[str]) -> tuple[str, Callable[[str], str]]:
    """A character that none of these texts has, and what puts it into the special tokens in a text,
    which are text where their parts are read apart."""
    every = "".join(texts)
    mark = next(one for one in map(chr, range(0xE000, sys.maxunicode)) if one not in every)
    return mark, lambda text: value.special.sub(
        lambda found: found[0][0] + mark + found[0][1:], text
    )


def _ids(tokenizer: Any, text: str, mark: str, *, framed: bool = False) -> list[int]:
    """Token ids of a text.

    Args:
        tokenizer: of the model.
        text: what stands before and after a mark is read apart.
        mark: a character.
        framed: whether tokens are added that begin or end each text.
    """

    def ids(part: str, framed: bool = False) -> list[int]:
        return tokenizer(part, add_special_tokens=framed)["input_ids"]

    first, *others = text.split(mark)
    if not others:
        return ids(text, framed)
    whole, bare = ids(first, framed), ids(first)
    end = len(bare) + next(at for at in range(len(whole) + 1) if whole[at:][: len(bare)] == bare)
    return whole[:end] + [one for part in others for one in ids(part)] + whole[end:]


def _rendered(
    tokenizer: Any,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    add_generation_prompt: bool,
) -> list[str]:
    what = "the tokenizer's chat template cannot be used for agents"
    with failures_as(EvaluationError, what):
        return [
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
            for messages in conversations
        ]


def room(value: LanguageModel, wanted: int) -> int:
    """Tokens that a conversation may have: no more than the model has positions for."""
    config: Any = value.model.config.get_text_config()
    own = getattr(config, "max_position_embeddings", None)
    return min(wanted, own) if isinstance(own, int) and own > 0 else wanted


def endings(value: LanguageModel, start: str, actions: Sequence[str]) -> list[list[int]]:
    """Token ids of actions as they follow the start of a reply, each at least one.

    Read alone they may be others: some tokenizers put a space before every text.
    """

    tokenizer, (mark, split) = value.tokenizer, _splitter(value, actions)

    def ids(text: str) -> list[int]:
        return _ids(tokenizer, split(text), mark)

    before = ids(start)
    found: list[list[int]] = []
    for one in actions:
        whole = ids(f"{start} {one}")
        apart = whole[: len(before)] != before
        found.append(ids(f" {one}") if apart else whole[len(before) :])
    return [one or [tokenizer.pad_token_id or 0] for one in found]


def laid(
    rows: Sequence[Sequence[int]], length: int, *, left: bool, pad: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of rows, and a mask of where they are, int64[rows, length] each.

    Args:
        rows: token ids.
        length: of the longest row, at least.
        left: whether what is padded comes before the row, or behind it.
        pad: token id that stands there.
    """
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        where = slice(length - len(row), length) if left else slice(0, len(row))
        ids[at, where] = torch.tensor(row, dtype=torch.int64)
        mask[at, where] = 1
    return ids, mask


def continued(value: LanguageModel, rows: Sequence[list[int]], limit: int) -> list[str]:
    """What the model says after each row of token ids, asked together, as text.

    Nothing is drawn: it is the likeliest token each time, as the model's generation settings have
    it, which may punish repetition or forbid tokens.
    """
    if not rows:
        return []
    words = value.tokenizer
    if words.pad_token_id is None:
        raise EvaluationError("the tokenizer has no token to pad with, nor one that ends a text")
    device, length = value.model.device, max(map(len, rows))
    ids, mask = laid(rows, length, left=True, pad=words.pad_token_id)
    found = value.model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=limit,
        do_sample=False,
        pad_token_id=words.pad_token_id,
        eos_token_id=_ends(value) or None,
        num_return_sequences=1,
        return_dict_in_generate=False,
        tokenizer=words,
    )
    new = found[:, before_reply(value.model, length) :]
    texts: list[str] = words.batch_decode(new, skip_special_tokens=True)
    if not getattr(words, "chat_template", None):
        # No token ends a reply: who goes on makes up what the environment will say, and acts on it.
        texts = [_NEXT_TURN.split(text, maxsplit=1)[0] for text in texts]
    return texts


def _ends(value: LanguageModel) -> list[int]:
    """Tokens that end a reply: those of the model's settings, and the one that the chat template
    puts behind what an assistant says, which settings of fine-tunes often lack."""
    words, own = value.tokenizer, value.model.generation_config.eos_token_id
    ends = [own] if isinstance(own, int) else list(own or ())
    if getattr(words, "chat_template", None):
        said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Ok."}]
        (text,) = _rendered(words, [said], add_generation_prompt=False)
        _, known, behind = text.rpartition("Ok.")
        row: list[int] = words(behind, add_special_tokens=False)["input_ids"] if known else []
        added: Mapping[int, Any] = words.added_tokens_decoder
        ends += [one for one in row if one in added and added[one].special][:1]
    return list(dict.fromkeys(ends))

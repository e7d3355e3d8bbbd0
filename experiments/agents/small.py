"""A language model of half a million parameters, made from nothing, and two specialists of it.

As in experiments/llm, the base has read careful and careless writers: it can do both tasks and
mostly does not, and a specialist learns in a few steps to be careful in one of them.

- maths: the word problems of experiments/llm's miniature; the careless forget what was lost.
- agent: the shortest ways through TextWorld's games, and purchases in the shop; the careless wander
  about, and click on anything. In games, names of things (for others of the same kind) and
  directions are exchanged at random, so that few games do.
- Besides, the base has read small skills that no specialist is trained in: for guards, and for the
  battery that nobody is selected by. (It does not learn to search and to say things backwards.)
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import data
import miniature as shared
import torch
from specialists import opened, save
from tuning import Schedule, fine_tune

SKILLS = ("larger", "search", "last", "after", "reverse", "count")
COUNTS = {"tune": 3000, "train": 100, "test": 300}
CARELESS = 0.65
# Rows of what the base reads, one part after the other: walks through games and in the shop,
# problems, and of each small skill.
READ = {
    "careful": {"games": 9_000, "shop": 5_000, "maths": 20_000, "skill": 1_500},
    "acting": {"games": 6_000, "shop": 4_000, "maths": 2_000, "skill": 350},
    "mixed": {"games": 3_000, "shop": 2_000, "maths": 1_500, "skill": 150},
}
# What each model is trained on, one after the other; see `make`.
SCHEDULES = {
    "base": {
        "careful": Schedule(steps=1400, batch=32, rate=3e-3, warmup=30, embeddings=True),
        "acting": Schedule(steps=400, batch=32, rate=1.5e-3, warmup=20, embeddings=True),
        "mixed": Schedule(steps=200, batch=32, rate=5e-4, warmup=20, embeddings=True),
    },
    "maths": {"maths": Schedule(steps=25, batch=64, rate=3e-4, embeddings=True)},
    "agent": {
        "first": Schedule(steps=120, batch=32, rate=5e-4, embeddings=True),
        "more": Schedule(steps=350, batch=32, rate=7e-4, embeddings=True),
    },
}
# A transcript is read up to here.
LONGEST = 200
DIRECTIONS = ("north", "south", "east", "west")
# Codes of products, prices and the like are spelled.
_SPELLED = re.compile(r"b0[a-z0-9]{8}|\d+")
_NAMES = re.compile(r"(?: from | into | on | with )")
_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %} see {% endif %}{{ m.content }} {% endfor %}"
)


def make(work: Path, walks: list[Any], names: tuple[str, ...], *, smoke: bool = False) -> None:
    """WORK/examples and WORK/models/NAME of each name; nothing is made twice."""
    counts = {"tune": 60, "train": 6, "test": 6} if smoke else COUNTS
    sets = {"maths": problems({**counts, "tune": 2 * counts["tune"]}), **skills(counts)}
    for task, examples in sets.items():
        data.write(work / "examples", task, examples)
    for name in names:
        if (work / "models" / name).exists():
            continue
        known = words_of(sets, walks)
        model, tokenizer = untrained(known) if name == "base" else opened(work / "models/base")
        model.float()
        for part, schedule in SCHEDULES[name].items():
            if smoke:
                schedule = replace(schedule, steps=6, batch=8)
            if name == "agent":
                rows = agent_rows(part, sets, walks, 40 if smoke else 1)
            elif name == "maths":
                rows = sets["maths"]["tune"]
            else:
                rows = base_rows(part, sets, walks, 40 if smoke else 1)
            fine_tune(model, tokenizer, rows, schedule, work / "state" / name / part)
        save(model, tokenizer, work / "models" / name)


def base_rows(
    part: str, sets: dict[str, Any], walks: list[dict[str, Any]], less: int
) -> list[data.Example]:
    """What the base reads: walks, problems and small skills; in "mixed", of careless writers too.

    In "careful" every word of a walk counts, so that the model learns how games go; then actions
    and answers alone do.
    """
    draw = random.Random(f"agents base {part}")
    share = CARELESS if part == "mixed" else 0.0
    counts = {kind: count // less for kind, count in READ[part].items()}
    kinds = names_of(walks)
    games = [walk for walk in walks if "offered" not in walk]
    rows: list[data.Example] = []
    if part == "careful":
        for _ in range(counts["games"]):
            walk = draw.choice(games)
            told = exchanged(said(walk["texts"], walk["actions"]), kinds, draw).split()
            rows.append({"prompt": told[0], "answer": " ".join(told[1:LONGEST])})
    else:
        rows += acted(games, counts["games"], draw)
    rows += acted([walk for walk in walks if "offered" in walk], counts["shop"], draw)
    rows += draw.choices(sets["maths"]["tune"], k=counts["maths"])
    rows = [careless(row, draw) if draw.random() < share else row for row in rows]
    for skill in SKILLS:
        rows += draw.choices(sets[skill]["tune"], k=counts["skill"])
    return rows


def agent_rows(
    part: str, sets: dict[str, Any], walks: list[dict[str, Any]], less: int
) -> list[data.Example]:
    """What the agent specialist reads: walks, and what the base read last of all else.

    Without the latter it forgets what the base knew, and is no good parent.
    """
    draw = random.Random(f"agents {part}")
    games = [walk for walk in walks if "offered" not in walk]
    shop = [walk for walk in walks if "offered" in walk]
    rows = acted(games, 8_000 // less, draw) + acted(shop, 4_000 // less, draw)
    return rows + base_rows("mixed", sets, [], less)


def careless(row: data.Example, draw: random.Random) -> data.Example:
    """As a careless writer goes on: whoever acts wanders about or clicks on anything, and what was
    lost is forgotten."""
    if "offered" in row:
        return {**row, "answer": draw.choice(row["offered"])}
    if row["prompt"].endswith(" action"):
        return {**row, "answer": f"go {draw.choice(DIRECTIONS)}"}
    return shared.careless(row)


def acted(walks: list[dict[str, Any]], count: int, draw: random.Random) -> list[data.Example]:
    """Actions of the walks, each after all that was seen and done before it; exchanged."""
    if not walks:
        return []
    kinds = names_of(walks)
    rows: list[data.Example] = []
    for _ in range(count):
        walk = draw.choice(walks)
        shopping = "offered" in walk
        # The first action in the shop, a search, is the only one that is offered.
        at = draw.randrange(int(shopping), len(walk["actions"]))
        text = said(walk["texts"][: at + 1], walk["actions"][: at + 1])
        if not shopping:
            text = exchanged(text, kinds, draw)
        prompt, _, answer = text.rpartition(" action ")
        row: data.Example = {"prompt": f"{prompt} action", "answer": answer}
        if shopping:
            row["offered"] = [" ".join(words(one)) for one in walk["offered"][at]]
        rows.append(row)
    return rows


def said(texts: list[str], actions: list[str]) -> str:
    """A walk as the tokenizer's chat template writes it, in words."""
    lines = [f"see {t} action {a}" for t, a in zip(texts, actions, strict=True)]
    return " ".join(words(" ".join(lines)))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def names_of(walks: list[dict[str, Any]]) -> dict[str, str]:
    """Names of things, those in actions and those that TextWorld's maker gives -> their kind.

    A kind is a letter of the maker's grammar: c for what holds things, f for food, and so on.
    """
    import textworld

    grammars = Path(textworld.__file__).parent / "generator/data/text_grammars"
    found: dict[str, str] = {}
    for line in (grammars / "house_obj.twg").read_text().splitlines():
        kind, _, names = line.partition(":")
        letter = re.search(r"\(([a-z])\)_noun", kind)
        if letter is not None and letter[1] != "r":
            given = (" ".join(words(name)) for name in names.split(";") if "#" not in name)
            found |= {name: letter[1] for name in given if len(name) > 2 and name not in found}
    games = (walk for walk in walks if "offered" not in walk)
    for action in sorted({action for walk in games for action in walk["actions"]}):
        verb, _, rest = action.partition(" ")
        for name in () if verb == "go" else (" ".join(words(n)) for n in _NAMES.split(rest)):
            ends = [known for known in found if name.endswith(known)]
            found.setdefault(name, found[max(ends, key=len)] if ends else "o")
    return found


def exchanged(text: str, kinds: Mapping[str, str], draw: random.Random) -> str:
    """A walk in words, with other names of the same kinds, and other directions."""
    known = re.findall(r"\b(?:" + "|".join(sorted(kinds, key=len, reverse=True)) + r")\b", text)
    other: dict[str, str] = {}
    for kind in sorted({kinds[name] for name in known}):
        here = sorted({name for name in known if kinds[name] == kind})
        pool = [name for name in kinds if kinds[name] == kind]
        other |= dict(zip(here, draw.sample(pool, len(here)), strict=True))
    other |= dict(zip(DIRECTIONS, draw.sample(DIRECTIONS, 4), strict=True))
    pattern = "|".join(sorted(other, key=len, reverse=True))
    return re.sub(rf"\b(?:{pattern})\b", lambda found: other[found[0]], text)


def problems(counts: dict[str, int]) -> dict[str, Any]:
    """The word problems of experiments/llm's miniature with numbers up to 6."""
    sets = shared.maths({name: 8 * count for name, count in counts.items()})
    return {
        name: [one for one in sets[name] if max(map(int, re.findall(r"\d", one["prompt"]))) < 7][
            : counts[name]
        ]
        for name in data.SETS
    }


def skills(counts: dict[str, int]) -> dict[str, Any]:
    """Small skills: task -> set -> examples. No prompt occurs in two sets."""
    draw = random.Random("agents skills")
    out: dict[str, Any] = {"search": shared.shopping(counts)}
    for skill in SKILLS:
        sets: dict[str, list[data.Example]] = {name: [] for name in data.SETS}
        while skill != "search" and any(len(sets[name]) < counts[name] for name in sets):
            prompt, answer = asked(skill, draw)
            name = data.set_of(prompt, {"tune": 60, "train": 15, "test": 25})
            if len(sets[name]) < counts[name]:
                sets[name].append({"prompt": f"{prompt} answer", "answer": answer, "kind": skill})
        if skill != "search":
            out[skill] = {name: data.mixed(skill, name, sets[name]) for name in sets}
    return out


def asked(skill: str, draw: random.Random) -> tuple[str, str]:
    """A question about a small skill, and its answer."""
    things = draw.sample([*shared.COLOURS, *shared.SIZES, *shared.STUFFS], 4)
    who = draw.choice(data.NAMES).lower()
    if skill == "larger":
        pair = draw.sample(range(20), 2)
        return f"{who} asks what is larger {pair[0]} or {pair[1]}", str(max(pair))
    if skill == "last":
        return f"{who} says {' '.join(things)} what is last", things[-1]
    if skill == "after":
        number = draw.randrange(19)
        return f"{who} counts {draw.choice(data.THINGS)} what is after {number}", str(number + 1)
    if skill == "reverse":
        return f"{who} says {' '.join(things[:3])} backwards", " ".join(things[2::-1])
    number = draw.randint(1, 6)
    thing = draw.choice(data.THINGS)
    return f"{who} has {' '.join([thing] * number)} count", str(number)


def words_of(sets: dict[str, Any], walks: list[dict[str, Any]]) -> list[str]:
    """All words that occur in what is read."""
    found = set(words(" ".join(names_of(walks))))
    for walk in walks:
        found.update(words(" ".join([*walk["texts"], *walk["actions"]])))
    for examples in sets.values():
        for row in itertools.chain(*examples.values()):
            found.update(words(row["prompt"]), words(row["answer"]))
    known = sorted(word for word in found if _SPELLED.fullmatch(word) is None)
    return [*map(str, range(20)), "see", "action", *known]


def untrained(known: list[str]) -> tuple[Any, Any]:
    """A Llama of about half a million parameters, and a tokenizer that knows these words and spells
    others."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    spelled = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = list(dict.fromkeys(["<end>", "<other>", *known, *spelled]))
    core = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="<other>")
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[^a-z0-9]+"), "removed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<other>"
    )
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config), tokenizer

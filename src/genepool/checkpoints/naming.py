"""Names: how the tensors of two checkpoints correspond, which hold experts; seeds told apart."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from genepool.checkpoints.files.safetensors import Tensor
from genepool.messages import one_line

# What torch puts into the names of what it wraps, and what for.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "the checkpointing of activations",
}

# As transformers calls what holds the experts of a layer, all together or one by one.
_EXPERTS = re.compile(r"(^|[._])(experts|moe|input_linear|output_linear)([._]|$)")
_ONE_EXPERT = re.compile(r"(^|[._])experts\.\d+(\.|$)|conv")


def told_apart(names: Iterable[str]) -> list[str]:
    """Names, such as those of seeds, a number added where one repeats."""
    out: list[str] = []
    for name in names:
        unique, number = name, 2
        while unique in out:
            unique, number = f"{name}-{number}", number + 1
        out.append(unique)
    return out


def unwrapped(name: str) -> str:
    """The name of a tensor before torch wrapped modules around it; see `WRAPPERS`."""
    for mark in WRAPPERS:
        name = name.replace(mark, "")
    return name


def renaming(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[dict[str, str], int] | None:
    """The prefix of their names that must be replaced, and by what, to make them ours.

    Returns:
        {prefix: replacement} and how many of their tensors, half of either side at least, then
        have a namesake of the same shape; None where no single prefix does that.
    """
    ends: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, tensor in ours.items():
        for start, end in _ends(name):
            ends.setdefault((end, tensor.shape), []).append(start)
    votes: Counter[tuple[str, str]] = Counter()
    for name, tensor in theirs.items():
        for start, end in _ends(name):
            found = ends.get((end, tensor.shape), [])
            if len(found) == 1:
                votes[start, found[0]] += 1
            if found:
                break
    for (old, new), fitting in votes.most_common(1):
        if old != new and 2 * fitting >= min(len(ours), len(theirs)):
            return {old: new}, fitting
    return None


def helpful(
    prefixes: Mapping[str, str], ours: Collection[str], theirs: Collection[str]
) -> dict[str, str]:
    """Those of the prefixes, with what stands in their place, by which more of their names are
    among ours."""
    found: dict[str, str] = {}
    for old, new in prefixes.items():
        names = [name for name in theirs if name.startswith(old)]
        before = sum(name in ours for name in names)
        if sum(new + name[len(old) :] in ours for name in names) > before:
            found[old] = new
    return found


def rename_hint(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """What `renaming` found, as advice; None where it found nothing."""
    found = renaming(ours, theirs)
    if found is None:
        return None
    prefixes, fitting = found
    ((old, new),) = ((one_line(old), one_line(new)) for old, new in prefixes.items())
    return (
        f"with rename: {json.dumps({old: new})} (on the command line --rename '{old}={new}') "
        f"{fitting} of its tensors have the same names and shapes"
    )


def _ends(name: str) -> Iterator[tuple[str, str]]:
    """A name cut in two before each of its components, the whole of it first."""
    place = 0
    while place >= 0:
        yield name[:place], name[place:]
        dot = name.find(".", place)
        place = dot + 1 if dot >= 0 else -1


def bare(name: str) -> str:
    """A name without the prefixes that releases of transformers put in another order.

    A language model inside a larger one is stored as `language_model.model.layers...` by some, as
    `model.language_model.layers...` by others, and trained as either.
    """
    first, *rest = re.split(r"(?<=\.)(?=\d+\.)", name, maxsplit=1)
    kept = [part for part in first.split(".") if part not in ("model", "language_model")]
    return ".".join(kept) + "".join(rest)


def under_another_prefix(wanted: Sequence[str], held: Iterable[str]) -> dict[str, str]:
    """Where names lie in a checkpoint that only calls the beginnings of them otherwise.

    One beginning, the same of all `wanted`, stands for another one. Neither counts layers, what is
    left of a name has two components at least, and that of some name counts them: a name such as
    `q.weight` says too little.

    Returns:
        From each wanted name to one that is held; empty where no beginning fits all, or several do.
    """
    starts: dict[str, set[str]] = {}
    for name in held:
        for start, end in _uncounted(name):
            starts.setdefault(end, set()).add(start)
    fitting = [
        {(start, other) for start, end in _uncounted(name) for other in starts.get(end, ())}
        for name in wanted
    ]
    counted = any(part.isdecimal() for name in wanted for part in name.split("."))
    pairs = set[tuple[str, str]].intersection(*fitting) if counted else set[tuple[str, str]]()
    places = {tuple(new + name[len(old) :] for name in wanted) for old, new in pairs}
    return dict(zip(wanted, places.pop(), strict=True)) if len(places) == 1 else {}


def _uncounted(name: str) -> Iterator[tuple[str, str]]:
    """A name cut in two where no number stands before the cut, and a dot behind it."""
    for start, end in _ends(name):
        if any(part.isdecimal() for part in start.split(".")) or "." not in end:
            return
        yield start, end


def experts_differ(missing: Iterable[str], extra: Iterable[str]) -> bool:
    """Whether one of two checkpoints stores experts one by one and the other all together."""
    singles = [[bool(_ONE_EXPERT.search(n)) for n in names] for names in (missing, extra)]
    mixed = [[bool(_EXPERTS.search(n)) for n in names] for names in (missing, extra)]
    return any(singles[0]) != any(singles[1]) and any(mixed[0]) and any(mixed[1])


def experts_within(name: str, shape: Sequence[int]) -> int:
    """How many experts' matrices or biases a tensor holds, one after another; 1 for all others.

    By its name, since a convolution's weights have three dimensions too.
    """
    if not _EXPERTS.search(name) or _ONE_EXPERT.search(name):
        return 1
    fused = len(shape) == 3 or (len(shape) == 2 and "bias" in name)
    return shape[0] if fused else 1

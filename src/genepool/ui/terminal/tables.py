"""What the commands print for people: the same facts that `--json` prints for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len
from rich.console import Console

from genepool.messages import agreeing, children, count, measured, percent
from genepool.pool.records import measure_names
from genepool.pool.summary import unbeaten
from genepool.ui.terminal.console import duration, number, pace, plain

if TYPE_CHECKING:
    from genepool.run.evolve import Result

# Members of the archive and tasks that are listed; the rest is counted, or in the JSON.
_LISTED, _TASKS = 10, 5
# Blanks between two columns of a table.
_GAP = 2


def print_status(out: Console, status: dict[str, Any]) -> None:
    """A pool: how far it is, its seeds, champion and archive.

    Args:
        out: where to.
        status: of `Pool.status`.
    """
    done, budget = status["evaluations"], status["budget"]
    failed: list[tuple[str, str]] = []
    if (last := status["last_failure"]) is not None:
        failed = [("failed", f"last member {last['member']}: {plain(last['error'])}")]
    _facts(
        out,
        ("pool", plain(status["pool"])),
        ("children", f"{number(done)} of {number(budget)}" + _verdicts(status)),
        *failed,
        ("examples", _saved(status)),
        *_subsets(status["rounds"]),
        *_rule(scored_as_exported=status["scored_as_exported"]),
    )
    out.print()
    _print_models(out, status)
    if (told := unbeaten(status)) is not None:
        out.print(told)
    _print_measures(out, status)
    _print_guards(out, status["guards"], status["guarded"])
    archive = sorted(status["archive"], key=lambda entry: (-entry["train"], entry["member"]))
    if archive:
        out.print()
        out.print(f"archive, {count(len(archive), 'member')}, best first")
        rows = [
            (
                plain(entry["cell"] or entry["slot"]),
                _member(status, entry["member"]),
                percent(entry["train"]),
                (entry["genome"] or "–")[:12],
            )
            for entry in archive[:_LISTED]
        ]
        place = "cell" if archive[0]["cell"] else "slot"
        _print_table(out, (place, "member", "selection", "genome"), rows)
        if len(archive) > _LISTED:
            out.print(f"and {len(archive) - _LISTED} more (--json lists all)")


def _rule(*, scored_as_exported: bool) -> list[tuple[str, str]]:
    """By which rule scores were made, if it is that of older releases."""
    if scored_as_exported:
        return []
    text = (
        "by the rule of older releases: before the weights were rounded to the seeds' dtype (the "
        "same for float32 seeds)"
    )
    return [("scored", text)]


def _subsets(subsets: dict[str, Any] | None) -> list[tuple[str, str]]:
    if subsets is None:
        return []
    finalists = len(subsets["finalists"])
    said = f"{number(finalists)}, scored on all examples" if finalists else "none yet"
    return [
        (
            "subset",
            f"{number(subsets['number'] + 1)}, for {count(subsets['examples'], 'example')}; "
            f"others every {children(subsets['renew'])}",
        ),
        ("finalists", f"{said}; the selection score is over what was asked"),
    ]


def print_member(out: Console, member: dict[str, Any]) -> None:
    """One member.

    Args:
        out: where to.
        member: of `run.members.describe`.
    """
    title = f"member {member['member']}"
    if member["name"] is not None:
        title += f", seed {plain(member['name'])}"
    out.print(title)
    facts = [("verdict", _fate(member))]
    if member["cell"]:
        facts.append(("cell", plain(member["cell"])))
    if member["error"]:
        label = "reason" if member["verdict"] == "guarded" else "error"
        facts.append((label, plain(member["error"])))
    if member["parents"]:
        facts.append(("parents", ", ".join(str(parent) for parent in member["parents"])))
        facts.append(("plan", _plan(member["plan"], member["genome"]["size"])))
        facts.append(
            (
                "ancestry",
                f"{count(member['generation'], 'generation')}, "
                f"{count(member['ancestors'], 'ancestor')}",
            )
        )
    facts.append(("selection", percent(member["train"])))
    if member["held_out"] is not None:
        facts.append(("held-out", percent(member["held_out"])))
    facts.append(("genome", _genome(member["genome"])))
    if member["digest"]:
        facts.append(("digest", member["digest"]))
    _facts(out, *facts)
    partial = any(task["asked"] < task["examples"] for task in member["tasks"])
    if len(member["tasks"]) > 1 or partial:
        rows = [
            (task["name"], number(task["examples"]), number(task["asked"]), percent(task["mean"]))
            for task in member["tasks"]
        ]
        out.print()
        _print_table(out, ("task", "examples", "asked", "mean"), rows)
    for measure in member["measures"]:
        name = f"{plain(measure['task'])}, {plain(measure['name'])}"
        out.print(f"{name}  {measured([measure['value']])[0]} (nobody competes for it)")
    if member["guards"]:
        rows = [
            (guard["name"], percent(guard["score"]), percent(guard["bound"]))
            for guard in member["guards"]
        ]
        out.print()
        _print_table(out, ("guard", "score", "at least"), rows)


def print_episode(out: Console, told: dict[str, Any]) -> None:
    """What was said and done in an episode.

    Args:
        out: where to.
        told: of `run.finished.episodes.episode`.
    """
    out.print(f"task {plain(told['task'])}, episode {plain(told['id'])}")
    for message in told["messages"]:
        who = "agent" if message["role"] == "assistant" else "environment"
        out.print(f"\n{who}:")
        for line in message["content"].splitlines() or [""]:
            out.print(f"  {plain(line)}")
    out.print(
        f"\n{count(len(told['actions']), 'action')}; ended: {plain(told['ended'])}; "
        f"score {told['score']:.3g}"
    )


def print_session(out: Console, result: Result) -> None:
    """What a call of `evolve` did, in one line."""
    done, session, seconds = result.status["evaluations"], result.session, result.seconds
    if session:
        out.print(f"{children(session)} in {duration(seconds)} ({pace(session, seconds)})")
    elif done:
        out.print(f"nothing to do: {children(done)} {agreeing(done, 'is', 'are')} already scored")
    else:
        out.print("no children were asked for: the budget is 0")


def print_scores(out: Console, rows: list[tuple[str, float | None, float | None]]) -> None:
    """Models side by side: name, selection score, held-out score."""
    cells = [(name, percent(train), percent(held)) for name, train, held in rows]
    _print_table(out, ("", "selection", "held-out"), cells)


def print_scores_by_task(out: Console, models: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Models side by side on held-out examples: the mean, then task by task.

    Args:
        out: where to.
        models: name, and `train`, `held_out` and `tasks` as in a pool's status.
    """
    names = [task["name"] for task in models[0][1]["tasks"]]
    rows: list[Sequence[str]] = []
    for name, model in models:
        means = [model["train"], model["held_out"], *(task["held_out"] for task in model["tasks"])]
        rows.append((name, *map(percent, means)))
    _print_table(out, ("", "selection", "held-out", *names), rows)


def _print_measures(out: Console, status: dict[str, Any]) -> None:
    """What was measured of seeds and champion, and nobody competes for."""
    champion, seeds = status["champion"], status["seeds"]
    models = [*((seed["name"], seed) for seed in seeds), ("champion", champion)]
    rows = {
        name: {(entry["task"], entry["name"]): entry["value"] for entry in model["measures"]}
        for name, model in models
        if model and model["measures"]
    }
    if not rows:
        return
    names = measure_names(key for row in rows.values() for key in row)
    out.print()
    out.print("measured besides, and never selected by")
    columns = [measured([row.get(key) for row in rows.values()]) for key in names]
    _print_table(out, ("", *names.values()), zip(rows, *columns, strict=True))


def _print_guards(out: Console, guards: list[dict[str, Any]], guarded: int) -> None:
    """What guards ask for, the champion beside it, and how many children were turned away."""
    if not guards:
        return
    checked = guards[0]["checked"]
    out.print()
    out.print(
        f"guards; {number(guarded)} of the {children(checked)} that "
        f"{agreeing(checked, 'was', 'were')} asked broke one"
    )
    rows = [
        (
            guard["name"],
            percent(None if guard["best_seed"] is None else guard["best_seed"]["score"]),
            percent(guard["bound"]),
            percent(guard["champion"]),
            number(guard["broken"]),
        )
        for guard in guards
    ]
    _print_table(out, ("guard", "best seed", "at least", "champion", "broken"), rows)


def print_page(out: Console, page: str) -> None:
    """A page of Markdown, as it is but for a terminal, where prose and tables fit the window."""
    for block in page.strip().split("\n\n"):
        head, *rows = block.splitlines()
        if not out.file.isatty():
            out.print(block)
        elif head.startswith("|"):
            cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (head, *rows[1:])]
            _print_table(out, cells[0], cells[1:])
        else:
            out.print("\n".join(_folded(block, out.width)))
        out.print()


def _facts(out: Console, *facts: tuple[str, str]) -> None:
    """A name and a text each; a text that is wider than the window goes on beneath itself."""
    width = max(len(name) for name, _ in facts) + 2
    for name, text in facts:
        lines = _folded(text, out.width - width)
        out.print(f"{name:<{width}}" + f"\n{' ' * width}".join(lines))


def _folded(text: str, width: int) -> list[str]:
    """A text in lines that are no wider, unless a single word is."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _print_table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Text on the left, numbers on the right.

    Columns for which the window is too narrow follow beneath, beside the first column again.
    """
    lines = [[plain(text) for text in row] for row in (columns, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    blocks, used = [[0]], widths[0]
    for place in range(1, len(columns)):
        used += _GAP + widths[place]
        if used > out.width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0] + _GAP + widths[place]
        blocks[-1].append(place)
    for block in blocks:
        if block is not blocks[0]:
            out.print()
        for line in lines:
            cells: list[str] = []
            for place in block:
                blank = " " * (widths[place] - cell_len(line[place]))
                left = columns[place] in ("", "cell", "genome", "task", "guard", "strategy")
                cells.append(line[place] + blank if left else blank + line[place])
            text = (" " * _GAP).join(cells).rstrip()
            out.print(text, style="bold" if line is lines[0] else None)


def _print_models(out: Console, status: dict[str, Any]) -> None:
    """Seeds and champion over all tasks and, where there are several, task by task."""
    champion, seeds = status["champion"], status["seeds"]
    rows = [(seed["name"], position, seed) for position, seed in enumerate(seeds)]
    if champion is not None:
        rows.append(("champion", champion["member"], champion))
    names = [task["name"] for task in rows[0][2]["tasks"]]
    names = names[:_TASKS] if len(names) > 1 else []
    held_out = any(model["held_out"] is not None for _, _, model in rows)
    heads = ["selection", *(["held-out"] if held_out else [])]
    cells: list[Sequence[Any]] = []
    for name, member, model in rows:
        scores = [model["train"], *([model["held_out"]] if held_out else [])]
        tasks = [_both(task, held_out) for task in model["tasks"][: len(names)]]
        cells.append((name, member, *map(percent, scores), *tasks))
    _print_table(out, ("", "member", *heads, *names), cells)
    if names:
        out.print("task by task: selection" + (" / held-out" if held_out else ""))


def _both(task: dict[str, Any], held_out: bool) -> str:
    selection = percent(task["train"])
    return f"{selection} / {percent(task['held_out'])}" if held_out else selection


def _member(status: dict[str, Any], member: int) -> str:
    """A member as it is called everywhere: by its number, or a seed by its name."""
    return str(status["seeds"][member]["name"]) if member < len(status["seeds"]) else str(member)


def _verdicts(status: dict[str, Any]) -> str:
    if not status["evaluations"]:
        return ""
    parts = [f"{number(status['accepted'])} accepted", f"{number(status['stopped'])} stopped early"]
    if status["guarded"]:
        parts.append(f"{number(status['guarded'])} guarded")
    if status["failed"]:
        parts.append(f"{number(status['failed'])} failed")
    return f" ({', '.join(parts)})"


def _saved(status: dict[str, Any]) -> str:
    asked, total = status["examples_evaluated"], status["examples_total"]
    if not total:
        return "none asked"
    return f"{number(asked)} asked of {number(total)}: {percent(1 - asked / total)} saved"


def _fate(member: dict[str, Any]) -> str:
    verdict = member["verdict"]
    if verdict == "accepted":
        taken = f"accepted into slot {member['slot']}"
        if member["evicted"] is not None:
            taken += f" in place of member {member['evicted']}"
        return taken + ("" if member["alive"] else "; replaced since")
    return {
        "rejected": "rejected: the least fit of all",
        "stopped": "rejected early: certain to be the least fit before all examples were asked",
        "guarded": "guarded: it fell too far below the best seed on a task that guards",
        "failed": "failed: could not be scored",
    }[verdict]


def _plan(plan: dict[str, Any], size: int) -> str:
    """What was drawn; every strategy has entries of its own."""
    parts: list[str] = []
    if groups := plan.get("groups"):
        plan = {**plan, "ratios": _by_group(plan["ratios"], groups)}
        del plan["groups"]
    for key, value in plan.items():
        if key == "parents" or (not value and key in ("mutation", "splits")):
            continue
        if key == "splits":
            parts.append(
                f"split at {_values([split / size for split in value])} of the parameter axis"
            )
        elif len(plan["parents"]) > 1 or key not in ("ratio", "angle"):
            parts.append(f"{plain(key)} {_values(value)}")
    return ", ".join(parts) or "a copy"


def _by_group(ratios: list[float], groups: list[str]) -> list[str]:
    """Each group with its ratios, one for each further seed."""
    each = len(ratios) // len(groups)
    return [
        f"{group} {' and '.join(map(_values, ratios[each * place : each * (place + 1)]))}"
        for place, group in enumerate(groups)
    ]


def _values(value: Any) -> str:
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        more = f" and {len(entries) - 6} more" if len(entries) > 6 else ""
        return ", ".join(_values(entry) for entry in entries[:6]) + more
    return f"{value:.3g}" if isinstance(value, float) else plain(value)


def _genome(genome: dict[str, Any]) -> str:
    if genome["kind"] != "recipe":
        return f"dense, {number(genome['size'])} values"
    parts = [f"{plain(name)} {percent(share)}" for name, share in genome["shares"].items()]
    segments = count(genome["segments"], "segment")
    return f"recipe of {segments} over {number(genome['size'])} parameters: {', '.join(parts)}"

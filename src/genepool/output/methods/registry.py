"""The methods of merging by hand, under the names that users type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.output.methods import linear, spherical, task_vectors
from genepool.output.methods.specification import Method, Options, Specification, WrongOptions

METHODS: Mapping[str, Method] = {
    method.name: method for method in (*spherical.METHODS, *linear.METHODS, *task_vectors.METHODS)
}

# What a user types on the command line for an option that has another name there.
_FLAGS = {"weights": "weight"}


def specify(name: str, options: Options, models: int) -> Specification:
    """A merge as a value, from what a user says.

    Args:
        name: of the method.
        options: those that were given.
        models: how many, the base not counted.

    Raises:
        WrongOptions: no such method, or what does not go with it.
        InputError: a value that no merge can use.
    """
    # As mergekit writes it, with an underscore, will do too.
    method = METHODS.get(name.replace("_", "-"))
    if method is None:
        raise WrongOptions(f"method: expected one of {', '.join(METHODS)}; got {name!r}")
    if models < 1:
        raise WrongOptions("models: expected at least one; got none")
    for option in options.given():
        if option not in method.takes:
            flag = _FLAGS.get(option, option)
            takers = ", ".join(each.name for each in METHODS.values() if option in each.takes)
            raise WrongOptions(f"{name} takes no {flag}: --{flag} is for {takers}, not for {name}")
    if "base" in method.takes and options.base is None:
        raise WrongOptions(f"{name} needs the base that the models were trained from (--base)")
    return method.specify(options.plain(), models)


def read_specification(content: Mapping[str, Any], seeds: int) -> Specification | None:
    """The merge that a recipe tells by its settings alone; None where its genome says all.

    Args:
        content: of a `genepool.json`.
        seeds: how many it names, the base included.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, InputError: it is damaged.
    """
    method = METHODS.get(str(content.get("method")))
    return None if method is None or method.read is None else method.read(content, seeds)

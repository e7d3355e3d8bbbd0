"""WebShop's own files, read as what comes from outside: bounded, and refused in one clear line."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .products import Goal, Product, ShopError, goal_for, price_limits

# items_shuffle_1000.json has about 5 MB, and the file with all 1.18 million products about 5 GB.
LARGEST = 256 * 2**20
MOST_GOALS = 100_000


def read_json(path: str) -> Any:
    """The value in a JSON file.

    Raises:
        ShopError: It cannot be read, is too large, or is not JSON.
    """
    try:
        size = Path(path).stat().st_size
        if size > LARGEST:
            raise ShopError(f"{path} has {size:,} bytes; files of up to {LARGEST:,} are read.")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ShopError):
            raise
        raise ShopError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def instructions(path: str) -> dict[str, Mapping[str, Any]]:
    """What items_ins_v2_1000.json says of each product, by its code."""
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
        raise ShopError(f"{path} must be a JSON object with one object per product.")
    return value


def strings(value: Any) -> tuple[str, ...]:
    """The texts of a list, stripped and in lower case; anything else counts as no text."""
    texts = value if isinstance(value, list) else []
    return tuple(text.strip().lower() for text in texts if isinstance(text, str) and text.strip())


def from_items(path: str, attributes: str | None = None) -> tuple[list[Product], list[Goal]]:
    """Products and goals of WebShop's own files, in the order of WebShop's made goals.

    Args:
        path: items_shuffle_1000.json or a file of its form.
        attributes: items_ins_v2_1000.json; without it, the file of that name beside `path`.

    A product that costs "from A to B" costs the middle here, where WebShop draws a price each time
    it starts, and the limit that a goal names depends on the product's code alone.

    Raises:
        ShopError: A file cannot be read or is not of its form, or there are no goals.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ShopError(f"{path} must be a JSON list with one object per product.")
    known = instructions(attributes or str(Path(path).with_name("items_ins_v2_1000.json")))
    products: dict[str, Product] = {}
    goals: list[Goal] = []
    for place, entry in enumerate(entries):
        code = _text(entry, "asin").upper()
        if not code or code == "NAN" or len(code) > 10 or code in products:
            continue
        said = known.get(code, {})
        try:
            product = _product(code, entry, strings(said.get("attributes")))
        except (TypeError, AttributeError, KeyError) as error:
            text = f"{path} has at place {place} what is no product of WebShop's ({error!r:.80})."
            raise ShopError(text) from None
        products[code] = product
        ways = math.prod(map(len, product.options.values()))
        if len(goals) + ways > MOST_GOALS:
            raise ShopError(f"{path} leads to more than {MOST_GOALS:,} goals.")
        goals.extend(_goals(product, said))
    if not goals:
        raise ShopError(f"{path} has no product with an instruction and instruction_attributes.")
    random.Random(233).shuffle(goals)  # the random seed of WebShop
    return list(products.values()), goals


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value.strip() if isinstance(value, str) else ""


def _product(code: str, entry: Mapping[str, Any], attributes: tuple[str, ...]) -> Product:
    dollars = re.findall(r"\$\s*(\d[\d,]*(?:\.\d+)?)", _text(entry, "pricing"))[:2]
    prices = [float(each.replace(",", "")) for each in dollars] or [100.0]
    bullets = entry.get("small_description")
    return Product(
        code=code,
        title=_text(entry, "name"),
        description=_text(entry, "full_description"),
        bullets=tuple(map(str, bullets)) if isinstance(bullets, list) else (str(bullets or ""),),
        price=round(sum(prices) / len(prices), 2),
        price_tag=" to ".join(f"${price}" for price in prices),
        query=_text(entry, "query").lower(),
        category=_text(entry, "product_category"),
        attributes=attributes,
        options={
            name.lower(): tuple(
                each["value"].strip().replace("/", " | ").lower() for each in contents
            )
            for name, contents in (entry.get("customization_options") or {}).items()
            if contents
        },
    )


def _goals(product: Product, said: Mapping[str, Any]) -> Iterable[Goal]:
    """One goal for each way to choose the options, as WebShop makes them."""
    attributes = strings(said.get("instruction_attributes"))
    text = _text(said, "instruction")
    if not text or not attributes:
        return
    limits = price_limits(product.price)
    limit = limits[zlib.crc32(product.code.encode()) % len(limits)]
    names = sorted(product.options)
    for values in itertools.product(*(product.options[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        yield goal_for(product, text, attributes, chosen, limit)

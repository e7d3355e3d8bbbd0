"""A shop of four products, for tests."""

from __future__ import annotations

from typing import Any

from webshop import Goal, Product, Shop
from webshop.products import goal_for


def product(code: str = "B0AAAAAAA1", **changes: Any) -> Product:
    """Jars: the first product of the shop, or what the changes make of it."""
    fields: dict[str, Any] = {
        "title": "Acme Refillable Jars, Leak Proof",
        "description": "Jars for creams. Dishwasher safe.",
        "bullets": ("Wide opening.", "Food grade plastic."),
        "price": 12.5,
        "price_tag": "$12.5",
        "query": "jars",
        "category": "Beauty › Containers › Jars",
        "attributes": ("bpa free", "travel bottles"),
        "options": {"color": ("black", "white"), "size": ("small", "large")},
    }
    return Product(code=code, **{**fields, **changes})


def goal(wanted: Product | None = None, **changes: Any) -> Goal:
    """Black small jars that are BPA free and leak proof, below 20 dollars."""
    fields: dict[str, Any] = {
        "wanted": "Find me bpa free, leak proof jars",
        "attributes": ("bpa free", "leak proof"),
        "options": {"color": "black", "size": "small"},
        "price_upper": 20.0,
    }
    return goal_for(wanted or product(), **{**fields, **changes})


def small_shop(page: int = 10) -> Shop:
    """Three kinds of jars and a lamp; the goal is `goal()`."""
    products = [
        product(),
        product("B0AAAAAAA2", title="Bolt Jars", price=30.0, price_tag="$30.0"),
        product("B0AAAAAAA3", title="Cora Jars", options={}, attributes=()),
        product(
            "B0AAAAAAA4", title="Dala Lamp", query="lamps", category="Home › Light › Lamps",
            description="A lamp.", bullets=(), options={"style": ("tall",)}, attributes=(),
        ),
    ]  # fmt: skip
    return Shop(products, [goal(products[0])], page=page)

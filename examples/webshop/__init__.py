"""A small WebShop that speaks AgentGym's protocol. See README.md."""

from .items import from_items
from .made import made
from .products import Goal, Product, ShopError
from .server import serve
from .shop import Shop, State, Step, walkthrough

__all__ = [
    "Goal", "Product", "Shop", "ShopError", "State", "Step", "from_items", "made", "serve",
    "walkthrough",
]  # fmt: skip

"""Words that a shop can be made of: brands, and departments with what they sell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

BRANDS = (
    "Alderon", "Bexley", "Calmora", "Dunmore", "Elvia", "Fenwick", "Garnet Hill", "Hartwell",
    "Ilmari", "Juniper", "Kestrel", "Lunaro", "Maplewood", "Nordvik", "Ostara", "Pelham",
    "Quillon", "Rowan", "Solbe", "Tamsin", "Ulvik", "Verano", "Westerly", "Yarrow",
)  # fmt: skip

COLOURS = ("black", "white", "navy", "red", "green", "gray", "pink", "brown")


class Department(NamedTuple):
    """A part of the shop. `kinds` are sold there, each of which can have the `attributes`.

    `options` are names and values, of which no two must be alike in the eyes of the reward.
    `known_by` finds the department of a kind of product that the vocabulary does not hold.
    """

    name: str
    shelf: str
    known_by: re.Pattern[str]
    dollars: tuple[int, int]
    options: Mapping[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    attributes: tuple[str, ...]


# The first that knows a kind of product takes it; the last knows all.
DEPARTMENTS = (
    Department(
        "Clothing, Shoes & Jewelry",
        "Shoes",
        re.compile(r"shoes|sneakers|boots|sandals|flats|pumps|loafers|slippers|oxfords|mules|footwe"),
        (19, 89),
        {"color": COLOURS, "size": ("6", "7", "8", "9", "10", "11")},
        (
            "men's sneakers", "women's sneakers", "hiking boots", "women's sandals",
            "men's loafers", "house slippers", "ankle boots", "ballet flats",
        ),
        (
            "rubber sole", "memory foam", "arch support", "non slip", "slip on", "lace up",
            "water resistant", "ethylene vinyl", "closed toe", "faux fur", "ankle strap",
            "day comfort",
        ),
    ),
    Department(
        "Clothing, Shoes & Jewelry",
        "Clothing",
        re.compile(r"^(wo)?men's (?!fragrance)"),
        (9, 59),
        {"color": COLOURS, "size": ("small", "medium", "large")},
        (
            "men's shirts", "women's tops", "men's jeans", "women's dresses", "men's jackets",
            "women's sweaters", "men's shorts", "women's leggings",
        ),
        (
            "machine wash", "long sleeve", "short sleeve", "slim fit", "classic fit", "quick dry",
            "high waist", "button closure", "elastic waistband", "polyester spandex",
            "moisture wicking", "hand wash",
        ),
    ),
    Department(
        "Grocery & Gourmet Food",
        "Pantry",
        re.compile(
            r"food|meat|snack|candy|meal|frozen|pantry|fruit|chees|peas|bars$|beverage|cream|cracker"
        ),
        (4, 39),
        {
            "flavor": ("original", "honey", "vanilla", "smoky", "sea salt", "garlic"),
            "size": ("single", "family pack", "case of twelve"),
        },
        (
            "granola bars", "dried fruits", "snack crackers", "herbal tea", "ground coffee",
            "roasted nuts", "pasta sauce", "chocolate cookies",
        ),
        (
            "gluten free", "non gmo", "low sugar", "dairy free", "high protein", "nut free",
            "artificial colors", "fat free", "high fiber", "ready eat", "plant based",
            "usda organic",
        ),
    ),
    Department(
        "Electronics",
        "Audio & Video",
        re.compile(
            r"speaker|soundbar|camera|flash|photo|video|cable|charger|projector|binocular|scopes"
            r"|televis|headphone|headset|receiver|player|screen prot|signal|surround|turntable"
            r"|lens|wireless|iphone|^mac$|mounts|power prot|printer|wearable|virtual|game|tripod"
            r"|^car |vcr"
        ),
        (9, 149),
        {"color": COLOURS, "style": ("basic", "deluxe", "bundle")},
        (
            "bluetooth speakers", "wireless headphones", "hdmi cables", "phone chargers",
            "digital cameras", "video projectors", "tablet stands", "computer keyboards",
        ),
        (
            "high speed", "plug play", "hands free", "noise cancelling", "fast charging",
            "stereo sound", "gold plated", "water proof", "long battery", "remote control",
            "easy install", "high resolution",
        ),
    ),
    Department(
        "Beauty & Personal Care",
        "Care",
        re.compile(
            r"hair|makeup|skin|scrub|body|tooth|tongue|fragrance|nail|\blip|bath|deodor|shav|dent"
            r"|cotton|container|bags|shampoo|oils|piercing|styling|orthodon|^products$|^tools$"
        ),
        (5, 49),
        {
            "scent": ("lavender", "coconut", "peppermint", "unscented", "jasmine"),
            "size": ("travel", "standard", "refill pouch"),
        },
        (
            "hair masks", "face scrubs", "body lotion", "lip balm", "makeup brushes", "shampoo",
            "hand soap", "nail polish",
        ),
        (
            "cruelty free", "paraben free", "sulfate free", "long lasting", "tea tree",
            "dead skin", "sensitive skin", "hair growth", "easy use", "fine lines",
            "hyaluronic acid", "coconut oil",
        ),
    ),
    Department(
        "Home & Kitchen",
        "Furniture & Decor",
        re.compile(""),
        (19, 299),
        {"color": COLOURS, "size": ("small", "medium", "large")},
        (
            "coffee tables", "floor lamps", "bar stools", "throw blankets", "wall mirrors",
            "bookcases", "dining chairs", "storage cabinets",
        ),
        (
            "living room", "solid wood", "easy assemble", "stainless steel", "heavy duty",
            "space saving", "mid century", "faux leather", "metal legs", "tempered glass",
            "high density", "easy clean",
        ),
    ),
)  # fmt: skip


def department_of(kind: str) -> Department:
    """Where a kind of product is sold."""
    return next(each for each in DEPARTMENTS if kind in each.kinds or each.known_by.search(kind))

"""Pictures as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

# Pixels of white between the pictures of a grid.
GAP = 4


def to_png(picture: Picture, side: int | None = None) -> bytes:
    """A picture as a PNG file.

    Args:
        picture: uint8[height, width, 3].
        side: longest side that it may have, in pixels; a larger one is made smaller. None leaves
            it as it is.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    image = Image.fromarray(picture)
    if side is not None:
        image.thumbnail((side, side))
    file, origin = io.BytesIO(), PngInfo()
    # Only what says that genepool wrote it is ever replaced; see `output.own_files`.
    origin.add_text("Software", "genepool")
    image.save(file, "PNG", optimize=True, pnginfo=origin)
    return file.getvalue()


def from_png(png: bytes, like: Picture | None = None) -> Picture:
    """The picture in a PNG file, uint8[height, width, 3]; of another's size, if one is given."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        found = image.convert("RGB")
        if like is not None and found.size != like.shape[1::-1]:
            found = found.resize((like.shape[1], like.shape[0]))
        return np.asarray(found)


def grid(rows: Sequence[Sequence[Picture]], enlarge: int = 1) -> Picture:
    """Pictures of one size side by side, uint8[height, width, 3]; rows may differ in length.

    Args:
        rows: at least one picture in all.
        enlarge: how many pixels of the grid, along a side, each pixel of a picture becomes.
    """
    height, width = (enlarge * side for side in next(one for row in rows for one in row).shape[:2])
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    out = np.full(size, 255, dtype=np.uint8)
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            y, x = down * (height + GAP), across * (width + GAP)
            large = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
            out[y : y + height, x : x + width] = large
    return out

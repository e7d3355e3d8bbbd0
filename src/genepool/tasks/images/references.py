"""Real pictures that belong to examples: files of a folder, rows of an array, or in the example."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from genepool.errors import ConfigError, MissingExtraError
from genepool.messages import at, cause, one_line, shown, some

UInt8 = NDArray[np.uint8]

# Gives the picture of an example, uint8[H, W, 3]; raises ConfigError.
Read = Callable[[Mapping[str, Any], str], UInt8]

# A picture that unpacks to more pixels, or an array that does to more bytes, is not unpacked.
_MOST_PIXELS, _MOST_BYTES = 2**26, 2**34
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_PLAIN = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")


def reader(source: str | None, key: str, directory: Path) -> Read:
    """What reads the real pictures of examples.

    Args:
        source: a folder, or `file.npz` or `file.npz:array`; None where the examples hold the
            pictures themselves.
        key: of the example: the name of a file, the number of a row, or the picture.
        directory: that relative paths start from.

    Raises:
        ConfigError: there is no such folder or array.
        MissingExtraError: Pillow is not installed.
    """
    if source is None:
        return lambda example, what: _of_array(example.get(key), f"{what}: '{key}'")
    path, _, array = source.rpartition(":")
    if source.endswith(".npz") or path.endswith(".npz"):
        file, name = (source, None) if source.endswith(".npz") else (path, array)
        rows = _rows(directory / file, name)
        return lambda example, what: rows[_row(example, key, rows.shape[0], what)]
    folder = directory / source
    if not folder.is_dir():
        raise ConfigError(
            f"pictures: {at(folder)}: no such folder; expected one with pictures, or an .npz file "
            "('file.npz:array')"
        )
    return lambda example, what: _read_file(_file(example, key, folder, what), what)


def _row(example: Mapping[str, Any], key: str, rows: int, what: str) -> int:
    value = example.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < rows:
        raise ConfigError(
            f"{what} has no reference picture: expected in '{one_line(key)}' the number of a row, "
            f"0 to {rows - 1}; got {shown(value)}"
        )
    return value


def _file(example: Mapping[str, Any], key: str, folder: Path, what: str) -> Path:
    value = example.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(
            f"{what} has no reference picture: expected in '{one_line(key)}' the name of a file in "
            f"{at(folder)}; got {shown(value)}"
        )
    path = folder / value
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        there = path.is_file()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{what}: {at(path)} cannot be read: {cause(error)}") from error
    if not inside:
        raise ConfigError(f"{what}: {at(path)} lies outside of {at(folder)}")
    if not there:
        raise ConfigError(f"{what} has no reference picture: there is no file {at(path)}")
    return path


def _read_file(path: Path, what: str) -> UInt8:
    """A picture as people see it: turned as it says, and on white where it is transparent."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtraError("pillow", "pictures", "reading pictures") from None
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if math.prod(image.size) > _MOST_PIXELS:
                raise ConfigError(_too_large(what, path, image.size))
            if image.mode not in _PLAIN:
                raise ConfigError(
                    f"{what}: {at(path)} has pixels of kind '{one_line(image.mode)}'; save it with "
                    "8 bits a colour"
                )
            turned = ImageOps.exif_transpose(image)
            clear = turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info
            if clear:
                turned = turned.convert("RGBA")
                white = Image.new("RGBA", turned.size, (255, 255, 255, 255))
                turned = Image.alpha_composite(white, turned)
            return np.asarray(turned.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ConfigError(_too_large(what, path, None)) from error
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{what}: {at(path)} is no picture that can be read ({', '.join(_FORMATS)}): "
            f"{cause(error)}"
        ) from error


def _too_large(what: str, path: Path, size: tuple[int, int] | None) -> str:
    pixels = "more pixels than that" if size is None else f"{size[0]}x{size[1]} pixels"
    return f"{what}: {at(path)} unpacks to {pixels}; at most {_MOST_PIXELS} are read"


def _rows(path: Path, name: str | None) -> UInt8:
    """The pictures in an array of an .npz file, uint8[rows, H, W, 3]."""
    if not path.is_file():
        raise ConfigError(f"pictures: {at(path)}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            known = [one[:-4] for one in archive.namelist() if one.endswith(".npy")]
            if name is None and len(known) == 1:
                name = known[0]
            if name is None or name not in known:
                problem = "say which array" if name is None else f"has no array '{one_line(name)}'"
                raise ConfigError(
                    f"pictures: {at(path)} {problem} ('file.npz:array'); it holds {some(known, 12)}"
                )
            with archive.open(f"{name}.npy") as stream:
                array = _array(stream, f"pictures: {at(path)}, '{name}'")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise ConfigError(f"pictures: {at(path)} cannot be read: {cause(error)}") from error
    array.setflags(write=False)
    return array


def _array(stream: IO[bytes], what: str) -> UInt8:
    version = np.lib.format.read_magic(stream)
    heads = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in heads:
        raise ConfigError(f"{what}: is no array of pictures (format {version})")
    shape, columns_first, dtype = heads[version](stream)
    _require_pictures(shape, dtype, what, rows=True)
    if math.prod(shape) > _MOST_BYTES:
        raise ConfigError(f"{what}: unpacks to {math.prod(shape)} bytes; at most {_MOST_BYTES}")
    with contextlib.closing(stream):
        data = stream.read(math.prod(shape) + 1)
    if len(data) != math.prod(shape):
        raise ConfigError(f"{what}: promises {math.prod(shape)} bytes and holds {len(data)}")
    order: Literal["F", "C"] = "F" if columns_first else "C"
    return _coloured(np.frombuffer(data, dtype=np.uint8).reshape(shape, order=order), rows=True)


def _of_array(value: Any, what: str) -> UInt8:
    if not isinstance(value, np.ndarray):
        raise ConfigError(
            f"{what}: expected a reference picture, an array uint8[height, width, 3]; got "
            f"{shown(value)}. Pictures in files need 'pictures', which says where these are"
        )
    array = cast("NDArray[Any]", value)
    _require_pictures(array.shape, array.dtype, what, rows=False)
    return _coloured(array, rows=False)


def _require_pictures(
    shape: tuple[int, ...], dtype: np.dtype[Any], what: str, *, rows: bool
) -> None:
    inner = shape[1:] if rows else shape
    fine = len(inner) == 2 or (len(inner) == 3 and inner[2] == 3)
    if dtype != np.uint8 or not fine or 0 in shape:
        first = "rows, " if rows else ""
        raise ConfigError(
            f"{what}: expected uint8[{first}height, width, 3], or without the 3 for grey; got "
            f"{dtype} of shape {shape}"
        )


def _coloured(array: NDArray[Any], *, rows: bool) -> UInt8:
    if array.ndim == (4 if rows else 3):
        return array
    return np.repeat(array[..., None], 3, axis=-1)

"""Labelled examples for the classifier: scikit-learn's digits, .npz, .npy and IDX files.

IDX is the format of the MNIST files: two zero bytes, a type code, the number of dimensions, the
sizes as big-endian uint32, then the values, big-endian. A file that ends in `.gz` is unpacked.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.errors import ConfigError, MissingExtraError
from genepool.messages import at, cause, count, one_line, some

_DIGITS = "datasets/data/digits.csv.gz"
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, MemoryError)


@dataclass(frozen=True, eq=False, slots=True)
class Labelled:
    """Examples and their labels.

    Attributes:
        inputs: float32[X, ...], finite; X >= 1 and at least one feature.
        labels: int64[X], at least 0.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]


def digits() -> Labelled:
    """Scikit-learn's 8x8 digits: float32[1797, 64], values 0..16, in stored order.

    They are read from the file in which scikit-learn has them, where it lies as today: importing
    scikit-learn takes two seconds, which each process of a run would wait for.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    if (found := importlib.util.find_spec("sklearn")) is None:
        raise MissingExtraError("scikit-learn", "digits", "the digits data")
    file = Path(found.origin or "").parent / _DIGITS
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return labelled(table[:, :-1], table[:, -1].astype(np.int64), "digits")
    from sklearn import datasets  # pyright: ignore  (no types)

    bunch = cast("Any", datasets).load_digits()
    return labelled(bunch.data, bunch.target, "digits")


def read_npz(path: Path) -> tuple[Labelled, Labelled | None]:
    """Read `x` and `y`, and `x_test` and `y_test` if they are there, from an .npz file.

    Raises:
        ConfigError: the file is missing or damaged, lacks an array or holds Python objects, or the
            arrays are no labelled examples.
    """
    arrays = read_npz_arrays(path)
    tested = bool({"x_test", "y_test"} & set(arrays))
    wanted = {"x", "y", "x_test", "y_test"} if tested else {"x", "y"}
    if missing := sorted(wanted - set(arrays)):
        raise ConfigError(
            f"{at(path)}: expected arrays x and y, and if there is a test set x_test and y_test; "
            f"it lacks {some(missing)} and holds {some(sorted(arrays))}"
        )
    train = labelled(arrays["x"], arrays["y"], f"{at(path)} (x, y)")
    if not tested:
        return train, None
    return train, labelled(arrays["x_test"], arrays["y_test"], f"{at(path)} (x_test, y_test)")


def read_npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file.

    Raises:
        ConfigError: the file is missing or damaged, or holds Python objects.
    """
    _require_file(path)
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise ConfigError(f"{at(path)}: not an .npz file (it is no zip archive)")
            stream.seek(0)
            with cast("np.lib.npyio.NpzFile", np.load(stream, allow_pickle=False)) as file:
                found: dict[str, Any] = {name: file[name] for name in file.files}
        for name, member in found.items():
            if not isinstance(member, np.ndarray):
                raise ConfigError(
                    f"{at(path)}: '{one_line(name)}' in it is no array (an .npz file holds .npy "
                    "files alone, as numpy.savez writes it)"
                )
        return found
    except _DAMAGED as error:
        raise ConfigError(f"{at(path)}: {_npy_trouble(error)}") from error


def read_array(path: Path) -> NDArray[Any]:
    """Read one array from a .npy or IDX file, or either of them gzipped.

    Raises:
        ConfigError: the file is missing, damaged or of another kind, or holds Python objects.
    """
    _require_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            stream = cast("IO[bytes]", file)
            head = stream.read(6)
            stream.seek(0)
            if head == b"\x93NUMPY":
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
            return _read_idx(stream, path)
    except _DAMAGED as error:
        raise ConfigError(f"{at(path)}: {_npy_trouble(error)}") from error


def labelled(inputs: NDArray[Any], labels: NDArray[Any], what: str) -> Labelled:
    """Check examples and labels.

    Args:
        inputs: [X, ...], numbers.
        labels: integers [X], at least 0.
        what: where they come from, for messages.

    Raises:
        ConfigError: a shape, a type, the number of labels, or a value is wrong.
    """
    if inputs.ndim < 2 or 0 in inputs.shape:
        raise ConfigError(
            f"{what}: expected examples of shape (examples, features...), at least one; got shape "
            f"{inputs.shape}"
        )
    if inputs.dtype.kind not in "biuf":
        raise ConfigError(f"{what}: expected examples of numbers; got dtype {inputs.dtype}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ConfigError(
            f"{what}: expected one integer label per example; got dtype {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if labels.shape[0] != inputs.shape[0]:
        raise ConfigError(
            f"{what}: {count(inputs.shape[0], 'example')} but {count(labels.shape[0], 'label')}; "
            "are these two of one set?"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(inputs, dtype=np.float32)
    finite = np.isfinite(values.reshape(values.shape[0], -1)).all(axis=1)
    if not finite.all():
        raise ConfigError(
            f"{what}: example {int(np.argmin(finite))} (counting from 0) holds NaN or infinity"
        )
    whole = labels.astype(np.int64)
    if whole.min() < 0:
        wrong = int(np.argmax(whole < 0))
        raise ConfigError(
            f"{what}: label {labels[wrong]} of example {wrong} (counting from 0) is out of range; "
            "labels count from 0"
        )
    return Labelled(values, whole)


def _read_idx(stream: IO[bytes], path: Path) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not magic[3]:
        hint = "; it is gzipped: end its name in .gz" if magic[:2] == _GZIP else ""
        raise ConfigError(
            f"{at(path)}: neither a .npy nor an IDX file (it begins with {one_line(magic)}){hint}"
        )
    dtype = np.dtype(_IDX_TYPES[magic[2]])
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ConfigError(f"{at(path)}: the IDX header is cut short")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    expected = math.prod(shape) * dtype.itemsize
    # One byte more than promised, to notice a file that is too long.
    data = _read_at_most(stream, expected + 1)
    if len(data) != expected:
        got = "more" if len(data) > expected else f"{len(data)}"
        raise ConfigError(
            f"{at(path)}: the IDX header promises {expected} bytes of values (shape "
            f"{shape}), but {got} follow; the file is cut short or damaged"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _read_at_most(stream: IO[bytes], size: int) -> bytearray:
    # Piece by piece, so that a header that lies about the size costs no memory.
    data = bytearray()
    while len(data) < size and (piece := stream.read(min(size - len(data), 2**20))):
        data += piece
    return data


def _require_file(path: Path) -> None:
    try:
        found, plain = path.exists(), path.is_file()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{at(path)}: cannot be read: {cause(error)}") from error
    if not found:
        raise ConfigError(f"{at(path)}: no such file")
    if not plain:
        raise ConfigError(f"{at(path)}: expected a file")


def _npy_trouble(error: BaseException) -> str:
    if "allow_pickle" in str(error) or "pickled" in str(error):
        return (
            "holds Python objects (a pickle, which can run code when it is loaded), so it is "
            "refused; save plain arrays of numbers"
        )
    return f"cannot be read (damaged, or of another kind?): {cause(error)}"

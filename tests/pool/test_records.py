"""Scores become bytes and scores again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genepool.core.archive import Verdict
from genepool.errors import PoolError
from genepool.pool.records import Record, pack_scores, to_row, unpack_scores

_whole = st.sampled_from([0.0, 1.0])
_any = st.floats(0, 1, width=32)


@given(
    st.one_of(_whole, _any).flatmap(
        lambda _: hnp.arrays(
            np.float32, st.integers(1, 70), elements=st.one_of(_whole, _any, st.just(np.nan))
        )
    )
)
def test_round_trip(scores: np.ndarray) -> None:
    packed = pack_scores(scores)
    assert unpack_scores(packed, scores.size).tobytes() == (scores + np.float32(0)).tobytes()


@given(hnp.arrays(np.float32, st.integers(1, 70), elements=_whole))
def test_whole_scores_take_a_bit_each(scores: np.ndarray) -> None:
    assert len(pack_scores(scores)) == 1 + -(-scores.size // 8)


@pytest.mark.parametrize("data", [b"", b"x", b"b", b"f\x00\x00", b"B\xff", b"b" + b"\x00" * 9])
def test_damaged_bytes(data: bytes) -> None:
    with pytest.raises(PoolError, match="damaged"):
        unpack_scores(data, 20)


def test_a_row_holds_no_numbers_of_numpy() -> None:
    numbers: dict[str, Any] = {
        "id": np.int64(7),
        "step": np.int32(5),
        "slot": np.int64(2),
        "evicted": np.int64(3),
    }
    numbers["asked"] = np.int64(9)
    others = {"fitness": np.float32(0.5), "train": np.float64(0.25), "mutation": np.float32(0)}
    plain = {"parents": (0, 1), "plan": "{}", "merge": b"", "digest": np.str_("d"), "genome": None}
    verdict = {"verdict": Verdict.ACCEPTED, "scores": None, "error": None}
    record = Record(**numbers, **others, **plain, **verdict, seconds=0.5)
    kinds = {type(value) for value in to_row(record)}
    assert kinds == {int, float, str, bytes, type(None)}

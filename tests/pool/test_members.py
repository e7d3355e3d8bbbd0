"""What a pool tells of a member: shares of the seeds, ancestry, names, the whole description."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.core.genome import digest, recipe
from genepool.core.shares import seed_shares
from genepool.errors import InputError, PoolError
from genepool.pool.members import ancestry, describe, member_number
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from tests.runs import opened_database, write_run


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("members")
    evolve(write_run(folder))
    return folder / "pool"


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_shares_are_the_means_over_positions(
    lengths: list[int], sources: int, bins: int, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    coefs = draws.integers(-3, 4, size=(len(lengths), sources)).astype(float)
    size = sum(lengths) * bins
    genome = recipe(np.cumsum([0, *lengths]) * bins, coefs)
    sizes = np.abs(np.repeat(coefs, np.array(lengths) * bins, axis=0))
    totals = sizes.sum(axis=1, keepdims=True)
    dense = np.where(totals > 0, sizes / np.where(totals > 0, totals, 1), 0)
    expected = dense.reshape(bins, size // bins, sources).mean(axis=1)
    assert np.allclose(seed_shares(genome, bins), expected, atol=1e-12)


def test_no_bins_are_refused() -> None:
    with pytest.raises(InputError, match="bins must be at least 1; got 0"):
        seed_shares(recipe([0, 2], np.ones((1, 1))), 0)


def test_ancestry_counts_generations_and_ancestors(pool: Path) -> None:
    with Pool(pool) as opened:
        parents = {record.id: record.parents for record in opened.records()}

        def generation(member: int) -> int:
            return 1 + max(map(generation, parents[member])) if parents[member] else 0

        def behind(member: int) -> set[int]:
            return set(parents[member]).union(*map(behind, parents[member]))

        found = [ancestry(opened, member) for member in parents]
    assert [a.generation for a in found] == [generation(member) for member in parents]
    assert [a.ancestors for a in found] == [len(behind(member)) for member in parents]
    assert max(a.generation for a in found) > 3


def test_a_member_that_descends_from_itself_is_a_damaged_pool(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=5))
    with opened_database(tmp_path / "pool") as db:
        db.execute("UPDATE members SET parents = '[6, 6]' WHERE id = 4")
        db.execute("UPDATE members SET parents = '[4, 4]' WHERE id = 6")
    db.close()
    with pytest.raises(PoolError, match="a row of 'members' is not what was written"):
        Pool(tmp_path / "pool")
    # Pools of version 1 had no seals.
    with opened_database(tmp_path / "pool") as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    with Pool(tmp_path / "pool") as opened, pytest.raises(PoolError, match="damaged pool"):
        ancestry(opened, 6)


def test_a_member_is_known_by_number_best_or_seed(pool: Path) -> None:
    with Pool(pool) as opened:
        assert member_number(opened, "17") == 17
        assert member_number(opened, "best") == opened.champion()
        assert member_number(opened, "seed2") == 1
        for text in ("worst", "-1", "1.5", "", "²"):
            with pytest.raises(InputError, match="expected a member's number, 'best', or a seed"):
                member_number(opened, text)


def test_every_member_can_be_described(pool: Path) -> None:
    with Pool(pool) as opened:
        alive = set(opened.slots().values())
        for record in opened.records():
            found = describe(opened, record.id)
            json.dumps(found, allow_nan=False)
            assert found["verdict"] == record.verdict
            assert found["alive"] == (record.id in alive)
            assert found["digest"] == record.digest
            shares = found["genome"]["shares"]
            assert list(shares) == ["seed1", "seed2"]
            assert sum(shares.values()) == pytest.approx(1)
            (task,) = found["tasks"]
            assert task["examples"] == 120
            if record.verdict == "stopped":
                assert 0 < task["asked"] < 120
                assert task["mean"] is None
                assert found["train"] is None
            else:
                assert task["asked"] == 120
                assert task["mean"] == pytest.approx(record.train)
            if record.step:
                assert found["plan"]["parents"] == found["parents"]
            else:
                assert found["name"] == f"seed{record.id + 1}"
        with pytest.raises(PoolError, match="there is no member 62; members are numbered 0 to 61"):
            describe(opened, 62)


def test_members_may_be_named_by_numbers_of_numpy(pool: Path) -> None:
    """`records` gave none from there on, and the others ended in a traceback."""
    with Pool(pool) as opened:
        last = opened.evaluations
        for number in (np.int64(last), np.uint8(last)):
            member = cast("int", number)
            assert [r.id for r in opened.records(member)] == [r.id for r in opened.records(last)]
            assert opened.record(member).id == last and opened.records(member)
            assert digest(opened.genome(member)) == digest(opened.genome(last))
            assert opened.parents(member) == opened.parents(last)
            assert opened.held_out_of([member]) == opened.held_out_of([last])


def test_a_pool_that_was_closed_is_not_called_damaged(pool: Path) -> None:
    """Who reads it in another thread was told to delete its log, and `status` was a traceback."""
    opened, found = Pool(pool), list[BaseException]()

    def read() -> None:
        for ask in (opened.status, lambda: opened.record(1)):
            try:
                ask()
            except PoolError as error:
                found.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert opened.status()["evaluations"] == opened.evaluations
    opened.close()
    read()
    assert len(found) == 4
    for error in found:
        assert "was closed, or opened by another thread; open it again" in str(error)
        assert "damaged" not in str(error)

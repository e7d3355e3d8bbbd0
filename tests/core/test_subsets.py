"""Subsets: which examples, with which capacities, and questions about them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genepool.core.early_stop.evaluation_plan import FullPlan, Selected
from genepool.core.examples import Examples, TaskExamples, examples_of, lay_out
from genepool.core.subsets import Subset, Subsets, draw_subset, everything


def _draw(
    sizes: list[int], weights: list[float], share: float, batch: int, number: int
) -> tuple[Examples, Subset]:
    blocks, first = [], 0
    for size in sizes:
        blocks.append(first + np.arange(size) // batch)
        first = int(blocks[-1][-1]) + 1
    held = np.concatenate(blocks) if batch > 1 else None
    tasks = [
        TaskExamples(str(index), size, weight)
        for index, (size, weight) in enumerate(zip(sizes, weights, strict=True))
    ]
    examples = lay_out(tasks, binary=True, blocks=held)
    return examples, draw_subset(Subsets(share, 10), number, examples, seed=3)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    share=st.floats(0.01, 0.99),
    batch=st.integers(1, 7),
    number=st.integers(0, 50),
    data=st.data(),
)
def test_a_round_has_its_share_of_every_task_in_whole_blocks(
    sizes: list[int], share: float, batch: int, number: int, data: st.DataObject
) -> None:
    weight = st.floats(0.1, 10)
    weights = [data.draw(weight) for _ in sizes]
    whole, drawn = _draw(sizes, weights, share, batch, number)
    indices = drawn.indices
    assert indices is not None
    assert (np.diff(indices) > 0).all()
    assert (drawn.start, drawn.stop) == (10 * number, 10 * number + 10)
    assert drawn.size == indices.size
    for start, stop in pairwise(whole.edges):
        mine = (indices >= start) & (indices < stop)
        enough = max(1, round(share * (stop - start)))
        assert enough <= mine.sum() < enough + batch
        # A task weighs what it weighs as a whole.
        np.testing.assert_allclose(
            drawn.examples.capacity[mine].sum(), whole.capacity[start:stop].sum()
        )
    if whole.blocks is not None:
        chosen = np.unique(whole.blocks[indices])
        assert np.isin(whole.blocks, chosen).sum() == indices.size
        assert drawn.examples.blocks is not None
        np.testing.assert_array_equal(chosen[drawn.examples.blocks], whole.blocks[indices])
    again = _draw(sizes, weights, share, batch, number)[1]
    assert again.indices is not None
    np.testing.assert_array_equal(again.indices, indices)


def test_rounds_differ_and_every_example_has_its_turn() -> None:
    seen = np.zeros(200, dtype=int)
    for number in range(100):
        examples = _draw([200], [1.0], 0.1, 1, number)[1].indices
        seen[examples] += 1
    assert seen.sum() == 100 * 20
    assert seen.min() >= 1
    # Ten times each on average, with the spread of chance: standard deviation 3.
    assert 2 < seen.std() < 4


def test_questions_keep_their_numbers_among_all_examples() -> None:
    known = np.full(10, np.nan, dtype=np.float32)
    known[[2, 3]] = 0.5
    examples = np.array([1, 3, 8])
    questions = Selected(FullPlan(known[examples]), examples, known)
    assert questions.next().tolist() == [1, 8]
    questions.record(np.array([8, 1]), np.array([0.25, 1.0], dtype=np.float32))
    assert questions.done
    expected = known.copy()
    expected[[1, 8]] = [1.0, 0.25]
    np.testing.assert_array_equal(questions.scores, expected)


def test_without_rounds_nothing_is_wrapped() -> None:
    whole = everything(examples_of(4, binary=True))
    scores = np.ones(4, dtype=np.float32)
    questions = FullPlan(scores)
    assert whole.part(scores) is scores
    assert whole.whole(questions, scores) is questions
    assert whole.stop is None

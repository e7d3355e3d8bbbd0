"""Search: BM25 over title, description, first bullet and options, as in WebShop."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np

from .products import Product

MOST = 50  # results of a search
# Lucene's stop words are about these; k1 and b below are those of Pyserini, which WebShop uses.
_STOP = "a an and are as at be by for from in is it of on or that the to with"
STOP = frozenset(_STOP.split())


def words_of(text: str) -> list[str]:
    """The words of a text as the search compares them: lower case, and without a plural's s."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"['’]s\b", "", text.lower()))
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in words
        if word not in STOP
    ]


class Search:
    """An index of products, in their order."""

    def __init__(self, products: Sequence[Product]) -> None:
        texts = [
            " ".join(
                [
                    *(product.title, product.description, *product.bullets[:1]),
                    *(f"{name}: {', '.join(values)}" for name, values in product.options.items()),
                ]
            )
            for product in products
        ]
        self._codes = [product.code for product in products]
        corpus = [words_of(text) or ["-"] for text in texts]
        self._known = {word for words in corpus for word in words}
        self._index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        self._index.index(corpus, show_progress=False)

    def find(self, keywords: str) -> tuple[str, ...]:
        """The codes of at most 50 products that share a word with the keywords, the best first."""
        words = [word for word in words_of(keywords) if word in self._known]
        if not words:
            return ()
        # Rounded, so that the last bit of a logarithm decides nothing; equals keep their order.
        scores = np.round(self._index.get_scores(words).astype(np.float64), 4)
        order = np.argsort(-scores, kind="stable")[:MOST]
        return tuple(self._codes[place] for place in order if scores[place] > 0)

"""The colours of the seeds, the same in every picture."""

from __future__ import annotations

# Okabe, Ito 2008: told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")

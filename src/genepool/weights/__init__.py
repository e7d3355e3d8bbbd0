"""Bytes: open checkpoints, lay them on the axis, take inner products, materialise genomes.

numba and torch are imported when the first kernel or the first torch tensor asks for them, never
when this package is.
"""

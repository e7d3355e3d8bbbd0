"""Genomes into memory: inner products of the seeds, and one pass over them for each child.

`cpu` and `torch` write a child; `gram` knows the inner products.
"""

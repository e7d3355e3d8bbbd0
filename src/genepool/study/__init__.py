"""Comparing strategies over many runs, with a test of significance; and what the demos breed.

`compare` is the room's face.
"""

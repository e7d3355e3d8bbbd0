"""Comparing strategies over many runs, with a test of significance; and the digits demo.

`compare` is the room's face.
"""

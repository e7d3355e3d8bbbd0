"""The shell around `Evolution`: run file, driver, resuming, guards, re-evaluation.

`evolve` is the room's face.
"""

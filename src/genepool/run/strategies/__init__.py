"""Strategies as a run file names them: their options, and how others' are found."""

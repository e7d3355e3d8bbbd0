"""Where a population lives: one SQLite file, which any number may read while one process writes.

`reader` and `writer` are the room's faces.
"""

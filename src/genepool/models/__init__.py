"""What lives: the model that children are written into and that tasks score.

A file for each kind; `kinds` lists them, and `build` makes one.
"""

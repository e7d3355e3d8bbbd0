"""What goes out: members of a pool, and merges by hand, as ordinary checkpoints.

`member`, `rebuild` and `by_hand` are the room's faces.
"""

"""What comes in: seeds, found wherever they lie, opened, compared and laid on one parameter axis.

`family` is the room's face.
"""

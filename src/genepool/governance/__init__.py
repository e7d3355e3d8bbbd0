"""What may be absorbed and what must be said of it: licences, and the model card.

`card` and `member_card` are the room's faces.
"""

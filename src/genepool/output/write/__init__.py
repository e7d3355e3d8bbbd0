"""Merged tensors onto disk, with the card, the recipe and the model files beside them."""

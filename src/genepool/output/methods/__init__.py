"""The methods of merging by hand: a file for each, and `registry`, which lists them."""

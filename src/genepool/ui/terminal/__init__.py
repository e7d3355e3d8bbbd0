"""The terminal: tables, progress, and numbers as people read them."""

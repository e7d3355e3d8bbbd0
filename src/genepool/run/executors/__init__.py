"""Where children are scored: in this process, or in worker processes."""

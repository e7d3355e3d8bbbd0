"""What runs compute, recorded before the source tree was rebuilt."""

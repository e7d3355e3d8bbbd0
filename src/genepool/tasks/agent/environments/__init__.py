"""Adapters, one file each: environments that live elsewhere, as `environment.Environment`."""

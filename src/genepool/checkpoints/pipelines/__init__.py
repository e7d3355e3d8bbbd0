"""Pipelines as diffusers saves them: several components, of which some evolve."""

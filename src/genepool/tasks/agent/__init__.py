"""Agents: models that act, turn by turn, in an environment that rewards what they have done."""

"""The run file in parts: its settings, the look at what it holds, and how mistakes are told."""

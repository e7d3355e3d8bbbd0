"""The commands: a file for each group, thin, importing what it needs when it runs."""

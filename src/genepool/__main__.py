"""`python -m genepool`."""

from genepool.ui.cli import script

if __name__ == "__main__":
    script()

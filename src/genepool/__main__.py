"""`python -m genepool`."""

from genepool.ui.cli.main import script

if __name__ == "__main__":
    script()

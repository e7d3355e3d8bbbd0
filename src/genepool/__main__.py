"""`python -m genepool`."""

from genepool.ui.cli import main

if __name__ == "__main__":
    main()

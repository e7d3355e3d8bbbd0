"""Contract tests for extensions of genepool, to be called from their own test suites."""

from genepool.testing.tasks import check_task

__all__ = ["check_task"]

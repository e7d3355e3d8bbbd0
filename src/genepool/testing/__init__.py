"""Contract tests for extensions of genepool, to be called from their own test suites."""

from genepool.testing.environments import check_environment
from genepool.testing.executors import check_executor
from genepool.testing.strategies import check_strategy
from genepool.testing.tasks import check_task

__all__ = ["check_environment", "check_executor", "check_strategy", "check_task"]

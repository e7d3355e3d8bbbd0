"""What scores: evaluators, which open tasks, and tasks, which score models example by example.

`task` is the contract.
"""

"""Strategies: who mates with whom, how, and who survives. Pure: state in, state out.

A file and a class for every name that users type; `evolution` is the loop that drives them.
"""

"""Bounds of what may be asked for, and of what stands in files that are not ours."""

MOST_ROUNDS = 1000
"""Of a cell in one run."""
LARGEST = 2**63 - 1
"""Of 64 bits; the smallest is one further from 0. Beyond them arithmetic, libraries and our own printing fail."""

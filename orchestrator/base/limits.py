"""Bounds of what stands in files that are not ours: beyond them arithmetic, libraries and our own printing fail."""

LARGEST = 2**63 - 1
"""Of 64 bits; the smallest is one further from 0."""

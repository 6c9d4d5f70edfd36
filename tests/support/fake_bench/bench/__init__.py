"""Stands in for bench where a test is about what happens around it."""

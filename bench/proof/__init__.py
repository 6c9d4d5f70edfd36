"""The checks of what was timed."""

"""What runs inside a stack: `python -m bench spec.json`. Standard library and torch only."""

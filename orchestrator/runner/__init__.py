"""`run-all` and its relatives: look, choose, make ready, run each round, store it, report."""

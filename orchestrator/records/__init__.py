"""What was measured: the record of one round, a run's folder, its references, and bundles of runs."""

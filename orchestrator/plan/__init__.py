"""What is to be run: workloads, models, suites, stacks, and the cells that a plan makes of them."""

"""The machine that runs all this: its GPUs, its Docker Engine, its locks, who owns what is left over."""

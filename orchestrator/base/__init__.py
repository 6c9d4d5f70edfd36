"""What every part stands on: errors, paths, files, text. It knows nothing of benchmarks."""

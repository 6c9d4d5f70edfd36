"""One exporter per file."""

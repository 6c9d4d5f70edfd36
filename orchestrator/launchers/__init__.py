"""Where a cell's process is started: `docker`, `local`."""

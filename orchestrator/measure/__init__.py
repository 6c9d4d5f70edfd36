"""One round, watched from outside: its spec, its events, telemetry, the host's load, what is valid."""

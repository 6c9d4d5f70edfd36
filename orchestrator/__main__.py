"""`python -m orchestrator`, and the command `orchestrator`."""

import signal


def main() -> None:
    """Run the command line and exit; a signal during the imports waits, and one at the interpreter's end is noted."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    from orchestrator.base.interrupt import heed

    heed()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    from orchestrator.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()

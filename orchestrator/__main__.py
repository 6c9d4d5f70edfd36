"""`python -m orchestrator`, and the command `orchestrator`."""

from orchestrator.base.interrupt import heed


def main() -> None:
    """Run the command line and exit; a signal during its imports is noted, and one at the interpreter's end."""
    heed()
    from orchestrator.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()

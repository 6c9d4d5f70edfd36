"""The command `orchestrator`, its group of commands, and how it ends: what went wrong is one line and an exit code.

What a command needs is imported when the command runs. Before that only click is.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Sequence

import click

from orchestrator.base import interrupt
from orchestrator.base.errors import EXIT_OK, EXIT_WRONG_USAGE, StackbenchError
from orchestrator.cli import host, results, running, schema

PROGRAM = "orchestrator"
INTERRUPTED = "interrupted; what was finished is kept"
EPILOG = (
    "Results go to standard output, everything else to standard error. To have commands, options and names completed: "
    'eval "$(_ORCHESTRATOR_COMPLETE=bash_source orchestrator)" in ~/.bashrc (zsh_source in ~/.zshrc).'
)
EXIT_INTERRUPTED = 130
"""Where Python raised for Ctrl-C, as no handler of ours was there: 128 + SIGINT, as shells have it."""


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from orchestrator.base.text import show
        from orchestrator.base.version import version

        show(f"{PROGRAM} {version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EPILOG)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Say which version this is."
)
def orchestrator() -> None:
    """Run the same LLM workloads on many software stacks and compare what comes back.

    With no options, `orchestrator run-all` does what suits this host and says so.
    """


for _module in (running, results, schema, host):
    for _command in vars(_module).values():
        if isinstance(_command, click.Command):
            orchestrator.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: errors that a person can act on are one line on stderr, never a traceback."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; that of a signal, where one has come."""
    _open_streams()
    failed: BaseException | None = None
    with interrupt.interruptible():
        try:
            result = orchestrator.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
            sys.stdout.flush()
        except (click.ClickException, StackbenchError, KeyboardInterrupt, click.Abort, OSError) as error:
            failed, result = error, None
        stopped = interrupt.exit_code()
        if stopped is not None:
            # It has said so itself, or what it says is but a consequence.
            return stopped if result == stopped else _fail(INTERRUPTED, stopped)
        if failed is not None:
            return _report(failed)
        return result if isinstance(result, int) else EXIT_OK


def _open_streams() -> None:
    """See that writing never fails because a stream is closed, or its encoding lacks a character."""
    from orchestrator.base.text import plain_characters

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed (`>&-`): the next file opened would take its number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    codecs.register_error(PROGRAM, plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PROGRAM)


def _report(error: BaseException) -> int:
    """Say in one line what went wrong and return the exit code."""
    if isinstance(error, StackbenchError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, OSError):
        from orchestrator.base.files import os_error

        return _fail(str(os_error(error, error.filename or "this host")), EXIT_WRONG_USAGE)
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else PROGRAM
        # Without a command click's message is the whole help: one line says it as well.
        line = "no command" if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
        return _fail(f"{line.rstrip('.')}; see `{command} --help`", EXIT_WRONG_USAGE)
    return _fail(INTERRUPTED, EXIT_INTERRUPTED)


def _fail(line: str, code: int) -> int:
    from orchestrator.base.text import one_line, show

    with contextlib.suppress(OSError):
        show(f"{PROGRAM}: {one_line(line)}", sys.stderr)
    return code

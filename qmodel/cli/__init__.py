"""The `qmodel` command: parse, call a study, print. Heavy imports wait until a command runs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_INTERNAL_ERROR = 3
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    0: ok; 1: the answer is "no"; 2: bad input; 3: internal error. On failure stderr gets one line of reason.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after ``qmodel``; the process's own by default.
    """
    from qmodel.cli.app import app
    from qmodel.cli.options import WORDS

    words = list(sys.argv[1:] if arguments is None else arguments)
    WORDS.set(tuple(words))
    for stream in (sys.stdout, sys.stderr):  # an ASCII terminal gets ? for what it lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = app(words, standalone_mode=False, prog_name="qmodel")
    except KeyboardInterrupt:
        _fail("interrupted", _INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the one place where every error becomes a line and a code
        _report(error)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> None:
    from qmodel.errors import QModelError

    if isinstance(error, QModelError):
        _fail(str(error), error.exit_code)
    if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands, named alone
        print(error)
        sys.exit(0)
    usage = getattr(error, "format_message", None)  # typer's own errors about options and arguments
    if usage is not None:
        _fail(str(usage()).replace("Value error, ", ""), 2)
    if type(error).__name__ == "Abort":
        _fail("interrupted", _INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if isinstance(error, OSError):
        _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    if os.environ.get("QMODEL_DEBUG"):
        raise error
    _fail(
        f"internal error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} "
        "(set QMODEL_DEBUG=1 for the traceback, and please report it)",
        _INTERNAL_ERROR,
    )


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(f"qmodel: {line}", file=sys.stderr)
    sys.exit(code)

# SPDX-License-Identifier: Apache-2.0
"""Structured logs, as text or as one JSON object per line. Every line names the run it belongs
to.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from antipode import private
from antipode.screen import visible

TEXT = "%(asctime)s %(levelname)s %(run)s %(name)s: %(message)s"
NOISY = (
    "taskflow",
    "keystoneauth",
    "openstack",
    "stevedore",
    "urllib3",
    "alembic",
    "botocore",
    "cliff",
    "requests",
)

_run_of_thread: ContextVar[str | None] = ContextVar("run", default=None)
_under_way: list[str] = []


class _WithRun(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.run = current_run() or "-"
        return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "run": record.__dict__.get("run", "-"),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Text(logging.Formatter):
    """One line for each record, and for a traceback indented lines, which are not taken for
    records.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {visible(line)}" for line in super().formatException(ei).split("\n"))


@contextmanager
def run_in_logs(run: str) -> Iterator[None]:
    """Name this run in the log lines of this thread, and of threads that `adopt` it, while the
    block runs.
    """
    token = _run_of_thread.set(run)
    _under_way.append(run)
    try:
        yield
    finally:
        _under_way.remove(run)
        _run_of_thread.reset(token)


def current_run() -> str | None:
    """The run that this thread works for.

    A thread that has adopted none works for the only run of the process, if there is exactly one.
    """
    return _run_of_thread.get() or (_under_way[0] if len(_under_way) == 1 else None)


def adopt(run: str | None) -> None:
    """Name a run in this thread's log lines from now on; an initializer for threads of a pool."""

    _run_of_thread.set(run)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A log file that only its owner can read, as names and addresses of VNFs are in it."""

    _failed = _fails = False

    def _open(self) -> TextIOWrapper:
        private.touch(Path(self.baseFilename))
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        self._failed = False
        super().emit(record)
        self._fails = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a full disk once, not with a traceback for every line that cannot be written."""
        self._failed, error = True, sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._fails and sys.stderr is not None:
            sys.stderr.write(f"antipode: the log {self.baseFilename}: {error.strerror}\n")


def log_to_stream(stream: TextIO, level: int, form: str) -> None:
    """Log to a stream: antipode's own lines from `level` on, and those of libraries from ERROR on
    unless `level` is DEBUG.
    """
    _add(logging.StreamHandler(stream), level, form)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in NOISY:
        logging.getLogger(name).setLevel(
            logging.NOTSET if level <= logging.DEBUG else logging.ERROR
        )


def log_to_file(path: Path, form: str) -> None:
    """Log everything from INFO on to a file that is rotated at 10 MB. Characters that UTF-8 does
    not have, such as a lone surrogate from a cloud, are escaped.
    """
    private.make_folder(path.parent)
    _add(
        _PrivateFile(
            path,
            maxBytes=10_000_000,
            backupCount=5,
            encoding="utf-8",
            errors="backslashreplace",
            delay=True,
        ),
        logging.INFO,
        form,
    )


def _add(handler: logging.Handler, level: int, form: str) -> None:
    handler.setLevel(level)
    handler.addFilter(_WithRun())
    handler.setFormatter(_Json() if form == "json" else _Text(TEXT))
    logging.getLogger().addHandler(handler)

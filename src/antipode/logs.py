"""Structured logs: every line carries the run it belongs to; as text or as one JSON object per
line.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
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
    """Log lines carry this run while the block runs: those of this thread, and of those that
    `adopt` it.
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

    A thread that was not told works for the only run there is, if there is one only.
    """
    return _run_of_thread.get() or (_under_way[0] if len(_under_way) == 1 else None)


def adopt(run: str | None) -> None:
    """Have this thread's log lines carry a run from now on; for the threads of a pool, as their
    initializer.
    """
    _run_of_thread.set(run)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A file that nobody else may read, whatever the directory it is in allows: names and addresses
    of VNFs are in it.
    """

    def _open(self) -> TextIOWrapper:
        private.touch(Path(self.baseFilename))
        return super()._open()


def log_to_stream(stream: TextIO, level: int, form: str) -> None:
    """Log to a stream, antipode's own lines from `level` on and other libraries' from WARNING
    unless `level` is DEBUG.
    """
    _add(logging.StreamHandler(stream), level, form)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in NOISY:
        logging.getLogger(name).setLevel(
            logging.NOTSET if level <= logging.DEBUG else logging.ERROR
        )


def log_to_file(path: Path, form: str) -> None:
    """Log everything from INFO on to a file that is turned over at 10 MB."""
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

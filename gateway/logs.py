"""Logs: one JSON object a line in production, text at a terminal."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def set_up(level: str = "info", stream: TextIO | None = None) -> None:
    """Configure structlog and quieten libraries that dump packets on their own."""
    out = stream or sys.stderr
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if out.isatty() else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    # Libraries that use the standard library's logging join the same lines. Two of them say in many words, and with
    # tracebacks, what our own links say in one: that a line is lost.
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)
    for name in ("pymodbus", "mqtt"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _ToStructlog(logging.Handler):
    """A library's record as one of our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), library=record.name, exc_info=record.exc_info)


def logger(**fields: object) -> FilteringBoundLogger:
    """A logger that already carries `fields`."""
    bound: FilteringBoundLogger = structlog.get_logger().bind(**fields)
    return bound

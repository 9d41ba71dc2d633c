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
    # pymodbus writes its last packets to the log on every error; paho and uvicorn report what we report ourselves.
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


def logger(**fields: object) -> FilteringBoundLogger:
    """A logger that already carries `fields`."""
    bound: FilteringBoundLogger = structlog.get_logger().bind(**fields)
    return bound

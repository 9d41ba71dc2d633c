"""Every error in one shape: application/problem+json (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from gateway.errors import Busy, ConfigError, Denied, StoreError, TooOften, WeakPassword


class Problem(BaseModel):
    """RFC 9457, section 3.1."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    errors: list[dict[str, str]] | None = None


HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "30"}}
FINDINGS_MAX = 20
"""Mistakes named in one answer; a request with more is not a slip of the pen."""
MEDIA_TYPE = "application/problem+json"

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 414, 422, 429, 500, 503)
}


def problem(
    path: str, status: int, detail: str | None = None, errors: list[dict[str, str]] | None = None
) -> JSONResponse:
    """The answer for one error."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, instance=path, errors=errors)
    headers = HEADERS.get(status)
    return JSONResponse(body.model_dump(exclude_none=True), status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Answer every error of the app this way."""

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return problem(request.url.path, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"at": ".".join(map(str, item["loc"])), "expected": item["msg"]}
            for item in list(error.errors())[:FINDINGS_MAX]
        ]
        return problem(request.url.path, 422, "; ".join(f"{item['at']}: {item['expected']}" for item in errors), errors)

    @app.exception_handler(StoreError)
    @app.exception_handler(Busy)
    @app.exception_handler(ConfigError)  # the ledger's file, which cannot be written at present
    async def unable(request: Request, error: Exception) -> JSONResponse:
        return problem(request.url.path, 503, str(error))

    @app.exception_handler(Denied)
    async def denied(request: Request, error: Denied) -> JSONResponse:
        return problem(request.url.path, 401, str(error))

    @app.exception_handler(WeakPassword)
    async def weak(request: Request, error: WeakPassword) -> JSONResponse:
        return problem(request.url.path, 422, str(error))

    @app.exception_handler(TooOften)
    async def too_often(request: Request, error: TooOften) -> JSONResponse:
        answer = problem(request.url.path, 429, str(error))
        answer.headers["Retry-After"] = str(math.ceil(error.wait_s))
        return answer

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        # The server logs the traceback; the caller learns nothing of our insides.
        return problem(request.url.path, 500, "a fault in the gateway; its log has the details")

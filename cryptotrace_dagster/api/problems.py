"""Errors of the API as RFC 9457 problem details.

Owns every error's type, title and status, and the handlers that turn exceptions into them, so that no answer is ever
a bare string or a traceback. Stays out: when something is an error (the endpoints).
"""

from http import HTTPStatus
from typing import Any

import duckdb
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from cryptotrace_dagster.storage import StorageError, WarehouseBusyError, WarehouseMissingError

PROBLEM_TYPE = "application/problem+json"
_log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    """One parameter that could not be accepted."""

    parameter: str = Field(description="Where it stands, e.g. query.limit.", examples=["query.limit"])
    reason: str = Field(description="What is wrong with it.", examples=["Input should be less than or equal to 10000"])


class ProblemDetails(BaseModel):
    """What went wrong, in the form of RFC 9457."""

    type: str = Field(description="Names the kind of problem.", examples=["urn:cryptotrace:problem:unknown-symbol"])
    title: str = Field(description="The kind of problem in words.", examples=["Unknown symbol"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(
        description="This case: what was found and what to do.", examples=["No trades of XYZ are stored."]
    )
    instance: str = Field(description="The path that was asked.", examples=["/bars"])
    errors: list[FieldProblem] = Field(default_factory=list, description="The parameters that were not accepted.")


class Problem(Exception):
    """An error with a kind, a title, a status and a sentence; raised by endpoints."""

    def __init__(self, status: int, kind: str, title: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.headers = headers or {}


def invalid_parameter(parameter: str, reason: str) -> Problem:
    """Return the 422 for a parameter whose value parses but makes no sense."""
    return Problem(422, "invalid-parameter", "Invalid parameter", f"{parameter}: {reason}")


def problem_response(
    request: Request,
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> JSONResponse:
    """Return the problem as a response."""
    body = {
        "type": f"urn:cryptotrace:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "errors": errors or [],
    }
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Teach the application to answer every exception with a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(StorageError, _on_storage_error)
    app.add_exception_handler(duckdb.CatalogException, _on_missing_table)
    app.add_exception_handler(Exception, _on_unexpected)


def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 -- Starlette calls the handler for this class only
    return problem_response(request, error.status, error.kind, error.title, error.detail, headers=error.headers)


def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    errors = [{"parameter": ".".join(map(str, e["loc"])), "reason": str(e["msg"])} for e in error.errors()]
    detail = "; ".join(f"{e['parameter']}: {e['reason']}" for e in errors)
    return problem_response(request, 422, "invalid-parameter", "Invalid parameter", detail, errors=errors)


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    title = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    kind = title.lower().replace(" ", "-")
    return problem_response(request, error.status_code, kind, title, f"{error.detail}; see /docs.", headers=headers)


def _on_storage_error(request: Request, error: Exception) -> JSONResponse:
    kinds = {WarehouseMissingError: "no-warehouse-yet", WarehouseBusyError: "warehouse-busy"}
    kind = kinds.get(type(error), "warehouse-unreadable")  # type: ignore[arg-type]
    _log.warning("api.warehouse_unreadable", kind=kind, error=str(error))
    return problem_response(
        request, 503, kind, kind.replace("-", " ").capitalize(), _without_paths(error), headers={"Retry-After": "2"}
    )


def _without_paths(error: Exception) -> str:
    if isinstance(error, WarehouseMissingError):
        return "There is no warehouse yet; start `cryptotrace up`, or ask again in a moment."
    if isinstance(error, WarehouseBusyError):
        return "The warehouse is being written and did not come free in time; ask again in a moment."
    return "The warehouse could not be read; `cryptotrace doctor` on the server says why."


def _on_missing_table(request: Request, error: Exception) -> JSONResponse:
    _log.warning("api.table_missing", error=str(error))
    detail = "The warehouse was made by an older release and lacks a table; restart ingestion to bring it up to date."
    return problem_response(request, 503, "warehouse-outdated", "Warehouse outdated", detail)


def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("api.unexpected_error", path=request.url.path, exc_info=error)
    detail = "An unexpected error happened; the server's log has the details."
    return problem_response(request, 500, "internal-error", "Internal error", detail)

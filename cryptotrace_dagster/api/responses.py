"""How an answer is dressed: the format that the client accepts, an entity tag, a 304 when nothing changed.

Owns content negotiation and conditional requests. Stays out: the rows themselves and how values are spelled (formats.py).
"""

import hashlib

import msgspec
import polars as pl
from fastapi import Request, Response

from cryptotrace_dagster import formats
from cryptotrace_dagster.api.models import encode_cursor
from cryptotrace_dagster.api.problems import Problem
from cryptotrace_dagster.queries import Page

JSON = "application/json"
MEDIA_TYPES: dict[str, str] = {
    JSON: "json",
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.parquet": "parquet",
}
NEXT_CURSOR_HEADER = "X-Next-Cursor"


def negotiated_type(accept: str) -> str:
    """Return our media type that the Accept header likes best; the order above decides among equals.

    Raises:
        Problem: 406 when it wants none of ours.
    """
    wishes = _parse_accept(accept or "*/*")
    best, best_quality = "", 0.0
    for ours in MEDIA_TYPES:
        quality = max(
            ((specificity, q) for wish, q in wishes if (specificity := _matches(wish, ours))), default=(0, 0.0)
        )[1]
        if quality > best_quality:
            best, best_quality = ours, quality
    if not best:
        offered = ", ".join(MEDIA_TYPES)
        raise Problem(406, "not-acceptable", "Not acceptable", f"Accept asks for none of what is offered: {offered}.")
    return best


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    wishes = []
    for part in accept.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        wishes.append((name.lower(), quality))
    return wishes


def _matches(wish: str, ours: str) -> int:
    """Return how exactly a wish names our type: 3 itself, 2 its family, 1 anything, 0 something else."""
    if wish == ours:
        return 3
    if wish == f"{ours.partition('/')[0]}/*":
        return 2
    return 1 if wish == "*/*" else 0


def page_response(request: Request, page: Page) -> Response:
    """Return a page of rows in the accepted format."""
    media_type = negotiated_type(request.headers.get("accept", ""))
    cursor = encode_cursor(page.next_position) if page.next_position else None
    if media_type == JSON:
        body = msgspec.json.encode({"items": formats.records(page.rows), "next_cursor": cursor})
    else:
        body = formats.WRITERS[MEDIA_TYPES[media_type]](page.rows)
    response = conditional_response(request, body, media_type)
    if cursor:
        next_url = request.url.include_query_params(cursor=cursor)
        response.headers["Link"] = f'<{next_url.path}?{next_url.query}>; rel="next"'
        response.headers[NEXT_CURSOR_HEADER] = cursor
    return response


def rows_response(request: Request, rows: pl.DataFrame) -> Response:
    """Return rows that are never more than a page."""
    return page_response(request, Page(rows, None))


def conditional_response(request: Request, body: bytes, media_type: str) -> Response:
    """Return the body with its entity tag, or 304 when the client has it already."""
    tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}
    wanted = {piece.strip().removeprefix("W/") for piece in request.headers.get("if-none-match", "").split(",")}
    if tag in wanted or "*" in wanted:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)

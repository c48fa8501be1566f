"""The HTTP side of the Discord double: webhooks, the bot's channel messages, and a control API.

Owns paths, bodies and status codes as Discord's API v10 has them, and what each fault answers. Limits are limits.py's,
storing is store.py's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cryptotrace_dagster.loopback import reset_connection, transport_of
from cryptotrace_dagster.receiver.faults import FaultQueue, ReceiverFault, ReceiverFaultKind
from cryptotrace_dagster.receiver.limits import RateBucket, RateLimits, size_problems
from cryptotrace_dagster.receiver.store import MessageStore

NONCES_KEPT = 1_000  # Discord checks a nonce for a few minutes
_GONE = {
    ReceiverFaultKind.NOT_FOUND: (404, 10_015, "Unknown Webhook"),
    ReceiverFaultKind.UNAUTHORIZED: (401, 0, "401: Unauthorized"),
    ReceiverFaultKind.FORBIDDEN: (403, 50_013, "Missing Permissions"),
}


class _Refused(Exception):
    """The message is not taken, and this is the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class ReceiverApp:
    """Builds the application over a store and a queue of faults."""

    def __init__(self, store: MessageStore, faults: FaultQueue, limits: RateLimits | None) -> None:
        self._store = store
        self._faults = faults
        self._limits = limits
        self._buckets: dict[str, RateBucket] = {}
        self._nonces: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self.requests = 0

    def build(self) -> Starlette:
        """Return the application."""
        routes = []
        for prefix in ("/api", "/api/v10"):
            hook = f"{prefix}/webhooks/{{webhook_id}}/{{token}}"
            routes += [
                Route(hook, self._webhook_message, methods=["POST"]),
                Route(hook, self._webhook_info, methods=["GET"]),
                Route(f"{hook}/messages/{{message_id}}", self._edit, methods=["PATCH"]),
                Route(f"{prefix}/channels/{{channel_id}}/messages", self._bot_message, methods=["POST"]),
                Route(f"{prefix}/channels/{{channel_id}}", self._channel_info, methods=["GET"]),
                Route(f"{prefix}/users/@me", self._bot_info, methods=["GET"]),
            ]
        return Starlette(
            routes=[
                *routes,
                Route("/_control/messages", self._messages),
                Route("/_control/fault", self._add_fault, methods=["POST"]),
                Route("/_control/faults", self._clear_faults, methods=["DELETE"]),
            ]
        )

    # --- Discord's own paths

    async def _webhook_message(self, request: Request) -> Response:
        channel = f"webhook {request.path_params['webhook_id']}"
        origin = {"webhook_id": request.path_params["webhook_id"]}
        is_waiting = request.query_params.get("wait", "false").lower() == "true"
        return await self._take(request, channel, origin, is_waiting)

    async def _bot_message(self, request: Request) -> Response:
        if not request.headers.get("Authorization", "").startswith("Bot "):
            return _refusal(401, 0, "401: Unauthorized")
        channel_id = request.path_params["channel_id"]
        return await self._take(request, f"channel {channel_id}", {"channel_id": channel_id}, is_waiting=True)

    async def _take(self, request: Request, channel: str, origin: dict[str, Any], is_waiting: bool) -> Response:
        """Receive a message, unless a fault or a limit stands in its way."""
        self.requests += 1
        fault = self._faults.next()
        if fault is not None and not fault.is_stored:
            return await self._failing(request, fault)
        bucket = self._buckets.setdefault(channel, RateBucket(self._limits)) if self._limits else None
        wait = bucket.take() if bucket else 0.0
        if wait > 0:
            return _too_many(wait, bucket)
        try:
            message, files = await _parse(request)
            stored = self._store_message(message, files, origin)
        except _Refused as refused:
            return refused.response
        if fault is not None and fault.kind is not ReceiverFaultKind.STALL:
            return await self._failing(request, fault)
        await asyncio.sleep(fault.delay_seconds if fault else 0)
        headers = bucket.headers() if bucket else {}
        if not is_waiting:
            return Response(status_code=204, headers=headers)
        return _json(_as_discord(stored), 200, headers)

    def _store_message(
        self, message: dict[str, Any], files: list[tuple[str, bytes]], origin: dict[str, Any]
    ) -> dict[str, Any]:
        if not message.get("content") and not message.get("embeds") and not files:
            raise _Refused(_refusal(400, 50_006, "Cannot send an empty message"))
        problems = size_problems(message, files)
        if problems:
            raise _Refused(_json({"message": "Invalid Form Body", "code": 50_035, "errors": problems}, 400, {}))
        nonce = str(message.get("nonce") or "")
        key = (str(origin.get("channel_id")), nonce)
        if nonce and message.get("enforce_nonce") and "channel_id" in origin and key in self._nonces:
            return self._nonces[key]
        kept = {name: message.get(name) for name in ("content", "embeds", "username", "nonce")}
        stored = self._store.add({**origin, **kept}, files)
        if nonce:
            self._nonces[key] = stored
            while len(self._nonces) > NONCES_KEPT:
                self._nonces.popitem(last=False)
        return stored

    async def _failing(self, request: Request, fault: ReceiverFault) -> Response:
        """Return the wrong answer; a reset connection never carries it."""
        if fault.kind is ReceiverFaultKind.RESET:
            reset_connection(transport_of(request))
        if fault.kind is ReceiverFaultKind.STALL:
            await asyncio.sleep(fault.delay_seconds)
        return _wrong_answer(fault)

    async def _edit(self, request: Request) -> Response:
        try:
            message, _ = await _parse(request)
        except _Refused as refused:
            return refused.response
        changes: dict[str, Any] = {name: message[name] for name in ("content", "embeds") if name in message}
        edited = self._store.change(request.path_params["message_id"], changes)
        return _refusal(404, 10_008, "Unknown Message") if edited is None else _json(_as_discord(edited), 200, {})

    async def _webhook_info(self, request: Request) -> Response:
        fault = self._faults.next()
        if fault is not None:
            return await self._failing(request, fault)
        identity = request.path_params["webhook_id"]
        return _json({"id": identity, "type": 1, "name": "local", "channel_id": "1", "guild_id": None}, 200, {})

    async def _channel_info(self, request: Request) -> Response:
        return _json({"id": request.path_params["channel_id"], "type": 0, "name": "local"}, 200, {})

    async def _bot_info(self, request: Request) -> Response:
        if not request.headers.get("Authorization", "").startswith("Bot "):
            return _refusal(401, 0, "401: Unauthorized")
        return _json({"id": "1", "username": "local", "bot": True}, 200, {})

    # --- control

    async def _messages(self, request: Request) -> Response:
        """Return the messages after an id, oldest first; with a limit, the latest of them."""
        messages = self._store.messages
        after, limit = (request.query_params.get(name, "0") for name in ("after", "limit"))
        if not (after.isdigit() and limit.isdigit()):
            return _json({"error": "after and limit are whole numbers"}, 400, {})
        wanted = [message for message in messages if int(message["id"]) > int(after)] if int(after) else messages
        return _json(wanted[-int(limit) :], 200, {})  # a limit of 0 leaves out nothing

    async def _add_fault(self, request: Request) -> Response:
        try:
            fault = msgspec.json.decode(await request.body(), type=ReceiverFault)
        except msgspec.MsgspecError as error:
            return _json({"error": str(error)}, 400, {})
        self._faults.add(fault)
        return _json({"started": msgspec.to_builtins(fault)}, 200, {})

    async def _clear_faults(self, request: Request) -> Response:
        self._faults.clear()
        return Response(status_code=204)


async def _parse(request: Request) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Return the message and its files, from JSON or from a form with `payload_json`."""
    files: list[tuple[str, bytes]] = []
    if request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        body: str | bytes = "{}"
        async with request.form(max_files=20, max_part_size=20 * 1024 * 1024) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files.append((value.filename or name, await value.read()))
                elif name == "payload_json":
                    body = value
    else:
        body = await request.body()
    try:
        return msgspec.json.decode(body, type=dict[str, Any]), files
    except msgspec.MsgspecError as error:
        raise _Refused(_refusal(400, 50_109, "The request body contains invalid JSON.")) from error


def _as_discord(message: dict[str, Any]) -> dict[str, Any]:
    """Return the stored message as Discord shows it."""
    attachments = [
        {"id": str(index), "filename": kept["filename"], "size": kept["size"], "url": f"local://{kept['filename']}"}
        for index, kept in enumerate(message["attachments"])
    ]
    return {
        "id": message["id"],
        "type": 0,
        "channel_id": message.get("channel_id", "1"),
        "timestamp": message["arrived_at"],
        "content": message.get("content") or "",
        "embeds": message.get("embeds") or [],
        "nonce": message.get("nonce"),
        "attachments": attachments,
    }


def _wrong_answer(fault: ReceiverFault) -> Response:
    match fault.kind:
        case ReceiverFaultKind.NOT_FOUND | ReceiverFaultKind.UNAUTHORIZED | ReceiverFaultKind.FORBIDDEN:
            answer = _refusal(*_GONE[fault.kind])
        case ReceiverFaultKind.RATE_LIMITED:
            answer = _too_many(fault.retry_after, None)
        case ReceiverFaultKind.RATE_LIMITED_BARE:
            answer = _json(_limited_body(fault.retry_after), 429, {})
        case ReceiverFaultKind.RATE_LIMITED_BY_PROXY:
            answer = Response("<html><body>error code: 1015</body></html>", 429, media_type="text/html")
        case ReceiverFaultKind.SERVER_ERROR:
            answer = _refusal(fault.status, 0, "Internal Server Error")
        case _:
            answer = Response(status_code=fault.status)
    return answer


def _limited_body(seconds: float) -> dict[str, Any]:
    return {"message": "You are being rate limited.", "retry_after": round(seconds, 3), "global": False}


def _too_many(seconds: float, bucket: RateBucket | None) -> Response:
    headers = (bucket or RateBucket(RateLimits())).headers() | {
        "Retry-After": str(int(seconds + 0.999)),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset-After": f"{seconds:.3f}",
        "X-RateLimit-Scope": "user",
        "Via": "1.1 google",
    }
    return _json(_limited_body(seconds), 429, headers)


def _refusal(status: int, code: int, message: str) -> Response:
    return _json({"message": message, "code": code}, status, {})


def _json(content: object, status: int, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")

"""The control server of node 0: what a client may ask of a machine, over HTTP."""

from __future__ import annotations

import hmac
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from multitask import __version__
from multitask.machine import protocol
from multitask.machine.files import RefusedError

if TYPE_CHECKING:
    from multitask.machine.job import Job

_BODY = 64 * 1024
_RETRY_SECONDS = "10"

Handler = Callable[[Request], Awaitable[Response]]


def make_app(job: Job) -> Starlette:
    """Build the server's application around a job."""
    control = _Control(job)
    path = protocol.FILES_PATH + "/{path:path}"
    routes = [
        Route(protocol.HEALTH_PATH, control.health),
        Route(protocol.STATUS_PATH, control.guard(control.status)),
        Route(protocol.FILES_PATH, control.guard(control.list)),
        Route(path, control.guard(control.get), methods=["GET"]),
        Route(path, control.guard(control.put), methods=["PUT"]),
        Route(protocol.START_PATH, control.guard(control.start), methods=["POST"]),
        Route(protocol.EVENTS_PATH, control.guard(control.events)),
        Route(protocol.LOGS_PATH, control.guard(control.logs)),
        Route(protocol.STOP_PATH, control.guard(control.stop), methods=["POST"]),
        Route(protocol.RELEASE_PATH, control.guard(control.release), methods=["POST"]),
    ]
    return Starlette(routes=routes)


def serve(job: Job, host: str, port: int) -> Callable[[], None]:
    """Serve a job in a thread of its own.

    Returns:
        Ends it.

    Raises:
        OSError: The port is taken.
    """
    import uvicorn

    sock = socket.create_server((host, port))
    config = uvicorn.Config(
        make_app(job), access_log=False, log_level="warning", timeout_graceful_shutdown=2,
        server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=[[sock]], daemon=True, name="control server")
    thread.start()

    def end() -> None:
        server.should_exit = True
        thread.join(timeout=10.0)
        sock.close()

    return end


class _Control:
    """The requests. What touches the disk or waits runs in threads."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._token = job.settings.token.encode()

    def guard(self, handler: Handler) -> Handler:
        """Let through who knows the token, and turn refusals into answers."""

        async def guarded(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            known = hmac.compare_digest(given.strip().encode(), self._token)
            if scheme.lower() != "bearer" or not known:
                return JSONResponse({"error": "wrong or no token"}, 401)
            self._job.client_seen()
            try:
                return await handler(request)
            except RefusedError as error:
                body: dict[str, Any] = {"error": str(error)}
                if error.received is not None:
                    body["received"] = error.received
                return JSONResponse(body, error.status)
            except ClientDisconnect:
                return Response(status_code=400)
            except OSError as error:
                return JSONResponse({"error": f"the volume: {error.strerror or error}"}, 507)

        return guarded

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"ok": True, "version": __version__})

    async def status(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(await run_in_threadpool(self._job.status))

    async def list(self, request: Request) -> Response:
        prefix = request.query_params.get("prefix", "")
        return JSONResponse({"files": await run_in_threadpool(self._job.files.entries, prefix)})

    async def get(self, request: Request) -> Response:
        name = request.path_params["path"]
        path = await run_in_threadpool(self._job.files.open, name)
        digest = await run_in_threadpool(self._job.files.hash_of, name)
        if digest is None:
            body = {"error": f"{name} is being hashed; ask again"}
            return JSONResponse(body, 503, {"Retry-After": _RETRY_SECONDS})
        return FileResponse(
            path, media_type="application/octet-stream", headers={"ETag": f'"{digest}"'}
        )

    async def put(self, request: Request) -> Response:
        offset, size = _whole(request, "offset"), _whole(request, "size")
        sha256 = request.query_params.get("sha256", "")
        if not self._job.takes_files:
            raise RefusedError(409, "the job has been started; its files are fixed")
        body = await _body(request, protocol.MAX_CHUNK)
        put = self._job.files.put
        path = request.path_params["path"]
        received = await run_in_threadpool(put, path, offset, size, sha256, body)
        self._job.uploading()
        return JSONResponse({"received": received})

    async def start(self, request: Request) -> Response:
        body = await _json(request)
        if body.get("bundle_sha256") != self._job.settings.bundle:
            raise RefusedError(409, "this machine was created for another bundle")
        missing = await run_in_threadpool(self._job.files.missing)
        if missing:
            more = {"error": f"{len(missing)} files are missing", "missing": missing}
            return JSONResponse(more, 409)
        self._job.ask_to_start()
        return JSONResponse({}, 202)

    async def events(self, request: Request) -> Response:
        start = _whole(request, "from")
        try:
            wait = float(request.query_params.get("wait", 0))
        except ValueError:
            raise RefusedError(400, "wait is a number of seconds") from None
        wait = min(max(0.0, wait), protocol.MAX_WAIT) if wait == wait else 0.0
        found = await run_in_threadpool(self._job.journal.read, start, wait)
        self._job.client_seen()
        return JSONResponse({"events": found, "next": start + len(found)})

    async def logs(self, request: Request) -> Response:
        start = _whole(request, "from")
        data, following = await run_in_threadpool(self._job.log.read, start, protocol.MAX_LOG)
        headers = {protocol.NEXT_HEADER: str(following)}
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    async def stop(self, request: Request) -> Response:
        reason = (await _json(request)).get("reason")
        known = reason if isinstance(reason, str) and reason else "the client asked for it"
        self._job.ask_to_stop(known[:500])
        return JSONResponse({}, 202)

    async def release(self, request: Request) -> Response:  # noqa: ARG002
        self._job.released_at = self._job.released_at or time.time()
        return JSONResponse({}, 202)


def _whole(request: Request, name: str) -> int:
    value = request.query_params.get(name, "0")
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise RefusedError(400, f"{name} is a whole number")
    return int(value)


async def _body(request: Request, most: int) -> bytes:
    """The body, read no further than it may be long."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most:
            raise RefusedError(413, f"a body has at most {most} bytes")
    return bytes(found)


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await _body(request, _BODY) or b"{}")
    except ValueError:
        raise RefusedError(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise RefusedError(400, "the body is a JSON object")
    return found

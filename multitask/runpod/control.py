"""The control server of a rented machine, as :mod:`multitask.machine.protocol` describes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast
from urllib.parse import quote, urlsplit

import httpx

from multitask.errors import InputError, MultitaskError
from multitask.machine import protocol
from multitask.runpod import api

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UnreachableError(MultitaskError):
    """The control server did not answer, or the platform's proxy answered in its place."""


class RefusedError(MultitaskError):
    """The control server refused a request.

    Attributes:
        status: The HTTP status.
        body: What it said.
    """

    def __init__(self, status: int, body: dict[str, Any], *, where: str) -> None:
        """Say what was refused."""
        said = str(body.get("error") or f"status {status}")
        missing = body.get("missing")
        if missing:
            said += f": {', '.join(map(str, missing[:5]))}"
        super().__init__(f"the machine refused: {said}", where=where)
        self.status = status
        self.body = body


def control_url(pod: str, port: int = protocol.DEFAULT_PORT) -> str:
    """Address of a pod's control server, through RunPod's proxy.

    Raises:
        InputError: The environment names an address that is not https.
    """
    url = os.environ.get(api.PROXY_ENV, api.PROXY_URL).format(pod=pod, port=port)
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise InputError(f"{url} is not https", where=api.PROXY_ENV, fix="use https, or unset it")
    return url.rstrip("/")


class Control:
    """Requests to one control server; none is sent twice from here.

    Every method raises :class:`UnreachableError` where trying again may help, and
    :class:`RefusedError` where it does not.
    """

    def __init__(self, url: str, token: str) -> None:
        """Talk to the server at ``url`` with its token."""
        self._url = url
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(60.0, connect=10.0),
        )

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def health(self) -> bool:
        """Whether a control server answers there."""
        try:
            return bool(self._json("GET", protocol.HEALTH_PATH).get("ok"))
        except MultitaskError:
            return False

    def status(self) -> protocol.Status:
        """Where the job stands."""
        found = self._json("GET", protocol.STATUS_PATH)
        if not isinstance(found.get("phase"), str):
            raise MultitaskError("has no 'phase'", where=f"GET {protocol.STATUS_PATH}")
        return cast(protocol.Status, found)

    def files(self, prefix: str = "") -> list[protocol.FileEntry]:
        """The files of the run on the machine."""
        query = {"prefix": prefix} if prefix else None
        rows = self._json("GET", protocol.FILES_PATH, query=query).get("files")
        if not isinstance(rows, list):
            raise MultitaskError("has no 'files'", where=f"GET {protocol.FILES_PATH}")
        return cast(list[protocol.FileEntry], rows)

    def put(self, path: str, content: bytes, *, offset: int, size: int, sha256: str) -> int:
        """Send a part of a file.

        Returns:
            Bytes of the file that the machine has, also where it wanted another part.
        """
        query = {"offset": str(offset), "size": str(size), "sha256": sha256}
        try:
            found = self._json("PUT", _file_path(path), query=query, content=content)
        except RefusedError as error:
            if error.status != 409:
                raise
            if "received" not in error.body:  # an earlier request of ours is still being written
                raise UnreachableError(str(error.body.get("error")), where=f"PUT {path}") from None
            found = error.body
        received = found.get("received")
        if not isinstance(received, int):
            raise MultitaskError("has no 'received'", where=f"PUT {path}")
        return received

    @contextmanager
    def get(self, path: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Read a file from ``offset`` on, in parts.

        Yields:
            Its bytes from there.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        where = f"GET {_file_path(path)}"
        try:
            with self._http.stream("GET", self._url + _file_path(path), headers=headers) as found:
                if found.status_code >= 300:
                    found.read()
                    raise _refused(found, where)
                if offset and found.status_code != 206:
                    raise RefusedError(found.status_code, {"error": "no ranges"}, where=where)
                yield found.iter_bytes()
        except httpx.HTTPError as error:
            raise _unreachable(error, where) from None

    def start(self, bundle: str) -> None:
        """Start the job; once more does nothing."""
        self._json("POST", protocol.START_PATH, json={"bundle_sha256": bundle})

    def events(self, start: int, wait: float) -> protocol.EventPage:
        """Events from number ``start`` on; waits for the first one up to ``wait`` seconds."""
        query = {"from": str(start), "wait": f"{min(wait, protocol.MAX_WAIT):g}"}
        found = self._json("GET", protocol.EVENTS_PATH, query=query)
        if not isinstance(found.get("events"), list) or not isinstance(found.get("next"), int):
            raise MultitaskError("has no 'events'", where=f"GET {protocol.EVENTS_PATH}")
        return cast(protocol.EventPage, found)

    def logs(self, start: int) -> tuple[str, int]:
        """The log from byte ``start`` on, and the byte to ask for next."""
        response = self._send("GET", protocol.LOGS_PATH, query={"from": str(start)})
        following = response.headers.get(protocol.NEXT_HEADER, "")
        return response.text, int(following) if following.isdigit() else start

    def stop(self, reason: str) -> None:
        """Ask for a checkpoint and the end of the job."""
        self._json("POST", protocol.STOP_PATH, json={"reason": reason})

    def release(self) -> None:
        """Say that nothing more is wanted of the machine."""
        self._json("POST", protocol.RELEASE_PATH)

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._send(method, path, **request)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnreachableError("something else answered", where=f"{method} {path}")
        return found

    def _send(
        self, method: str, path: str, *, query: dict[str, str] | None = None, **request: Any
    ) -> httpx.Response:
        where = f"{method} {path}"
        try:
            response = self._http.request(method, self._url + path, params=query, **request)
        except httpx.HTTPError as error:
            raise _unreachable(error, where) from None
        if response.status_code >= 300:
            raise _refused(response, where)
        return response


def _file_path(path: str) -> str:
    return f"{protocol.FILES_PATH}/{quote(path)}"


def _unreachable(error: httpx.HTTPError, where: str) -> UnreachableError:
    said = " ".join(str(error).split()) or type(error).__name__
    return UnreachableError(f"the machine does not answer ({said})", where=where)


def _refused(response: httpx.Response, where: str) -> MultitaskError:
    """A refusal of the control server has a JSON body; all else is the proxy's."""
    try:
        body = response.json()
    except ValueError:
        body = None
    ours = isinstance(body, dict) and ("error" in body or "received" in body)
    if response.status_code >= 500 or not ours:
        said = f": {body['error']}" if ours and "error" in body else " (the platform's proxy)"
        return UnreachableError(f"status {response.status_code}{said}", where=where)
    return RefusedError(response.status_code, body, where=where)

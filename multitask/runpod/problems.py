"""What RunPod's refusals mean (RFC 9457 problem details), each as one message."""

from __future__ import annotations

from typing import Any

import httpx

from multitask.errors import MultitaskError
from multitask.runpod import api

_KEY_FIX = (
    f"make a key with read and write access at {api.KEY_PAGE} and set it: export {api.KEY_ENV}=..."
)


class ServiceError(MultitaskError):
    """RunPod refused a request, or could not be reached.

    Attributes:
        status: The HTTP status; 0 when there was no answer.
        detail: What the service said.
    """

    def __init__(
        self, what: str, *, endpoint: str, status: int, detail: str = "", fix: str | None = None
    ) -> None:
        """Build the message; ``endpoint`` is a method and a path."""
        super().__init__(what, where=endpoint, fix=fix)
        self.status = status
        self.detail = detail or what


class NoCapacityError(ServiceError):
    """This shape was not placed. The service does not tell lack of capacity from a broken rule."""


class UnsureError(ServiceError):
    """Nobody knows whether the request was carried out: look before it is sent again."""


def refusal(endpoint: str, response: httpx.Response, *, creates: bool) -> ServiceError:
    """Turn a refusal into an error.

    Args:
        endpoint: Method and path.
        response: The service's answer, with a status of 300 or more.
        creates: Whether the request was to create a machine.
    """
    status, detail = response.status_code, _detail(response)
    if status == 401:
        return ServiceError(
            f"RunPod does not accept the key in {api.KEY_ENV} ({detail})",
            endpoint=endpoint,
            status=status,
            detail=detail,
            fix=_KEY_FIX,
        )
    if creates and status in (400, 403, 409):
        return NoCapacityError(
            f"RunPod did not place it: {detail}", endpoint=endpoint, status=status, detail=detail
        )
    if creates and status >= 500:
        return UnsureError(
            f"RunPod failed ({status}: {detail})", endpoint=endpoint, status=status, detail=detail
        )
    fixes = {
        402: f"add credit at {api.CONSOLE}/user/billing; an hour of the machines must be covered",
        403: f"the key in {api.KEY_ENV} lacks access to this; {_KEY_FIX}",
        422: f"the service has changed since {api.DATE}, or an option has a wrong value",
        429: "wait, and start the same command again",
    }
    return ServiceError(
        f"RunPod answered {status}: {detail}",
        endpoint=endpoint,
        status=status,
        detail=detail,
        fix=fixes.get(status),
    )


def _detail(response: httpx.Response) -> str:
    """What the problem document says, in one line; else the status' own words."""
    try:
        content: Any = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return f"{response.status_code} {response.reason_phrase}".strip()
    said = str(content.get("detail") or content.get("title") or response.reason_phrase)
    errors = content.get("errors")
    if isinstance(errors, list) and errors:
        said += " (" + "; ".join(str(error) for error in errors[:5]) + ")"
    return " ".join(said.split())[:500]

"""Calls to the Hub: repeated where that helps, and one clear message where it does not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar

from multitask.errors import InputError, MultitaskError

T = TypeVar("T")

ATTEMPTS = 4
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_AGAIN = "start the same command again; what is uploaded already is not sent again"


def calling(
    repo: str, ask: Callable[[], T], *, statuses: bool = True, known: tuple[int, ...] = ()
) -> T:
    """Call the Hub; wait and repeat on what passes, explain what does not.

    Args:
        repo: The repository it is about, for messages.
        ask: The call; may be made several times.
        statuses: Repeat on 429 and 5xx; not for calls of huggingface_hub that do so themselves.
        known: Statuses that the caller deals with; their errors are raised as they are.

    Raises:
        InputError: The Hub refuses: no login, no right, no such namespace, the name is taken.
        MultitaskError: The Hub fails or the connection breaks, again and again.
        HfHubHTTPError: One of the ``known`` statuses.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    wait = _FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except OfflineModeIsEnabled:
            raise InputError(
                "offline mode is on (HF_HUB_OFFLINE), so nothing can be uploaded",
                where=repo,
                fix="unset HF_HUB_OFFLINE",
            ) from None
        except (HfHubHTTPError, httpx.HTTPError, RuntimeError, json.JSONDecodeError) as error:
            found = _cause(error)
            status = status_of(found)
            if status in known:
                raise found from None
            passes = status == 429 or status >= 500
            repeat = (statuses and passes) or _is_broken(found)
            if not repeat or attempt == ATTEMPTS:
                raise explain(repo, found) from None
            time.sleep(max(wait, min(_retry_after(found), _LONGEST_WAIT)))
            wait *= 2
        except ValueError as error:  # the Hub's own check of the card, or of a file
            words = " ".join(str(error).split())
            raise MultitaskError(f"the Hub refuses the upload: {words}", where=repo) from None
    raise AssertionError("the loop above returns or raises")


def status_of(error: BaseException) -> int:
    """The HTTP status that an error stands for; 0 where there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def explain(repo: str, error: BaseException) -> MultitaskError:
    """The message for an error of the Hub; it holds no URL, since these can be signed."""
    status = status_of(error)
    refusals = {
        401: ("the Hub does not accept the login (401)", "run `hf auth login`, or renew HF_TOKEN"),
        403: (
            "the login may not write here (403)",
            "use a token with write access to this repository or its owner",
        ),
        404: (
            "the Hub has no such repository or owner, or does not show it to this login (404)",
            "check the name, and who you are with `hf auth whoami`",
        ),
        409: ("the repository exists already (409)", "choose another name, or pass --force"),
    }
    if status in refusals:
        what, fix = refusals[status]
        return InputError(what, where=repo, fix=fix)
    if status == 412:
        return MultitaskError(
            "someone else changed the repository meanwhile (412); it was left as it is",
            where=repo,
            fix="look at the change, then start the same command again",
        )
    if status == 429 or status >= 500:
        return MultitaskError(
            f"the Hub answers {status} again and again", where=repo, fix=f"later, {_AGAIN}"
        )
    if status:
        words = str(getattr(error, "server_message", "") or "").strip().splitlines()
        said = f": {words[0]}" if words else ""
        return MultitaskError(f"the Hub refuses the upload ({status}){said}", where=repo)
    if type(error).__name__ in ("ConnectError", "ConnectTimeout"):
        return MultitaskError("the Hub cannot be reached", where=repo, fix=f"later, {_AGAIN}")
    return MultitaskError(
        f"the connection to the Hub broke off ({type(error).__name__})", where=repo, fix=_AGAIN
    )


def _cause(error: BaseException) -> BaseException:
    """What is behind the RuntimeError that huggingface_hub wraps a failed upload in."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_broken(error: BaseException) -> bool:
    import httpx

    return isinstance(error, httpx.TransportError | json.JSONDecodeError)


def _retry_after(error: BaseException) -> float:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = str(headers.get("Retry-After", ""))
    return float(value) if value.isdigit() else 0.0

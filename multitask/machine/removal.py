"""The platform's API as far as a machine needs it: to remove itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from multitask.errors import MultitaskError
from multitask.machine.settings import Settings

_FIRST_WAIT = 2.0
_LONGEST_WAIT = 60.0
_TIMEOUT = 30.0
_CLUSTER_TRIES = 5

Say = Callable[[str], None]


class Remover:
    """Removes this machine, and with node 0 its cluster, through RunPod's API v2."""

    def __init__(
        self, settings: Settings, say: Say, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Act for the machine of ``settings``.

        Args:
            settings: The machine's job.
            say: Told of every try.
            sleep: Waits between tries.
        """
        self._settings, self._say, self._sleep = settings, say, sleep

    @property
    def possible(self) -> bool:
        """Whether this machine is one of the platform's and has a key."""
        return self._settings.api_key is not None and self._settings.pod_id is not None

    def remove(self) -> None:
        """Remove the cluster (node 0 of several) or this machine; tries until it works.

        Where that cannot be done, cluster and machine are tried in turn: a pod's key may have no
        right to delete clusters, and RunPod refuses to delete a single node of one (409). The
        other nodes do the same, themselves first, when they see that node 0 is gone.

        Raises:
            MultitaskError: There is nothing to remove it with.
        """
        if not self.possible:
            raise MultitaskError(
                "this machine cannot remove itself: RUNPOD_POD_ID or RUNPOD_API_KEY is not set",
                where="environment",
                fix="delete it in the console, or with `multitask runpod down`",
            )
        place = self._settings.place
        first = _CLUSTER_TRIES if place.node == 0 else 0
        wait, tries = _FIRST_WAIT, 0
        while True:
            tries += 1
            whole = place.nodes > 1 and (tries <= first or tries % 2 == 0)
            try:
                self._remove_cluster() if whole else self._remove_pod()
            except (httpx.HTTPError, MultitaskError) as error:
                self._say(f"removal, try {tries}, failed: {error}; again in {wait:.0f} s")
            else:
                return
            self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _remove_pod(self) -> None:
        self._delete(f"/pods/{self._settings.pod_id}")
        self._say("the platform has taken the order to remove this pod")

    def _remove_cluster(self) -> None:
        cluster = self._own_cluster()
        self._delete(f"/clusters/{cluster}")
        self._say(f"the platform has taken the order to remove cluster {cluster}")

    def _own_cluster(self) -> str:
        """The cluster that this pod says it belongs to, else the one of the job's name."""
        pod = self._get(f"/pods/{self._settings.pod_id}")
        member = pod.get("cluster")
        if isinstance(member, dict) and member.get("id"):
            return str(member["id"])
        clusters = self._get("/clusters").get("clusters") or []
        named = [c["id"] for c in clusters if c.get("name") == self._settings.name]
        if len(named) != 1:
            raise MultitaskError(
                f"{len(named)} clusters are called {self._settings.name!r}, so none is removed"
            )
        return str(named[0])

    def _get(self, path: str) -> dict[str, Any]:
        answer = httpx.get(self._url(path), headers=self._headers(), timeout=_TIMEOUT)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return {}
        answer.raise_for_status()
        found = answer.json()
        return found if isinstance(found, dict) else {}

    def _delete(self, path: str) -> None:
        answer = httpx.delete(self._url(path), headers=self._headers(), timeout=_TIMEOUT)
        if answer.status_code != httpx.codes.NOT_FOUND:  # gone already is as good
            answer.raise_for_status()

    def _url(self, path: str) -> str:
        return self._settings.api_url + path

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._settings.api_key}"}

"""RunPod's service over HTTPS: retries, rate limits, one message for each refusal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from multitask.errors import InputError, MultitaskError
from multitask.runpod import api
from multitask.runpod.problems import ServiceError, UnsureError, refusal

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TRIES = 5
_RATE_TRIES = 10
_LONGEST_WAIT = 120.0


def key_from_environment() -> str:
    """The account's key.

    Raises:
        InputError: There is none, or it cannot be one.
    """
    key = os.environ.get(api.KEY_ENV, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"{api.KEY_ENV} is not set" if not key else f"{api.KEY_ENV} holds no key",
            fix=f"make one at {api.KEY_PAGE}, then: export {api.KEY_ENV}=...",
        )
    return key


def base_url() -> str:
    """Where the service is; :data:`~multitask.runpod.api.URL_ENV` may name another place.

    Raises:
        InputError: The key would leave this machine unencrypted.
    """
    url = os.environ.get(api.URL_ENV, api.BASE_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise InputError(f"{url} is not https", where=api.URL_ENV, fix="use https, or unset it")
    return url


class RunPod:
    """The account's machines.

    Every method raises :class:`~multitask.runpod.problems.ServiceError` when the service refuses
    or cannot be reached, and :class:`~multitask.errors.MultitaskError` when it answers otherwise
    than documented.
    """

    def __init__(
        self,
        key: str | None = None,
        url: str | None = None,
        *,
        pause: Callable[[float], object] = time.sleep,
        backoff: float = 1.0,
    ) -> None:
        """Talk to the service.

        Args:
            key: The account's key; default: from the environment.
            url: The service's base; default: RunPod's, or what the environment says.
            pause: Waits a number of seconds.
            backoff: Seconds before the second try; they double from try to try.
        """
        self.url = url or base_url()
        self._pause, self._backoff = pause, backoff
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key or key_from_environment()}"},
            timeout=httpx.Timeout(60.0, connect=15.0),
        )

    def __enter__(self) -> RunPod:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    # --- pods

    def pods(self, *, members: bool = False) -> list[api.Pod]:
        """All pods; ``members``: also those of clusters."""
        query = {"includeClusterPods": "true"} if members else None
        return [api.read_pod(row) for row in self._get(api.PODS, query).rows("pods")]

    def pod(self, pod: str) -> api.Pod | None:
        """A pod; None when it is gone."""
        answer = self._find(api.pod_path(pod))
        return None if answer is None else api.read_pod(answer)

    def create_pod(self, body: Mapping[str, Any]) -> api.Pod:
        """Rent a pod.

        Raises:
            NoCapacityError: It was not placed.
            UnsureError: The answer was lost.
        """
        return api.read_pod(self._create(api.PODS, body))

    def act(self, pod: str, action: str) -> None:
        """Ask for a change of a pod's state: ``start``, ``stop``, ``restart``, ``terminate``."""
        self._send("POST", f"{api.pod_path(pod)}/action", {"action": action})

    # --- clusters

    def clusters(self) -> list[api.ClusterState]:
        """All clusters."""
        return [api.read_cluster(row) for row in self._get(api.CLUSTERS).rows("clusters")]

    def cluster(self, cluster: str) -> api.ClusterState | None:
        """A cluster; None when it is gone."""
        answer = self._find(api.cluster_path(cluster))
        return None if answer is None else api.read_cluster(answer)

    def cluster_pods(self, cluster: str) -> list[api.Pod]:
        """The nodes of a cluster; none when it is gone."""
        answer = self._find(api.cluster_pods_path(cluster))
        return [] if answer is None else [api.read_pod(row) for row in answer.rows("pods")]

    def create_cluster(self, body: Mapping[str, Any]) -> api.ClusterState:
        """Rent a cluster; as :meth:`create_pod`."""
        return api.read_cluster(self._create(api.CLUSTERS, body))

    # --- both

    def delete(self, kind: api.Kind, resource: str) -> None:
        """Remove a pod or a cluster with all its pods; one that is gone already is no error."""
        path = api.pod_path(resource) if kind == "pod" else api.cluster_path(resource)
        try:
            self._send("DELETE", path)
        except ServiceError as error:
            if error.status != 404:
                raise

    def volume(self, volume: str) -> api.Volume | None:
        """A network volume; None when there is none of that id."""
        answer = self._find(f"{api.VOLUMES}/{volume}")
        return None if answer is None else api.read_volume(answer)

    def gpu_prices(self) -> dict[str, float]:
        """List prices, USD per GPU and hour, by RunPod's id of the GPU type."""
        return api.read_gpu_prices(self._get(api.GPUS))

    # --- HTTP

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> api.Answer:
        return self._read("GET", path, self._send("GET", path, query=query))

    def _find(self, path: str) -> api.Answer | None:
        try:
            return self._get(path)
        except ServiceError as error:
            if error.status == 404:
                return None
            raise

    def _create(self, path: str, body: Mapping[str, Any]) -> api.Answer:
        response = self._send("POST", path, body, creates=True)
        return self._read("POST", path, response)

    def _read(self, method: str, path: str, response: httpx.Response) -> api.Answer:
        endpoint = f"{method} {path}"
        try:
            return api.Answer(endpoint, response.json())
        except ValueError:
            raise MultitaskError(
                "RunPod's answer is no JSON",
                where=endpoint,
                fix=f"is {api.URL_ENV} set to something else? {api.CONSOLE} shows what is billed",
            ) from None

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        creates: bool = False,
    ) -> httpx.Response:
        """Send until there is an answer that waiting does not better.

        A request that creates is sent again only where the service says that it did not look at
        it (429), or where no connection came about.
        """
        endpoint = f"{method} {path}"
        failures, limited = 0, 0
        while True:
            try:
                response = self._http.request(method, self.url + path, json=body, params=query)
            except httpx.HTTPError as error:
                failures += 1
                sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                problem: ServiceError = _unreachable(endpoint, error, unsure=creates and sent)
                if (creates and sent) or failures >= _TRIES:
                    raise problem from None
            else:
                if response.status_code < 300:
                    return response
                problem = refusal(endpoint, response, creates=creates)
                if response.status_code == 429:
                    limited += 1
                    if limited < _RATE_TRIES:
                        self._pause(self._retry_after(response))
                        continue
                    raise problem
                failures += 1
                if response.status_code < 500 or creates or failures >= _TRIES:
                    raise problem
            self._pause(self._backoff * 2 ** (failures - 1))

    def _retry_after(self, response: httpx.Response) -> float:
        text = response.headers.get("Retry-After", "")
        seconds = float(text) if text.isdigit() else 10.0 * self._backoff
        return min(seconds, _LONGEST_WAIT)


def _unreachable(endpoint: str, error: httpx.HTTPError, *, unsure: bool) -> ServiceError:
    what = " ".join(str(error).split()) or type(error).__name__
    kind = UnsureError if unsure else ServiceError
    return kind(
        f"RunPod cannot be reached ({what})",
        endpoint=endpoint,
        status=0,
        detail=what,
        fix="check this machine's network, then start the same command again",
    )

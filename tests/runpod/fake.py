"""A fake of RunPod's API v2 on loopback, after its OpenAPI document of 20 August 2026.

It checks requests against the schemas, keeps a ledger of what it bills, misbehaves as told, and
starts a machine for each pod through a hook. Requests to a pod's HTTP port go through
``/proxy/<pod>/<port>/...``, as they go through RunPod's proxy.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

KEY = "rpa_fakefakefake"
PRICES = {"NVIDIA A100-SXM4-80GB": 1.39, "NVIDIA H100 80GB HBM3": 2.69, "NVIDIA H200": 3.59}

_CONTAINER = {
    "args": str,
    "disk": int,
    "env": dict,
    "image": str,
    "ports": list,
    "name": str,
    "dataCenterIds": list,
    "mounts": dict,
    "startJupyter": bool,
    "startSsh": bool,
}
_POD = _CONTAINER | {
    "registry": str,
    "cloud": str,
    "cpu": dict,
    "gpu": dict,
    "globalNetworking": bool,
    "templateId": str,
}
_CLUSTER = _CONTAINER | {"type": str, "compute": dict}


class Machine(Protocol):
    """What a hook gives back for a pod."""

    port: int | None
    """Where its control server listens on loopback; None when it has none."""

    def stop(self) -> None:
        """End it at once, as a machine that is switched off."""


@dataclass
class FakePod:
    """A pod; ``status`` goes on by one with every look, until it runs."""

    id: str
    name: str
    gpu: str
    gpus: int
    env: dict[str, str]
    ports: list[str]
    cluster: str | None = None
    rank: int | None = None
    nodes: int = 1
    status: str = "PROVISIONING"
    machine: Machine | None = None
    stuck: str | None = None
    rate: float = 0.0
    created: float = field(default_factory=time.time)


@dataclass
class Entry:
    """A line of the ledger: one pod that is billed."""

    pod: str
    name: str
    rate: float
    created: float
    deleted: float | None = None

    @property
    def seconds(self) -> float:
        return (self.deleted or time.time()) - self.created


@dataclass
class FakeCluster:
    """A cluster and what was asked for."""

    id: str
    name: str
    gpu: str
    gpus: int
    pods: int
    created: float = field(default_factory=time.time)


@dataclass
class Faults:
    """How the service misbehaves.

    Attributes:
        no_capacity: Shapes ``(pods, gpus)`` that it cannot place.
        half: Shapes of which it makes one pod too few.
        broken: Shapes whose last pod goes to ERROR.
        stuck: Shapes that never leave STARTING.
        rate_limited: Requests that get 429.
        retry_after: What it then says, in seconds.
        failing: Requests (but POST) that get 503.
        lost_answers: Creations that are done, and whose answer is cut.
        failed_creations: Creations that get 500 and are not done.
        unauthorized: Every request gets 401.
        no_balance: Creations get 402.
        keep_deleted: Deletions that are answered and not done.
        network_down: Every connection is cut.
        cut_proxied: Proxied requests that are cut in the middle of their answer.
        proxy_down: Proxied requests get 502.
        price_factor: How much more than listed is billed.
        missing: A field that every answer lacks.
    """

    no_capacity: set[tuple[int, int]] = field(default_factory=set)
    half: set[tuple[int, int]] = field(default_factory=set)
    broken: set[tuple[int, int]] = field(default_factory=set)
    stuck: set[tuple[int, int]] = field(default_factory=set)
    rate_limited: int = 0
    retry_after: int = 0
    failing: int = 0
    lost_answers: int = 0
    failed_creations: int = 0
    unauthorized: bool = False
    no_balance: bool = False
    keep_deleted: int = 0
    network_down: bool = False
    cut_proxied: int = 0
    proxy_down: bool = False
    price_factor: float = 1.0
    missing: str | None = None


class ProblemError(Exception):
    """An answer of RFC 9457."""

    def __init__(self, status: int, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors


class CutError(Exception):
    """The connection ends without an answer."""


Hook = Callable[[FakePod], Machine | None]


class FakeRunPod:
    """The service's state. Every method is called under its lock."""

    def __init__(self, hook: Hook = lambda _pod: None) -> None:
        self.hook = hook
        self.faults = Faults()
        self.pods: dict[str, FakePod] = {}
        self.clusters: dict[str, FakeCluster] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.ledger: list[Entry] = []
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys = {KEY}
        self.lock = threading.RLock()
        self.url = ""

    # --- for tests

    @property
    def billing(self) -> list[Entry]:
        """What is billed now."""
        return [entry for entry in self.ledger if entry.deleted is None]

    def kill(self, pod: str) -> None:
        """Let a pod die."""
        with self.lock:
            self.pods[pod].status = "EXITED"
            machine, self.pods[pod].machine = self.pods[pod].machine, None
        if machine is not None:
            machine.stop()

    def add_volume(self, size: int = 500, data_center: str = "US-KS-2") -> str:
        volume = f"vol{len(self.volumes)}"
        self.volumes[volume] = {
            "id": volume,
            "name": "data",
            "size": size,
            "dataCenter": data_center,
            "type": "STANDARD",
        }
        return volume

    # --- requests

    def handle(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Answer a request to the API."""
        self.requests.append(f"{method} {path}")
        faults = self.faults
        if faults.unauthorized:
            raise ProblemError(401, "invalid bearer token")
        if faults.rate_limited > 0:
            faults.rate_limited -= 1
            raise ProblemError(429, "rate limit exceeded for the minute window")
        if faults.failing > 0 and method != "POST":
            faults.failing -= 1
            raise ProblemError(503, "upstream is not available")
        for pattern, handler in self._routes():
            found = re.fullmatch(pattern, f"{method} {path}")
            if found:
                return handler(*found.groups(), query=query, body=body)
        raise ProblemError(404, "resource not found")

    def _routes(self) -> list[tuple[str, Callable[..., tuple[int, Any]]]]:
        one = "([^/]+)"
        return [
            ("GET /pods", self._list_pods),
            ("POST /pods", self._create_pod),
            (f"GET /pods/{one}", self._get_pod),
            (f"DELETE /pods/{one}", self._delete_pod),
            (f"POST /pods/{one}/action", self._act),
            ("GET /clusters", self._list_clusters),
            ("POST /clusters", self._create_cluster),
            (f"GET /clusters/{one}", self._get_cluster),
            (f"DELETE /clusters/{one}", self._delete_cluster),
            (f"GET /clusters/{one}/pods", self._cluster_pods),
            (f"GET /network-volumes/{one}", self._get_volume),
            ("GET /catalog/gpus", self._gpus),
        ]

    def _list_pods(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        members = query.get("includeClusterPods") == "true"
        shown = [p for p in self.pods.values() if members or p.cluster is None]
        return 200, {"pods": [self._pod(pod) for pod in shown]}

    def _get_pod(self, pod: str, **_: Any) -> tuple[int, Any]:
        return 200, self._pod(self._known(self.pods, pod))

    def _create_pod(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        _check(body, _POD, ["name", "image"])
        gpu = body.get("gpu")
        if not isinstance(gpu, dict) or "id" not in gpu:
            raise ProblemError(400, "exactly one of gpu or cpu must be set")
        _only(gpu, {"id", "count", "allowedCudaVersions", "minCudaVersion"})
        self._place(body, 1, gpu["count"], gpu["id"])
        pod = self._new_pod(body, gpu["id"], gpu["count"])
        self._start_up((1, gpu["count"]), [pod])
        return self._created(self._pod(pod))

    def _delete_pod(self, pod: str, **_: Any) -> tuple[int, Any]:
        if self._known(self.pods, pod).cluster is not None:
            raise ProblemError(409, "the pod belongs to a cluster")
        if self._kept():
            return 204, None
        self._end(pod)
        return 204, None

    def _act(self, pod: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        _check(body, {"action": str}, ["action"])
        known = self._known(self.pods, pod)
        if body["action"] not in _actions(known.status):
            raise ProblemError(409, f"{body['action']} is not valid while {known.status}")
        if body["action"] == "start":
            known.status = "STARTING"
        return 200, self._pod(known)

    def _list_clusters(self, **_: Any) -> tuple[int, Any]:
        return 200, {"clusters": [self._cluster(c) for c in self.clusters.values()]}

    def _get_cluster(self, cluster: str, **_: Any) -> tuple[int, Any]:
        return 200, self._cluster(self._known(self.clusters, cluster))

    def _create_cluster(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        _check(body, _CLUSTER, ["name", "type", "compute"])
        compute = body["compute"]
        _only(compute, {"gpuTypeId", "gpuCountPerPod", "podCount"})
        if body["type"] not in ("APPLICATION", "TRAINING", "SLURM", "RAY"):
            raise ProblemError(422, "Request validation failed.", ["type: not one of the enum"])
        count, gpus, gpu = compute["podCount"], compute["gpuCountPerPod"], compute["gpuTypeId"]
        if not 2 <= count <= 250:
            raise ProblemError(422, "Request validation failed.", ["compute.podCount: 2 to 250"])
        self._place(body, count, gpus, gpu)
        cluster = FakeCluster(f"cluster_{secrets.token_hex(4)}", body["name"], gpu, gpus, count)
        self.clusters[cluster.id] = cluster
        made = count - ((count, gpus) in self.faults.half)
        pods = [self._new_pod(body, gpu, gpus, cluster, rank) for rank in range(made)]
        self._start_up((count, gpus), pods)
        return self._created(self._cluster(cluster))

    def _delete_cluster(self, cluster: str, **_: Any) -> tuple[int, Any]:
        self._known(self.clusters, cluster)
        if self._kept():
            return 204, None
        for pod in [p.id for p in self.pods.values() if p.cluster == cluster]:
            self._end(pod)
        del self.clusters[cluster]
        return 204, None

    def _cluster_pods(self, cluster: str, **_: Any) -> tuple[int, Any]:
        self._known(self.clusters, cluster)
        members = [pod for pod in self.pods.values() if pod.cluster == cluster]
        return 200, {"pods": [self._pod(pod) for pod in members]}

    def _get_volume(self, volume: str, **_: Any) -> tuple[int, Any]:
        return 200, self._known(self.volumes, volume)

    def _gpus(self, **_: Any) -> tuple[int, Any]:
        rows = [
            {"id": name, "price": {"secure": price, "community": price}, "memory": 80}
            for name, price in PRICES.items()
        ]
        return 200, {"gpus": rows}

    # --- state

    def _known(self, table: dict[str, Any], key: str) -> Any:
        if key not in table:
            raise ProblemError(404, "resource not found")
        return table[key]

    def _kept(self) -> bool:
        if self.faults.keep_deleted > 0:
            self.faults.keep_deleted -= 1
            return True
        return False

    def _place(self, body: dict[str, Any], pods: int, gpus: int, gpu: str) -> None:
        self.bodies.append(body)
        if self.faults.no_balance:
            raise ProblemError(402, "insufficient balance")
        if self.faults.failed_creations > 0:
            self.faults.failed_creations -= 1
            raise ProblemError(500, "upstream failure")
        if gpu not in PRICES or (pods, gpus) in self.faults.no_capacity:
            raise ProblemError(400, "There are no longer any instances available")
        for mount in body.get("mounts", {}).get("network", []):
            volume = self.volumes.get(mount["volumeId"])
            if volume is None or volume["dataCenter"] not in body.get("dataCenterIds", []):
                raise ProblemError(400, "the network volume is in another data center")

    def _new_pod(
        self,
        body: dict[str, Any],
        gpu: str,
        gpus: int,
        cluster: FakeCluster | None = None,
        rank: int | None = None,
    ) -> FakePod:
        name = body["name"] if cluster is None else f"{body['name']}-pod-{rank}"
        pod = FakePod(
            secrets.token_hex(5), name, gpu, gpus, dict(body.get("env", {})), body.get("ports", [])
        )
        pod.env |= {"RUNPOD_POD_ID": pod.id, "RUNPOD_API_KEY": KEY}
        if cluster is not None:
            pod.cluster, pod.rank, pod.nodes = cluster.id, rank, cluster.pods
            pod.env |= {
                "NODE_RANK": str(rank),
                "NUM_NODES": str(cluster.pods),
                "NUM_TRAINERS": str(gpus),
                "WORLD_SIZE": str(cluster.pods * gpus),
            }
        pod.rate = PRICES[gpu] * gpus * self.faults.price_factor
        self.pods[pod.id] = pod
        self.ledger.append(Entry(pod.id, pod.name, pod.rate, pod.created))
        return pod

    def _start_up(self, shape: tuple[int, int], pods: list[FakePod]) -> None:
        if shape in self.faults.broken:
            pods[-1].stuck = "ERROR"
        if shape in self.faults.stuck:
            pods[-1].stuck = "STARTING"

    def _created(self, answer: Any) -> tuple[int, Any]:
        if self.faults.lost_answers > 0:
            self.faults.lost_answers -= 1
            raise CutError
        return 201, answer

    def _end(self, pod: str) -> None:
        found = self.pods.pop(pod)
        for entry in self.ledger:
            if entry.pod == pod:
                entry.deleted = time.time()
        if found.machine is not None:
            # A machine that deletes itself waits for this very answer.
            threading.Thread(target=found.machine.stop, daemon=True).start()

    def _advance(self, pod: FakePod) -> None:
        if pod.status not in ("PROVISIONING", "STARTING"):
            return
        if pod.stuck is not None:
            pod.status = pod.stuck
            return
        pod.status = "STARTING" if pod.status == "PROVISIONING" else "RUNNING"
        if pod.status == "RUNNING":
            pod.machine = self.hook(pod)

    def _pod(self, pod: FakePod) -> dict[str, Any]:
        self._advance(pod)
        gone = pod.status in ("EXITED", "TERMINATED")
        found = {
            "id": pod.id,
            "name": pod.name,
            "status": pod.status,
            "actions": _actions(pod.status),
            "image": "image",
            "args": "",
            "disk": 50,
            "mounts": {},
            "ports": pod.ports,
            "env": pod.env,
            "registry": None,
            "gpu": {"id": pod.gpu, "count": pod.gpus},
            "cloud": "SECURE",
            "dataCenterId": "US-KS-2",
            "cudaVersion": "13.0",
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 0.0 if gone else pod.rate,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": None,
            "createdAt": _date(pod.created),
            "startedAt": None,
        }
        if pod.cluster is not None:
            rank = pod.rank if pod.status != "PROVISIONING" else None
            found["cluster"] = {"id": pod.cluster, "rank": rank}
        return found

    def _cluster(self, cluster: FakeCluster) -> dict[str, Any]:
        members = [pod for pod in self.pods.values() if pod.cluster == cluster.id]
        counts: dict[str, int] = {}
        for pod in members:
            counts[pod.status] = counts.get(pod.status, 0) + 1
        return {
            "id": cluster.id,
            "name": cluster.name,
            "type": "TRAINING",
            "compute": {
                "gpuTypeId": cluster.gpu,
                "gpuCountPerPod": cluster.gpus,
                "podCount": cluster.pods,
            },
            "pods": {"total": len(members), "byStatus": counts},
            "createdAt": _date(cluster.created),
        }


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _actions(status: str) -> list[str]:
    return {
        "RUNNING": ["stop", "restart", "terminate"],
        "EXITED": ["start", "terminate"],
        "ERROR": ["start", "terminate"],
    }.get(status, ["stop", "terminate"])


def _only(body: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(body) - known)
    if unknown:
        raise ProblemError(422, "Request validation failed.", [f"{unknown[0]}: not allowed"])


def _check(body: Any, known: dict[str, type], required: list[str]) -> None:
    """As ``unevaluatedProperties: false``, ``required`` and ``type`` of the schemas."""
    if not isinstance(body, dict):
        raise ProblemError(422, "Request validation failed.", ["body: not an object"])
    _only(body, set(known))
    errors = [f"{key}: required" for key in required if key not in body]
    errors += [f"{k}: wrong type" for k, value in body.items() if not isinstance(value, known[k])]
    env = body.get("env", {})
    if isinstance(env, dict):
        errors += [f"env.{k}: not a string" for k, v in env.items() if not isinstance(v, str)]
        if len(env) > 50:
            errors.append("env: more than 50")
    ports = body.get("ports", [])
    errors += [f"ports: {p}" for p in ports if not re.fullmatch(r"\d+/(http|tcp)", str(p))]
    if errors:
        raise ProblemError(422, "Request validation failed.", errors)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRunPod
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.fake.faults.network_down:
            self._cut()
            return
        parts = urlsplit(self.path)
        if parts.path.startswith("/proxy/"):
            self._proxy(body)
            return
        try:
            if self.headers.get("Authorization") not in {f"Bearer {k}" for k in self.fake.keys}:
                raise ProblemError(401, "invalid bearer token")
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            content = json.loads(body) if body else None
            with self.fake.lock:
                path = parts.path.removeprefix("/v2")
                status, answer = self.fake.handle(self.command, path, query, content)
        except ProblemError as problem:
            self._problem(problem)
        except CutError:
            self._cut()
        else:
            if isinstance(answer, dict) and self.fake.faults.missing:
                answer.pop(self.fake.faults.missing, None)
            self._send(status, b"" if answer is None else json.dumps(answer).encode(), {})

    def _problem(self, problem: ProblemError) -> None:
        body: dict[str, Any] = {
            "title": http.client.responses.get(problem.status, ""),
            "status": problem.status,
            "detail": problem.detail,
        }
        if problem.errors:
            body["errors"] = problem.errors
        headers = {"Content-Type": "application/problem+json"}
        if problem.status == 429:
            headers["Retry-After"] = str(self.fake.faults.retry_after)
        self._send(problem.status, json.dumps(body).encode(), headers)

    def _proxy(self, body: bytes) -> None:
        """To a pod's port, as through Cloudflare and RunPod's load balancer."""
        _, _, pod, _port, *rest = self.path.split("/")
        found = self.fake.pods.get(pod)
        port = None if found is None or found.machine is None else found.machine.port
        if port is None or self.fake.faults.proxy_down or len(body) > 100 * 2**20:
            self._send(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})
            return
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
        hop = {"host", "connection", "content-length"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        try:
            connection.request(self.command, "/" + "/".join(rest), body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._send(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})
            return
        finally:
            connection.close()
        kept = ("Content-Type", "X-Next", "ETag", "Content-Range")
        passed = {name: answer.headers[name] for name in kept if answer.headers[name]}
        if self.fake.faults.cut_proxied > 0 and len(content) > 1:
            self.fake.faults.cut_proxied -= 1
            self._send(answer.status, content[: len(content) // 2], passed, length=len(content))
            self._cut()
            return
        self._send(answer.status, content, passed)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for key, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(key, value)
            if status != 204:
                size = len(content) if length is None else length
                self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(content)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)


@contextmanager
def fake_runpod(hook: Hook = lambda _pod: None) -> Iterator[FakeRunPod]:
    """Serve the fake on a free port of loopback for the block; its machines end with it."""
    fake = FakeRunPod(hook)
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for pod in list(fake.pods.values()):
            if pod.machine is not None:
                pod.machine.stop()

"""A Hub on loopback for uploads: accounts, repositories, LFS, commits; and how it can fail."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tests.hub_server import Handler, served

TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
ALICE: dict[str, Any] = {
    "type": "user",
    "name": "alice",
    "orgs": [{"name": "acme", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}],
    "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
}


@dataclass
class Repo:
    """A repository: its files' contents, and every commit."""

    private: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])

    @property
    def head(self) -> str:
        return self.commits[-1]


@dataclass
class UploadHub:
    """What it holds, and how it misbehaves.

    Attributes:
        who: The answer to whoami-v2 for TOKEN.
        repos: By name.
        objects: Large files that arrived whole, by SHA-256.
        fail: Statuses to answer next, by a part of ``METHOD PATH``; None cuts the connection.
        cut_after_commit: How many commits are made but never answered.
        requests: ``METHOD PATH`` of every request.
        sent: Bytes of large files received, also of those that were cut.
        gated: Repositories, datasets too, that this login may see but not read.
        bodies: Everything that was ever received in a commit.
    """

    who: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(ALICE)))
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    fail: dict[str, list[int | None]] = field(default_factory=dict)
    cut_after_commit: int = 0
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    gated: set[str] = field(default_factory=set)
    url: str = ""

    def asked(self, part: str) -> int:
        """How many requests had this in ``METHOD PATH``."""
        return sum(part in request for request in self.requests)


class _Handler(Handler):
    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        what = f"{self.command} {self.path}"
        self.hub.requests.append(what)
        for part, statuses in self.hub.fail.items():
            if part in what and statuses:
                status = statuses.pop(0)
                if status is None:
                    # Half of the body is taken, then the line is dead.
                    self.hub.sent += len(self.rfile.read(length // 2))
                    return self._cut()
                self.rfile.read(length)
                return self._json({"error": f"status {status}"}, status)
        body = self.rfile.read(length)
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = self._chunks()
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path.startswith("/objects/"):
            return self._object(path.split("/")[-1], body)
        if path == "/api/validate-yaml":
            ok = json.loads(body)["content"].startswith("---\n")
            return self._json({"errors": [] if ok else [{"message": "no metadata"}]}, 200)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid credentials"}, 401)
        if path == "/api/whoami-v2":
            return self._json(self.hub.who)
        if path.endswith("/auth-check"):
            return self._auth_check("/".join(path.split("/")[3:5]))
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        return self._repo(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _object(self, oid: str, body: bytes) -> None:
        self.hub.sent += len(body)
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "wrong content"}, 400)
        self.hub.objects[oid] = body
        return self._json({})

    def _auth_check(self, name: str) -> None:
        if name in self.hub.gated:
            return self._json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        if name not in self.hub.repos:
            return self._json({"error": "no repo"}, 404, {"X-Error-Code": "RepoNotFound"})
        return self._json({})

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or self.hub.who["name"]
        name = f"{owner}/{wanted['name']}"
        roles = {org["name"]: org["roleInOrg"] for org in self.hub.who["orgs"]}
        if owner != self.hub.who["name"] and roles.get(owner) not in ("admin", "write"):
            return self._json({"error": "no right to create"}, 403)
        if name in self.hub.repos:
            return self._json({"error": "You already created this model repo"}, 409)
        private = wanted.get("visibility") == "private"
        self.hub.repos[name] = Repo(private, {".gitattributes": b"*.safetensors lfs\n"})
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _repo(self, path: str, body: bytes) -> None:
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name = "/".join(parts[:2]).removesuffix(".git")
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._json(
                {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"}
            )
        what = parts[2] if len(parts) > 2 else ""
        if what in ("", "revision"):
            files = [{"rfilename": file} for file in repo.files]
            return self._json(
                {"id": name, "sha": repo.head, "private": repo.private, "siblings": files}
            )
        if what == "tree":
            return self._tree(repo, "/".join(parts[4:]))
        if what == "info":
            return self._batch(json.loads(body))
        if what == "preupload":
            return self._preupload(repo, json.loads(body))
        if what == "commit":
            return self._commit(name, repo, [json.loads(line) for line in body.splitlines()])
        if what == "resolve":
            return self._resolve(repo, "/".join(parts[4:]))
        return self._json({"error": f"unknown {path}"}, 404)

    def _tree(self, repo: Repo, folder: str) -> None:
        entries = []
        for path, content in repo.files.items():
            if not path.startswith(folder):
                continue
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            entry["oid"] = _blob(content)
            if path in repo.large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        if folder and not entries:
            return self._json({"error": "no such folder"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self._json(entries)

    def _preupload(self, repo: Repo, asked: dict[str, Any]) -> None:
        files = []
        for file in asked["files"]:
            path = file["path"]
            large = path.endswith(".safetensors") or file["size"] > 10 << 20
            content = repo.files.get(path)
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if large else _blob(content)
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            answer = dict(wanted)
            if wanted["oid"] not in self.hub.objects:
                href = f"{self.hub.url}/objects/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repo.head):
            return self._json({"error": "the branch has moved"}, 412)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
                repo.large.discard(value["path"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self._json({"error": "an object is missing"}, 400)
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
                repo.large.add(value["path"])
            elif line["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.commits.append(hashlib.sha1(repr(len(repo.commits)).encode()).hexdigest())
        if self.hub.cut_after_commit > 0:
            self.hub.cut_after_commit -= 1
            return self._cut()
        url = f"{self.hub.url}/{name}/commit/{repo.head}"
        return self._json({"success": True, "commitOid": repo.head, "commitUrl": url})

    def _resolve(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            return self._json(
                {}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.head}
            )
        content = repo.files[path]
        headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": repo.head}
        return self._send(200, content, headers)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _json(
        self, content: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self._send(status, json.dumps(content).encode(), headers or {})


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def upload_hub(hub: UploadHub | None = None) -> AbstractContextManager[UploadHub]:
    """Serve on a free port of loopback for the block."""
    return served(hub or UploadHub(), _Handler)

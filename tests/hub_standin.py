"""A Hub on 127.0.0.1 that speaks what huggingface_hub 2.4 asks for when it reads a model repo.

with HubStandIn() as hub:
    hub.add("user/repo", folder)      # what it serves
    hub.behaviour = "silent"          # how it fails
    hub.requests                      # [("GET", "/api/models/user/repo/revision/main"), ...]

GET  /api/models/{repo}/revision/{rev}        the repo's commit
GET  /api/models/{repo}/tree/{sha}            its files; those over LFS_FROM bytes as LFS, like on the Hub
HEAD /{repo}/resolve/{sha}/{file}             ETag, size, commit; a redirect to the store for LFS files
GET  /{repo}/resolve/{sha}/{file}, /store/{sha256}
"""

import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

LFS_FROM = 100_000
STATUS = {  # behaviour: status, error code, as the Hub sends them
    "not found": (404, "RepoNotFound"),
    "unauthorised": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "overloaded": (503, ""),
}


class HubStandIn:
    """`behaviour`: "well", a key of STATUS ("gated" only for the files, as on the Hub), "silent" (accepts and never
    answers), or "drops" (breaks every connection)."""

    def __init__(self):
        self.repos, self.requests, self.behaviour = {}, [], "well"
        self.released = threading.Event()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def add(self, repo, folder):
        """Serves the files of `folder` as the one commit of `repo`."""
        self.repos[repo] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    def stop(self):
        """From now on connections are refused, as when the machine is off the net."""
        self.released.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append((self.command, path))
        if hub.behaviour == "silent":
            hub.released.wait(60)
        if hub.behaviour in ("silent", "drops"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif hub.behaviour in STATUS and not (hub.behaviour == "gated" and path.startswith("/api/")):
            self.answer(b"{}", *STATUS[hub.behaviour])
        elif path.startswith("/api/models/"):
            self.describe(path.removeprefix("/api/models/"))
        else:
            self.file(path)

    def describe(self, path):
        repo = "/".join(path.split("/")[:2])
        if repo not in self.hub.repos:
            return self.answer(b"{}", *STATUS["not found"])
        files = self.hub.repos[repo]
        if "/tree/" in path:
            return self.answer(json.dumps([_listed(name, data) for name, data in files.items()]).encode())
        info = {"id": repo, "sha": commit(files), "private": False, "tags": [], "siblings": []}
        return self.answer(json.dumps(info).encode())

    def file(self, path):
        if path.startswith("/store/"):
            stored = {sha256(data): data for files in self.hub.repos.values() for data in files.values()}
            return self.answer(stored[path.removeprefix("/store/")])
        user, repo, _, _, name = path.strip("/").split("/", 4)
        files = self.hub.repos.get(f"{user}/{repo}")
        if files is None:
            return self.answer(b"{}", *STATUS["not found"])
        if name not in files:
            return self.answer(b"", 404, "EntryNotFound", {"X-Repo-Commit": commit(files)})
        data, headers = files[name], {"X-Repo-Commit": commit(files), "ETag": f'"{blob_id(files[name])}"'}
        if len(data) < LFS_FROM:
            return self.answer(data, headers=headers)
        large = {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        store = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as the Hub's store is
        return self.answer(b"", 302, headers={**headers, **large, "Location": f"{store}/store/{sha256(data)}"})

    def answer(self, data, status=200, error="", headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), **({"X-Error-Code": error} if error else {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def blob_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit(files):
    """40 hex digits that change with the files, as a commit's do."""
    return hashlib.sha1("".join(f"{name}{sha256(files[name])}" for name in sorted(files)).encode()).hexdigest()


def _listed(name, data):
    entry = {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
    if len(data) >= LFS_FROM:
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return entry

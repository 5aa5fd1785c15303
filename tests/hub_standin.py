"""A Hub on 127.0.0.1 that speaks what huggingface_hub 2.4 asks for when it reads or writes a model repo.

with HubStandIn() as hub:
    hub.add("user/repo", folder)      # what it serves
    hub.behaviour = "silent"          # how it fails
    hub.requests                      # [("GET", "/api/models/user/repo/revision/main"), ...]
    hub.commits, hub.created          # what was pushed: [(repo, title, names, deleted)], [{"name": …, "visibility": …}]

GET  /api/models/{repo}/revision/{rev}        the repo's commit
GET  /api/models/{repo}/tree/{sha}            its files; those over LFS_FROM bytes as LFS, like on the Hub
HEAD /{repo}/resolve/{sha}/{file}             ETag, size, commit; a redirect to the store for LFS files
GET  /{repo}/resolve/{sha}/{file}, /store/{sha256}

and, for who has TOKEN, with which one may write to what is user's:
GET  /api/whoami-v2, /api/models/{repo}/auth-check/write
POST /api/repos/create, /api/validate-yaml
POST /api/models/{repo}/preupload/{rev}       which files go to the store
POST /{repo}.git/info/lfs/objects/batch       where to; it speaks no Xet, so a client that tries it fails
PUT  /store/{sha256}
POST /api/models/{repo}/commit/{rev}          one JSON a line: title, files, names of stored ones, deletions
"""

import base64
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

LFS_FROM = 100_000
TOKEN = "hf_standInsOnlyToken"
STATUS = {  # behaviour: status, error code, as the Hub sends them
    "not found": (404, "RepoNotFound"),
    "unauthorised": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "overloaded": (503, ""),
}


class HubStandIn:
    """`limited`: how many requests are still refused with 429 and `retry_after` seconds, or limits(path) says which;
    `renamed`: {old: new} repos.

    `behaviour`: "well", a key of STATUS ("gated" only for the files, as on the Hub), "silent" (accepts and never
    answers), "drops" (breaks every connection), "forbids" (403 to whoever writes; reading goes well), "read-only" (says
    that the token is), "sips" (takes a fiftieth of each upload every 10 ms), "cuts" (breaks the connection half-way
    through each upload), "cuts commits" (those), or, of what it stores, sends "half" and closes, "stalls" before the
    first byte, or sends "drops of it" for ever."""

    def __init__(self):
        self.repos, self.requests, self.behaviour = {}, [], "well"
        self.limited, self.limits, self.retry_after, self.renamed = 0, lambda path: False, 1, {}
        self.private, self.created, self.commits, self.stored = set(), [], [], {}
        self.writing = threading.Event()  # whether uploads may go on; cleared, they wait
        self.writing.set()
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
        self.writing.set()
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
        path = self.arrived()
        if path == "/api/whoami-v2":
            self.whoami()
        elif path and path.endswith("/auth-check/write"):
            if self.may_write(path.split("/")[3]):
                self.answer(b"{}")
        elif path and path.startswith("/api/models/"):
            self.describe(path.removeprefix("/api/models/"))
        elif path and path.startswith("/api/"):  # the client asks for more than it needs, as who runs it
            self.answer(b"{}", 404)
        elif path:
            self.file(path)

    def do_POST(self):
        body, path = self.body(), self.arrived()
        if path == "/api/validate-yaml":
            self.answer(b'{"errors": [], "warnings": []}')
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path and self.may_write(path.removeprefix("/api/models").split("/")[1]):
            if "/preupload/" in path:
                self.preupload(path, json.loads(body))
            elif path.endswith(".git/info/lfs/objects/batch"):
                self.batch(json.loads(body))
            else:
                self.commit(path, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        if self.hub.behaviour == "cuts":
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.hub.requests.append(("PUT", "cut"))
            return self.drop()
        if self.hub.behaviour == "sips":
            length, body = int(self.headers["Content-Length"]), b""
            while len(body) < length and not self.hub.released.wait(0.01):
                body += self.rfile.read(min(1 + length // 50, length - len(body)))
        else:
            body = self.body()
        path = self.arrived()
        self.hub.writing.wait(60)
        if not path:
            return
        assert sha256(body) == path.removeprefix("/store/")
        self.hub.stored[sha256(body)] = body
        self.answer(b"")

    def arrived(self):
        """The path asked for, or None where the answer, or none, has been given already."""
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append((self.command, path))
        if hub.limited > 0 or hub.limits(path):
            hub.limited -= 1
            return self.answer(b"{}", 429, headers={"Retry-After": str(hub.retry_after)})
        for old, new in hub.renamed.items():
            if f"/{old}/" in path:
                return self.answer(b"", 307, headers={"Location": path.replace(f"/{old}/", f"/{new}/")})
        if hub.behaviour == "silent":
            hub.released.wait(60)
        cut = hub.behaviour == "cuts commits" and "/commit/" in path
        if hub.behaviour in ("silent", "drops") or cut:
            return self.drop()
        if hub.behaviour in STATUS and not (hub.behaviour == "gated" and path.startswith("/api/")):
            return self.answer(b"{}", *STATUS[hub.behaviour])
        return path

    def drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def body(self):
        if length := self.headers["Content-Length"]:
            return self.rfile.read(int(length))
        body = b""
        while size := int(self.rfile.readline(), 16):  # in chunks
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def whoami(self):
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(b'{"error": "Invalid username or password."}', 401)
        role = "read" if self.hub.behaviour == "read-only" else "write"
        me = {"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"displayName": "x", "role": role}}}
        self.answer(json.dumps(me).encode())

    def may_write(self, namespace):
        """Whether this request may write there; if not, it has been told so."""
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(b'{"error": "Invalid credentials in Authorization header"}', 401)
        elif self.hub.behaviour == "forbids" or namespace != "user":
            self.answer(b'{"error": "You don\'t have the rights"}', 403)
        else:
            return True

    def create(self, wanted):
        if self.may_write(wanted["organization"]):
            repo = f"{wanted['organization']}/{wanted['name']}"
            there = repo in self.hub.repos
            if not there:
                self.hub.created.append(wanted)
                self.hub.repos[repo] = {}
                if wanted.get("visibility") == "private":
                    self.hub.private.add(repo)
            self.answer(json.dumps({"url": f"{self.hub.url}/{repo}"}).encode(), 409 if there else 200)

    def preupload(self, path, wanted):
        there = self.hub.repos["/".join(path.split("/")[3:5])]
        modes = []
        for file in wanted["files"]:
            large, old = file["size"] >= LFS_FROM, there.get(file["path"])
            oid = None if old is None else sha256(old) if large else blob_id(old)
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
            modes.append({"path": file["path"], **mode})
        self.answer(json.dumps({"files": modes}).encode())

    def batch(self, wanted):
        assert wanted["operation"] == "upload" and "basic" in wanted["transfers"]
        objects = []
        for large in wanted["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/store/{large['oid']}"}}
            objects.append({**large, **({} if large["oid"] in self.hub.stored else {"actions": upload})})
        self.answer(json.dumps({"transfer": "basic", "objects": objects}).encode())

    def commit(self, path, lines):
        hub, repo = self.hub, "/".join(path.split("/")[3:5])
        files, title = dict(hub.repos[repo]), lines[0]["value"]["summary"]
        pick = lambda key: [line["value"] for line in lines if line["key"] == key]  # noqa: E731
        files |= {file["path"]: base64.b64decode(file["content"]) for file in pick("file")}
        files |= {file["path"]: hub.stored[file["oid"]] for file in pick("lfsFile")}
        deleted = {file["path"] for file in pick("deletedFile")}
        hub.repos[repo] = {name: data for name, data in files.items() if name not in deleted}
        hub.commits.append((repo, title, {file["path"] for file in pick("file") + pick("lfsFile")}, deleted))
        made = commit(hub.repos[repo])
        self.answer(json.dumps({"commitUrl": f"{hub.url}/{repo}/commit/{made}", "commitOid": made}).encode())

    def describe(self, path):
        repo = "/".join(path.split("/")[:2])
        if repo not in self.hub.repos:
            return self.answer(b"{}", *STATUS["not found"])
        files = self.hub.repos[repo]
        if "/tree/" in path:
            return self.answer(json.dumps([_listed(name, data) for name, data in files.items()]).encode())
        siblings = [{"rfilename": name} for name in files]
        private = repo in self.hub.private
        info = {"id": repo, "sha": commit(files), "private": private, "tags": [], "siblings": siblings}
        return self.answer(json.dumps(info).encode())

    def file(self, path):
        if path.startswith("/store/"):
            stored = {sha256(data): data for files in self.hub.repos.values() for data in files.values()}
            return self.send_stored(stored[path.removeprefix("/store/")])
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

    def send_stored(self, data):
        behaviour = self.hub.behaviour
        if self.command == "HEAD" or behaviour not in ("half", "stalls", "drops of it"):
            return self.answer(data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if behaviour == "half":
            self.wfile.write(data[: len(data) // 2])
        while behaviour == "drops of it" and not self.hub.released.wait(0.1):
            self.wfile.write(data[:100])
        if behaviour == "stalls":
            self.hub.released.wait(60)
        self.drop()

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

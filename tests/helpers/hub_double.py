"""A local double of the Hugging Face Hub's HTTP interface, as far as models need it.

It knows repositories with commits, branches, private ones and tokens, and can damage or
cut off a file in transit. It stands in for https://huggingface.co by HF_ENDPOINT.
"""

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import threading
import urllib.parse
from unittest import mock

TOKEN = "hf_right"


def _digest(content):
    return hashlib.sha1(content).hexdigest()


class Hub:
    """The content of the double, and what it was asked.

    Attributes:
      endpoint: its address.
      revisions: commits by branch or tag, by repository.
      commits: files by commit, by repository.
      private: repositories that only the right token may see.
      damage: maps the bytes of a file to those sent, for the next downloads of weights;
        one is used up by each.
      refusal: status and words with which every repository is refused, or None.
      requests: method and path of each request.
    """

    def __init__(self):
        self.endpoint = ""
        self.revisions = {}
        self.commits = {}
        self.private = set()
        self.damage = []
        self.refusal = None
        self.requests = []

    def commit(self, repo, files, *, branch="main"):
        """Adds a commit, with the files of the branch that it does not replace."""
        commits = self.commits.setdefault(repo, {})
        branches = self.revisions.setdefault(repo, {})
        before = commits.get(branches.get(branch), {})
        number = f"{repo} {branch} {len(commits)}".encode()
        branches[branch] = _digest(number)
        commits[branches[branch]] = {**before, **files}
        return branches[branch]

    def commit_folder(self, repo, folder, **options):
        """Adds a commit of the files of a folder."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return self.commit(repo, files, **options)

    def find(self, repo, revision):
        """Returns a commit's name, or None."""
        name = self.revisions[repo].get(revision, revision)
        return name if name in self.commits[repo] else None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        announced = headers.pop("announced", len(content))
        self.send_response(status)
        self.send_header("Content-Length", str(announced))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if announced != len(content):
            self.close_connection = True

    def _refused(self, repo):
        """Answers a request that may not go on, and says whether it was one."""
        if self.hub.refusal is not None:
            status, words = self.hub.refusal
            self._answer(status, {"error": words}, X_Error_Message=words)
            return True

        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            words = "Invalid credentials in Authorization header"
            self._answer(401, {"error": words}, X_Error_Message=words)
            return True

        hidden = repo in self.hub.private and token is None
        if repo is not None and (repo not in self.hub.commits or hidden):
            self._answer(401 if token is None else 404, X_Error_Code="RepoNotFound")
            return True
        return False

    def _commit_of(self, repo, revision):
        found = self.hub.find(repo, urllib.parse.unquote(revision))
        if found is None:
            self._answer(404, X_Error_Code="RevisionNotFound")
        return found

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path))

        if path == "/api/whoami-v2":
            if not self._refused(None):
                self._answer(200, {"name": "user", "type": "user"})
            return

        api = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path
        )
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            self._answer(404)
            return
        repo = (api or file)[1]
        if self._refused(repo):
            return
        commit = self._commit_of(repo, (api[3] if api else file[2]) or "main")
        if commit is None:
            return
        files = self.hub.commits[repo][commit]

        if api and api[2] == "tree":
            entries = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(content),
                    "oid": _digest(content),
                }
                for name, content in files.items()
            ]
            self._answer(200, entries)
        elif api:
            siblings = [{"rfilename": name} for name in files]
            self._answer(
                200, {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
            )
        elif file[3] not in files:
            self._answer(404, X_Error_Code="EntryNotFound")
        else:
            self._send_file(files[file[3]], file[3], commit)

    def _send_file(self, content, name, commit):
        sent = content
        is_weights = name.endswith(".safetensors") and self.command == "GET"
        if is_weights and self.hub.damage:
            sent = self.hub.damage.pop(0)(content)
        self._answer(
            200,
            sent,
            announced=len(content),
            ETag=f'"{_digest(content)}"',
            X_Repo_Commit=commit,
        )

    def do_POST(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append(("POST", path))
        body = self.rfile.read(int(self.headers["Content-Length"]))

        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
            return
        if path == "/api/repos/create":
            if self._refused(None):
                return
            given = json.loads(body)
            owner = given.get("organization") or "user"
            repo = f"{owner}/{given['name']}"
            if repo in self.hub.commits:
                self._answer(409, {"url": f"{self.hub.endpoint}/{repo}"})
                return
            self.hub.commit(repo, {})
            if given.get("private") or given.get("visibility") == "private":
                self.hub.private.add(repo)
            self._answer(200, {"url": f"{self.hub.endpoint}/{repo}"})
            return

        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/([^/]+)", path)
        repo, action, branch = match.groups()
        if self._refused(repo):
            return
        if action == "branch":
            self.hub.commit(repo, {}, branch=branch)
            self._answer(200, {})
        elif action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.commit(repo, files, branch=branch)
            url = f"{self.hub.endpoint}/{repo}/commit/{commit}"
            self._answer(200, {"commitUrl": url, "commitOid": commit, "success": True})


@contextlib.contextmanager
def serving(monkeypatch):
    """Serves a double, to which HF_ENDPOINT points while the context is active."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serve = functools.partial(server.serve_forever, poll_interval=0.02)
    threading.Thread(target=serve, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"

    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    # No token and no setting of the user's own. Without the variable, a file is read.
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", os.devnull)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    try:
        with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", False):
            yield hub
    finally:
        server.shutdown()
        server.server_close()

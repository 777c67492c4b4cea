"""A W&B back end on the loopback interface, just enough for the real client to record, upload and finish runs.

The client speaks GraphQL for what a run is, and posts its history, line by line, to a file stream.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KEY = "k" * 40


@dataclass
class Recorded:
    """What arrived of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None


class Backend:
    """The server, running while in the `with`; `runs` holds what arrived, by run id.

    Only keys of `keys` are taken. With `closed` runs are refused whatever the key, with `stall` they get no answer.
    """

    def __init__(self, *, keys: Sequence[str] = (KEY,), closed: bool = False, stall: bool = False) -> None:
        self.runs: dict[str, Recorded] = {}
        self.logins = {"Basic " + base64.b64encode(f"api:{key}".encode()).decode() for key in keys}
        self.closed = closed
        self.going_on = threading.Event()
        if not stall:
            self.going_on.set()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send the client here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.going_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def run(self, name: str) -> Recorded:
        return self.runs.setdefault(name, Recorded())

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL reply."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        known = {"Viewer": _viewer, "UpsertBucket": self._upsert, "CreateRunFiles": self._files, "ServerInfo": _server}
        return known.get(found.group(1) if found else "", lambda _: {})(variables)

    def stream(self, name: str, message: dict[str, Any]) -> None:
        """A post to the file stream."""
        run = self.run(name)
        for file, chunk in (message.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run.history += [json.loads(line) for line in chunk["content"]]
            elif file == "wandb-summary.json":
                run.summary.update(json.loads(chunk["content"][-1]))
        if message.get("complete"):
            run.exit_code = message.get("exitcode")

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        run = self.run(name)
        if variables.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
        run.group = variables.get("groupName") or run.group
        run.tags = variables.get("tags") or run.tags
        project = {"id": "project", "name": variables.get("project"), "entity": {"id": "entity", "name": "lab"}}
        bucket = {
            "id": name,
            "name": name,
            "displayName": name,
            "config": variables.get("config") or "{}",
            "project": project,
            "historyLineCount": len(run.history),
            "summaryMetrics": "{}",
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _files(self, variables: dict[str, Any]) -> dict[str, Any]:
        # A null here makes the client panic.
        files = [{"name": f, "uploadUrl": f"{self.url}/upload/{variables['run']}/{f}"} for f in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client drops its connections when it is done; anything else is an error of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _viewer(_: dict[str, Any]) -> dict[str, Any]:
    return {"viewer": {"id": "user", "entity": "lab", "username": "lab", "flags": "{}", "teams": {"edges": []}}}


def _server(_: dict[str, Any]) -> dict[str, Any]:
    versions = {"max_cli_version": "99", "min_cli_version": "0"}
    return {"serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}}


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            _, _, run, file = self.path.split("/", 3)
            backend.run(run).files[file] = self._body()
            self._reply({})

        def do_POST(self) -> None:
            body = json.loads(self._body() or b"{}")
            if self.headers.get("Authorization") not in backend.logins:
                return self._reply({"errors": [{"message": "the key is not valid"}]}, status=401)
            if "viewer" not in body.get("query", ""):
                backend.going_on.wait()
                if backend.closed:
                    return self._reply({"errors": [{"message": "the project is closed"}]}, status=403)
            if self.path == "/graphql":
                return self._reply({"data": backend.answer(body["query"], body.get("variables") or {})})
            if self.path.endswith("/file_stream"):  # /files/ENTITY/PROJECT/RUN/file_stream
                backend.stream(self.path.split("/")[-2], body)
            self._reply({"exitcode": None, "limits": {}})

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

        def _body(self) -> bytes:
            body = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, content: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler

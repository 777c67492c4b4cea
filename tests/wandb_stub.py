"""A W&B back end on the loopback interface, just enough for the real client, its uploads and its agents.

The client speaks GraphQL for what a run is, and posts its history, line by line, to a file stream.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import yaml

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
    display_name: str | None = None
    sweep: str | None = None


@dataclass
class Registered:
    """A sweep, and the points of its grid that no agent has been given yet."""

    config: dict[str, Any]
    left: list[dict[str, Any]]


class Backend:
    """The server, running while in the `with`; `runs` holds what arrived, by run id, `sweeps` what was registered.

    Only keys of `keys` are taken. With `closed` runs are refused whatever the key, with `stall` they get no answer.
    """

    def __init__(self, *, keys: Sequence[str] = (KEY,), closed: bool = False, stall: bool = False) -> None:
        self.runs: dict[str, Recorded] = {}
        self.sweeps: dict[str, Registered] = {}
        self.agents: dict[str, str] = {}
        self.views: list[dict[str, Any]] = []
        self._given = 0
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
        known = {
            "Viewer": _viewer,
            "GetDefaultEntity": _viewer,
            "UpsertBucket": self._upsert,
            "CreateRunFiles": self._files,
            "ServerInfo": _server,
            "UpsertSweep": self._register,
            "SweepWithRuns": self._sweep,
            "CreateAgent": self._agent,
            "Heartbeat": self._heartbeat,
            "UpsertView2": self._view,
        }
        name = "SweepWithRuns" if "sweep(sweepName" in query else found.group(1) if found else ""
        return known.get(name, lambda _: {})(variables)

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
        run.display_name = variables.get("displayName") or run.display_name
        run.sweep = variables.get("sweep") or run.sweep
        project = {"id": "project", "name": variables.get("project"), "entity": {"id": "entity", "name": "lab"}}
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.display_name or name,
            "sweepName": run.sweep,
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

    def _register(self, variables: dict[str, Any]) -> dict[str, Any]:
        config = yaml.safe_load(variables["config"])
        values = {name: each.get("values", [each.get("value")]) for name, each in config["parameters"].items()}
        left = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
        name = f"sweep{len(self.sweeps) + 1}"
        self.sweeps[name] = Registered(config, left)
        project = {"id": "project", "name": variables["projectName"], "entity": {"id": "entity", "name": "lab"}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def _sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["sweep"]
        config = yaml.safe_dump(self.sweeps[name].config)
        nothing = ("description", "heartbeatAt", "updatedAt", "controller", "scheduler")
        found = {
            "id": name,
            "name": name,
            "method": "grid",
            "state": "RUNNING",
            "config": config,
            "runs": {"edges": []},
        }
        when = {"createdAt": "2026-01-01T00:00:00", "earlyStopJobRunning": False}
        return {"project": {"sweep": dict.fromkeys(nothing) | found | when}}

    def _view(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.views.append(variables)
        return {"upsertView": {"view": {"id": "view", "name": variables["name"]}, "inserted": True}}

    def _agent(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = f"agent{len(self.agents) + 1}"
        self.agents[name] = variables["sweep"]
        return {"createAgent": {"agent": {"id": name}}}

    def _heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep, commands = self.sweeps[self.agents[variables["id"]]], []
        if not json.loads(variables["runState"]):  # the agent has nothing to do
            commands = [{"type": "exit"}]
            if sweep.left:
                arguments = {name: {"value": value} for name, value in sweep.left.pop(0).items()}
                self._given += 1
                run = {"run_id": f"given{self._given}", "program": sweep.config["program"], "args": arguments}
                commands = [{"type": "run", **run}]
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}


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

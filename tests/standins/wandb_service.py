"""A stand-in for the Weights & Biases service on 127.0.0.1, so that tests can run the real client against it.

It keeps what a run's page would show: settings, config, history, summary, ending, uploaded files, artifacts and views.
Written from what the client sends (wandb 0.31); every GraphQL operation is one method, named as the operation.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

ENTITY = "standin"
Fault = Literal["500", "hang", "closed", "401", "refuse-stream"]


@dataclass
class Run:
    """One run as the service holds it."""

    name: str
    project: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Last value of each variable of the client's upserts: ``displayName``, ``groupName``, ``jobType``, ``tags`` …"""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    preempting: bool = False
    sessions: int = 0

    @property
    def state(self) -> str:
        """What the run's page says: ``running``, ``finished``, ``failed`` or ``preempted``."""
        if not self.exit_codes:
            return "running"
        return "finished" if self.exit_codes[-1] == 0 else "preempted" if self.preempting else "failed"

    @property
    def id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{ENTITY}".encode()).decode()


@dataclass
class Artifact:
    """One version of an artifact, with its files by name once they are uploaded."""

    id: str
    name: str
    type: str
    digest: str
    project: str = ""
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


class WandbService:
    """The service. A context manager: it listens from ``__enter__`` to ``__exit__``.

    Attributes
    ----------
    url : str
        For ``WANDB_BASE_URL``.
    runs : dict of str to Run
        By W&B id.
    artifacts : dict of str to Artifact
        By the service's id.
    views : dict of str to dict
        Saved workspaces and reports, by the service's id.
    fail : {"500", "hang", "closed", "401", "refuse-stream"} or None
        The fault to show. May be set at any time: ``hang`` never answers until the fault is lifted, ``closed`` ends
        connections without an answer, ``refuse-stream`` takes everything but history.
    fail_after : tuple of str and str, or None
        An operation of `log` and the fault that begins once it was carried out.
    refused, held : int
        Requests that a fault turned away, and that it let wait.
    log : list of str
        Every operation in order of arrival: a GraphQL operation's name, ``file_stream`` or ``PUT``.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.log: list[str] = []
        self.bodies: list[bytes] = []
        self.fail_after: tuple[str, Fault] | None = None
        self.refused = self.held = 0
        self._fail: Fault | None = None
        self._lifted = threading.Event()
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None
        self.url = ""

    def __enter__(self) -> WandbService:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fail = self.fail_after = None
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def fail(self) -> Fault | None:
        return self._fail

    @fail.setter
    def fail(self, fault: Fault | None) -> None:
        self._fail = fault
        released, self._lifted = self._lifted, threading.Event()
        released.set()

    def find(self, run_id_or_name: str) -> Run:
        """The one run with this W&B id or display name."""
        found = [run for run in self.runs.values() if run_id_or_name in (run.name, run.settings.get("displayName"))]
        if len(found) != 1:
            raise KeyError(f"{len(found)} runs are called {run_id_or_name!r}; there are {sorted(self.runs)}")
        return found[0]

    def history(self, run_id_or_name: str) -> list[dict[str, Any]]:
        """The rows of a run in the order in which the service keeps them."""
        return [dict(row) for row in self.find(run_id_or_name).history]

    def summary(self, run_id_or_name: str) -> dict[str, Any]:
        """The summary of a run."""
        return dict(self.find(run_id_or_name).summary)

    def everything(self) -> bytes:
        """All bytes ever received, to search for what must not be among them."""
        return b"\n".join(self.bodies)

    # ------------------------------------------------------------------------------------------------------- requests
    def request(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Answer one request: status and JSON value (or bytes)."""
        self.bodies.append(body)
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "graphql":
            query = json.loads(body)
            name = query.get("operationName") or re.search(r"\b(?:query|mutation)\s+(\w+)", query["query"])[1]  # type: ignore[index]
            self.log.append(name)
            operation = getattr(self, f"op_{name}", None)
            if operation is None:
                return 200, {"data": None, "errors": [{"message": f"the stand-in does not know the operation {name}"}]}
            with self._lock:
                return 200, {"data": operation(query.get("variables") or {})}
        if parts[0] == "files" and parts[-1] == "file_stream":
            self.log.append("file_stream")
            if self.fail == "refuse-stream":
                return 403, {"error": "refused"}
            with self._lock:
                return 200, self._stream(self.runs[parts[3]], json.loads(body))
        if parts[0] == "storage" and method == "PUT":
            self.log.append("PUT")
            owner = self.runs[parts[2]].files if parts[1] == "run" else self.artifacts[parts[2]].files
            owner["/".join(parts[3:])] = body
            return 200, {}
        if parts[0] == "storage":
            owner = self.runs[parts[2]].files if parts[1] == "run" else self.artifacts[parts[2]].files
            return 200, owner["/".join(parts[3:])]
        return 404, {"error": f"no such path: {path}"}

    def _stream(self, run: Run, sent: dict[str, Any]) -> dict[str, Any]:
        """Take a piece of a run's files: lines are placed at the offset that the client names."""
        for name, piece in (sent.get("files") or {}).items():
            lines, offset = piece["content"], piece["offset"]
            if name == "wandb-history.jsonl":
                run.history[offset : offset + len(lines)] = [json.loads(line) for line in lines]
            elif name == "wandb-summary.json":
                run.summary = json.loads(lines[-1])
        run.preempting = run.preempting or bool(sent.get("preempting"))
        if sent.get("complete"):
            run.exit_codes.append(int(sent.get("exitcode") or 0))
        return {"exitcode": None, "limits": {}}

    def _upload(self, kind: str, owner: str, name: str) -> str:
        return f"{self.url}/storage/{kind}/{owner}/{name}"

    # ----------------------------------------------------------------------------------------------- runs, in GraphQL
    def op_Viewer(self, _: dict[str, Any]) -> Any:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "viewer", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "admin": False,
                           "deletedAt": None, "name": ENTITY, "apiKeys": {"edges": []}, "teams": teams}}  # fmt: skip

    op_GetViewer = op_Viewer
    op_GetDefaultEntity = op_Viewer

    def op_ServerFeaturesQuery(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def op_ServerInfo(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def op_RunStoppedStatus(self, _: dict[str, Any]) -> Any:
        return {"project": {"run": {"stopped": False}}}

    def op_RunResumeStatus(self, variables: dict[str, Any]) -> Any:
        run = self.runs.get(variables["name"])
        bucket = None
        if run is not None:
            bucket = {
                "id": run.id, "name": run.name, "summaryMetrics": json.dumps(run.summary),
                "displayName": run.settings.get("displayName"), "logLineCount": 0, "historyLineCount": len(run.history),
                "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
                "eventsTail": "[]", "config": json.dumps(run.config), "tags": run.settings.get("tags") or [],
                "notes": run.settings.get("notes") or "", "wandbConfig": json.dumps({"t": 1}),
            }  # fmt: skip
        return {"model": {**self._project(variables["project"]), "bucket": bucket}}

    def op_UpsertBucket(self, variables: dict[str, Any]) -> Any:
        name = variables.get("name") or next(run.name for run in self.runs.values() if run.id == variables["id"])
        new = name not in self.runs
        run = self.runs.setdefault(name, Run(name, variables.get("project") or "uncategorized"))
        run.settings |= {key: value for key, value in variables.items() if value is not None}
        run.config |= json.loads(variables.get("config") or "{}")
        run.summary |= json.loads(variables.get("summaryMetrics") or "{}")
        run.preempting = run.preempting or variables.get("state") == "preempting"
        if "state" not in variables and variables.get("displayName"):
            run.sessions += 1
        bucket = {"id": run.id, "name": run.name, "displayName": run.settings.get("displayName"), "description": "",
                  "config": json.dumps(run.config), "sweepName": None, "project": self._project(run.project),
                  "historyLineCount": len(run.history)}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def op_Run(self, variables: dict[str, Any]) -> Any:
        run = self.runs.get(variables["name"])
        shown = run and {
            "id": run.id, "name": run.name, "displayName": run.settings.get("displayName"),
            "tags": run.settings.get("tags") or [],
            "sweepName": None, "state": run.state, "config": json.dumps(run.config), "group": run.settings.get("groupName"),
            "jobType": run.settings.get("jobType"), "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z", "description": "", "notes": run.settings.get("notes") or "",
            "systemMetrics": "{}", "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history),
            "user": {"name": ENTITY, "username": ENTITY}, "historyKeys": self._history_keys(run), "projectId": "1",
        }  # fmt: skip
        return {"project": {**self._project(variables["project"]), "run": shown}}

    def op_RunHistoryKeys(self, variables: dict[str, Any]) -> Any:
        run = self.runs.get(variables["name"])
        return {"project": {"run": run and {"historyKeys": self._history_keys(run)}}}

    def _history_keys(self, run: Run) -> dict[str, Any]:
        keys = {key: {"typeCounts": [{"type": "number", "count": 1}]} for row in run.history for key in row}
        return {"lastStep": run.history[-1]["_step"] if run.history else -1, "sets": [], "keys": keys}

    def op_CreateRunFiles(self, variables: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": self._upload("run", variables["run"], name)} for name in variables["files"]]
        return {"createRunFiles": {"runID": self.runs[variables["run"]].id, "uploadHeaders": [], "files": files}}

    def op_MarkRunFilesUploaded(self, _: dict[str, Any]) -> Any:
        return {"markRunFilesUploaded": {"success": True}}

    def _project(self, name: str) -> dict[str, Any]:
        return {"id": f"project:{name}", "internalId": "1", "name": name, "entityName": ENTITY,
                "entity": {"id": ENTITY, "name": ENTITY}}  # fmt: skip

    # ------------------------------------------------------------------------------------------------------ artifacts
    def op_ArtifactType(self, variables: dict[str, Any]) -> Any:
        """Two questions of the client share this name: the fields of an input type, and the type of an artifact."""
        fields = [{"name": name} for name in ("digest", "clientID", "sequenceClientID", "aliases", "tags", "storageRegion")]
        wanted = str(variables.get("name") or "").partition(":")[0]
        found = [artifact for artifact in self.artifacts.values() if wanted in (artifact.name, artifact.id)]
        shown = {"artifactType": {"name": found[-1].type}} if found else None
        return {"TypeInfo": {"inputFields": fields}, "project": {"artifact": shown}}

    def op_CreateArtifact(self, variables: dict[str, Any]) -> Any:
        given = variables.get("input") or variables
        name = given.get("artifactCollectionName") or (given.get("artifactCollectionNames") or [""])[0]
        same = [old for old in self.artifacts.values() if (old.name, old.digest) == (name, given.get("digest"))]
        if same and same[-1].state == "COMMITTED":  # the service keeps one version of one content
            sequence = {"id": f"sequence:{name}", "latestArtifact": {"id": same[-1].id, "versionIndex": 0}}
            known = {"id": same[-1].id, "state": "COMMITTED", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": known}}
        artifact = Artifact(
            id=f"artifact-{len(self.artifacts)}",
            name=name,
            type=given.get("artifactTypeName", ""),
            digest=given.get("digest", ""),
            project=given.get("projectName", ""),
        )
        earlier = [old for old in self.artifacts.values() if old.name == artifact.name]
        self.artifacts[artifact.id] = artifact
        latest = {"id": earlier[-1].id, "versionIndex": len(earlier) - 1} if earlier else None
        sequence = {"id": f"sequence:{artifact.name}", "latestArtifact": latest}
        return {"createArtifact": {"artifact": {"id": artifact.id, "state": "PENDING", "artifactSequence": sequence}}}

    def op_CreateArtifactManifest(self, variables: dict[str, Any]) -> Any:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(variables["artifactID"])}}

    def op_UpdateArtifactManifest(self, variables: dict[str, Any]) -> Any:
        owner = variables["artifactManifestID"].removeprefix("manifest:")
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(owner)}}

    def _manifest(self, owner: str) -> dict[str, Any]:
        address = self._upload("artifact", owner, "wandb_manifest.json")
        return {"id": f"manifest:{owner}", "file": {"id": f"file:{owner}", "uploadUrl": address, "uploadHeaders": []}}

    def op_CreateArtifactFiles(self, variables: dict[str, Any]) -> Any:
        wanted = variables.get("artifactFiles") or variables["input"]["artifactFiles"]
        edges = []
        for file in wanted:
            owner, name = file["artifactID"], file["name"]
            node = {
                "id": f"file:{owner}:{name}",
                "name": name,
                "displayName": name,
                "storagePath": f"artifact/{owner}/{name}",
                "uploadUrl": self._upload("artifact", owner, name),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": owner},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def op_CommitArtifact(self, variables: dict[str, Any]) -> Any:
        artifact = self.artifacts[variables["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _versions(self, artifact: Artifact) -> list[Artifact]:
        return [
            other for other in self.artifacts.values() if (other.project, other.name) == (artifact.project, artifact.name)
        ]

    def _shown_artifact(self, artifact: Artifact) -> dict[str, Any]:
        project = self._project(artifact.project)
        collection = {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}
        return {
            "__typename": "Artifact", "id": artifact.id, "artifactSequence": collection,
            "versionIndex": self._versions(artifact).index(artifact), "artifactType": {"name": artifact.type},
            "description": None, "metadata": "{}", "ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [],
            "historyStep": None, "state": artifact.state, "size": sum(map(len, artifact.files.values())),
            "digest": artifact.digest, "digestAlgorithm": "MANIFEST_MD5", "commitHash": "c",
            "fileCount": len(artifact.files),
            "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": [],
        }  # fmt: skip

    def op_ArtifactByID(self, variables: dict[str, Any]) -> Any:
        return {"artifact": self._shown_artifact(self.artifacts[variables["id"]])}

    def _latest(self, variables: dict[str, Any], name: str) -> Artifact | None:
        place = (variables["entity"], variables["project"], name.partition(":")[0])
        found = [artifact for artifact in self.artifacts.values() if (ENTITY, artifact.project, artifact.name) == place]
        return next((artifact for artifact in reversed(found) if artifact.state == "COMMITTED"), None)

    def op_ArtifactMembershipByName(self, variables: dict[str, Any]) -> Any:
        artifact = self._latest(variables, variables["name"])
        if artifact is None:
            return {"project": None if variables["entity"] != ENTITY else {"artifactCollectionMembership": None}}
        shown = self._shown_artifact(artifact)
        latest = {"__typename": "ArtifactAlias", "id": f"alias:{artifact.id}", "alias": "latest"}
        membership = {
            "__typename": "ArtifactCollectionMembership", "id": f"member:{artifact.id}", "aliases": [latest],
            "versionIndex": shown["versionIndex"], "createdAt": shown["createdAt"],
            "artifactCollection": shown["artifactSequence"], "artifact": shown,
        }  # fmt: skip
        return {"project": {"artifactCollectionMembership": membership}}

    def op_FetchArtifactManifest(self, variables: dict[str, Any]) -> Any:
        address = self._upload("artifact", variables["id"], "wandb_manifest.json")
        return {"artifact": {"currentManifest": {"file": {"directUrl": address}}}}

    def op_GetArtifactMembershipFileUrls(self, variables: dict[str, Any]) -> Any:
        artifact = self._latest(variables, variables["collection"])
        assert artifact is not None
        nodes = [
            {"node": {"__typename": "File", "name": name, "directUrl": self._upload("artifact", artifact.id, name)}}
            for name in artifact.files
            if name != "wandb_manifest.json"
        ]
        files = {"pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}, "edges": nodes}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}

    def op_UseArtifact(self, variables: dict[str, Any]) -> Any:
        return {"useArtifact": {"artifact": {"id": variables["input"]["artifactID"]}}}

    def op_ClientIDMapping(self, _: dict[str, Any]) -> Any:
        return {"clientIDMapping": {"serverID": next(reversed(self.artifacts), None)}}

    def op_FetchArtifactDigestAlgorithm(self, _: dict[str, Any]) -> Any:
        return {"project": None}

    def op_XXHashDigestsEnabled(self, _: dict[str, Any]) -> Any:
        return {"entity": {"xxhashDigestsEnabled": False}}

    # ---------------------------------------------------------------------------------------------- projects and views
    def op_ProjectInternalId(self, variables: dict[str, Any]) -> Any:
        return {"project": self._project(variables["projectName"])}

    def op_GetProjects(self, variables: dict[str, Any]) -> Any:
        names = sorted({run.project for run in self.runs.values()})
        shown = [{**self._project(name), "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
                 for name in names]  # fmt: skip
        edges = [{"node": node, "cursor": node["name"]} for node in shown]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def op_UpsertView2(self, variables: dict[str, Any]) -> Any:
        by_name = {view["name"]: key for key, view in self.views.items()}
        known = variables.get("id") or by_name.get(variables["name"])
        view_id = known or f"view-{len(self.views)}"
        view = self.views.setdefault(view_id, {"id": view_id})
        view |= {key: value for key, value in variables.items() if key != "id"}
        shown = {**view, "project": self._project(variables.get("projectName") or ""), "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": shown, "inserted": known is None}}

    op_upsertView = op_UpsertView2

    def op_View(self, variables: dict[str, Any]) -> Any:
        found: list[dict[str, Any]] = [
            {"node": view} for view in self.views.values() if view["name"] == variables["viewName"]
        ]
        return {"project": {"allViews": {"edges": found}}}

    def op_ProjectViews(self, variables: dict[str, Any]) -> Any:
        more = {"user": {"username": ENTITY, "photoUrl": "", "email": ""}, "updatedAt": "", "createdAt": ""}
        found = [view for view in self.views.values() if view.get("type") == variables.get("viewType", "runs")]
        edges = [{"node": {"description": "", **view, **more}, "cursor": view["id"]} for view in found]
        return {"project": {"allViews": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}

    def op_SpecificReport(self, variables: dict[str, Any]) -> Any:
        view = self.views[variables["reportId"]]
        return {"view": {**view, "project": self._project(view.get("projectName") or ""), "createdAt": "", "updatedAt": ""}}

    # ---------------------------------------------------------------------------------------------------------- faults
    def wait_while_hanging(self) -> None:
        """Hold a request for as long as the fault ``hang`` lasts."""
        lifted = self._lifted
        self.held += self._fail == "hang"
        while self._fail == "hang":
            lifted.wait(60)
            lifted = self._lifted

    def fault_begins(self) -> None:
        """Begin the fault that waits for the operation that was just carried out."""
        if self.fail_after and self.log[-1] == self.fail_after[0]:
            self.fail, self.fail_after = self.fail_after[1], None

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Show a fault within a ``with`` block."""
        self.fail = fault
        try:
            yield
        finally:
            self.fail = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # the client opens many connections at once, and would wait seconds for one that is refused

    def handle_error(self, *_: Any) -> None:
        """Say nothing where a client that was stopped leaves its connections open."""


def _handler(service: WandbService) -> type[BaseHTTPRequestHandler]:
    """The request handler class of one service."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                body = b"".join(pieces)
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            match self.headers.get("Content-Encoding"):
                case "gzip":
                    return gzip.decompress(body)
                case "deflate":
                    return zlib.decompress(body)
            return body

        def _authorised(self) -> bool:
            """Any key of 40 characters or more will do; uploads need none, as their addresses are the secret."""
            kind, _, value = self.headers.get("Authorization", "").partition(" ")
            key = base64.b64decode(value).decode().partition(":")[2] if kind == "Basic" else value
            return len(key) >= 40 or self.path.startswith("/storage/")

        def _answer(self) -> None:
            try:
                body = self._body()
                service.wait_while_hanging()
                value: Any
                service.refused += service.fail in ("500", "closed")
                if service.fail == "closed":
                    self.close_connection = True
                    return
                if service.fail == "500":
                    status, value = 500, {"error": "the stand-in was told to fail"}
                elif service.fail == "401" or not self._authorised():
                    status, value = 401, {"errors": [{"message": "user is not logged in"}]}
                else:
                    status, value = service.request(self.command, urlsplit(self.path).path, body)
                    service.fault_begins()
                payload = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up waiting

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler

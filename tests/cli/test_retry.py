"""``photon retry``: one annotation, by the user's kubeconfig. tests/operator has what an operator makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

pytest.importorskip("kubernetes")

PHOTON = Path(sys.executable).parent / "photon"
JOBS = "/apis/photon.dev/v1alpha1/namespaces/ml/federatedtrainingjobs"


def retry(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "KUBECONFIG": str(kubeconfig), "NO_PROXY": "*"}
    return subprocess.run([str(PHOTON), "retry", *arguments], env=env, text=True, capture_output=True, timeout=60)


def resource(kind: str) -> dict[str, Any]:
    stamp = "2026-01-01T00:00:00Z"
    return {"status": {"conditions": [{"type": kind, "status": "True", "reason": "R", "lastTransitionTime": stamp}]}}


class Api(BaseHTTPRequestHandler):
    patches: list[tuple[str, str, dict[str, Any]]]
    resources: ClassVar[dict[str, Any]] = {
        f"{JOBS}/failed": resource("Failed"),
        f"{JOBS}/complete": resource("Complete"),
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._answer(200 if path in self.resources else 404, self.resources.get(path, {}))

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.patches.append((self.path.partition("?")[0], self.headers["Content-Type"], body))
        self._answer(403 if self.headers["Authorization"] == "Bearer reader" else 200, {})

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def patches() -> list[tuple[str, str, dict[str, Any]]]:
    return []


@pytest.fixture
def kubeconfig(tmp_path: Path, patches: list[Any]) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Api,), {"patches": patches}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    contexts = [
        {"name": "writer", "context": {"cluster": "test", "user": "writer", "namespace": "ml"}},
        {"name": "reader", "context": {"cluster": "test", "user": "reader", "namespace": "ml"}},
    ]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "writer",
        "contexts": contexts,
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": name, "user": {"token": name}} for name in ("writer", "reader")],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    yield file
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_call_sets_another_value(kubeconfig: Path, patches: list[tuple[str, str, dict[str, Any]]]) -> None:
    for arguments in (("failed",), ("ml/failed",), ("failed", "--namespace", "ml", "--context", "writer")):
        done = retry(kubeconfig, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("ml/failed: what failed is tried again (photon.dev/retry: ")
    assert {(path, kind) for path, kind, _ in patches} == {(f"{JOBS}/failed", "application/merge-patch+json")}
    values = [body["metadata"]["annotations"]["photon.dev/retry"] for *_, body in patches]
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("complete",),
            "ml/complete is complete, nothing failed; to train longer, raise spec.rounds",
        ),
        (("other",), "the context writer has no FederatedTrainingJob of that name"),
        (("failed", "--context", "reader"), "ml/failed: you may not change it in the context reader"),
        (("failed", "--context", "none"), "--context none: "),
        (("ml/failed", "-n", "lab"), "ml/failed names the namespace ml and --namespace says lab"),
    ],
)
def test_what_cannot_be_tried_again_is_one_clear_error(kubeconfig: Path, arguments: tuple[str, ...], told: str) -> None:
    done = retry(kubeconfig, *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1

"""Stand-ins for the programs that ``photon run`` starts: they end as a test says, without a model or a store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

AGGREGATOR = '''#!{python}
"""Serves /v1/status at the socket that it was given; every start follows its own line of the script."""
import http.server, json, os, pathlib, socket, sys, threading, time

here = pathlib.Path(__file__).parent
starts = here / "aggregator-starts"
number = int(starts.read_text()) if starts.exists() else 0
starts.write_text(str(number + 1))
script = json.loads((here / "script.json").read_text())
part = script[min(number, len(script) - 1)]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(part["status"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        (here / "asked").touch()

    def log_message(self, *words):
        pass


record = {"reason": part.get("reason", "ProgramFailed"), "message": part.get("error", ""), "exitCode": part["code"]}
if part.get("words"):
    record["status"] = part["words"]
if part.get("words") or part.get("error"):
    pathlib.Path(os.environ["PHOTON_TERMINATION_LOG"]).write_text(json.dumps(record))
if "status" in part:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket = socket.socket(fileno=int(os.environ["PHOTON_LISTEN_FD"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (here / "asked").unlink(missing_ok=True)
    while not (here / "asked").exists() or (part.get("until") and not (here / part["until"]).exists()):
        time.sleep(0.02)
    time.sleep(0.1)
os._exit(part["code"])
'''

WORKER = '''#!{python}
"""``init`` succeeds; a participant ends with code, reason and message of its file, else it waits to be stopped."""
import json, os, pathlib, sys, time

here = pathlib.Path(__file__).parent
if sys.argv[1] == "init":
    sys.exit(0)
if sys.argv[1] == "gpus":
    print((here / "gpus.json").read_text())
    sys.exit(0)
name = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1]).name
lists = {k: v for k, v in os.environ.items() if k.endswith("_VISIBLE_DEVICES") or k == "PHOTON_DEVICE_TURN"}
(here / (name + ".gpus")).write_text(json.dumps(lists))
secrets = [k for k in os.environ if k.endswith(("TOKEN", "_KEY", "KEY_ID"))]
told = {"words": sys.argv[1:], "token": os.environ.get("PHOTON_TOKEN"), "secrets": secrets}
(here / (name + ".started")).write_text(json.dumps(told))
end = here / (name + ".end")
if end.exists():
    code, reason, message = end.read_text().split(" ", 2)
    if message:
        record = {"reason": reason, "message": message, "exitCode": int(code)}
        pathlib.Path(os.environ["PHOTON_TERMINATION_LOG"]).write_text(json.dumps(record))
    sys.exit(int(code))
time.sleep(600)
'''


GATE = '''#!{python}
"""Serves /v1/status, part after part of the script, and /v1/job; it ends after the last part that was asked for."""
import http.server, json, os, pathlib, sys, time

here = pathlib.Path(__file__).parent
starts = here / "gate-starts"
number = int(starts.read_text()) if starts.exists() else 0
starts.write_text(str(number + 1))
told = dict(zip(sys.argv[2::2], sys.argv[3::2]))
(here / "gate-told.json").write_text(
    json.dumps({"options": told, "words": sys.argv[1:], "env": {k: v for k, v in os.environ.items()}})
)
script = json.loads((here / "script.json").read_text())
parts = script[min(number, len(script) - 1)]
place = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global place
        part = parts[place]
        if self.path == "/v1/job":
            (here / "gate-asked").write_text(self.headers["Authorization"])
            body = (here / "job.json").read_bytes()
        else:
            body = json.dumps(part["status"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        waits = part.get("until") and not (here / part["until"]).exists()
        if self.path != "/v1/job" and not waits:
            place += 1
            if place == len(parts) or "status" not in parts[place]:
                server.shutdown_soon = True

    def log_message(self, *words):
        pass


host, port = told["--listen"].split(":")
server = http.server.HTTPServer((host, int(port)), Handler)
server.shutdown_soon = "status" not in parts[0]
while not server.shutdown_soon:
    server.handle_request()
last = parts[-1]
record = {"reason": last.get("reason", "ProgramFailed"), "message": last.get("error", ""), "exitCode": last["code"]}
if last.get("words"):
    record["status"] = last["words"]
pathlib.Path(os.environ["PHOTON_TERMINATION_LOG"]).write_text(json.dumps(record))
os._exit(last["code"])
'''


def write_gate(folder: Path, script: list[list[dict[str, object]]], job: str) -> None:
    """Programs ``photon-gate`` and ``photon-worker`` in ``folder``.

    ``script``: a list of parts for each start of the gate. Each but the last is a ``status`` that is served until it
    was asked for (and the file ``until`` is there); the last says how it ends: ``code``, ``error``, ``words``.
    ``job``: what /v1/job answers.
    """
    write_stubs(folder, [{"code": 0}])
    path = folder / "photon-gate"
    path.write_text(GATE.replace("{python}", sys.executable))
    path.chmod(0o755)
    (folder / "script.json").write_text(json.dumps(script))
    (folder / "job.json").write_text(job)


def write_stubs(folder: Path, script: list[dict[str, object]]) -> None:
    """Programs ``photon-aggregator`` and ``photon-worker`` in ``folder``.

    ``script``: an entry for each start of the aggregator, the last one for all later starts. ``status`` is served until
    it was asked for once (and the file ``until`` is there); ``words`` is the status in its termination record,
    ``error`` the message of it; ``code`` is its exit code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("photon-aggregator", AGGREGATOR), ("photon-worker", WORKER)):
        path = folder / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(0o755)
    (folder / "script.json").write_text(json.dumps(script))

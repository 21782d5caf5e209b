"""Workers of several processes under the real torchrun, against an aggregator that the test plays over real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil

from photon.protocol.messages import FinishTask, TaskReply

WORKER = str(Path(sys.executable).parent / "photon-worker")
DEADLINE_SECONDS = 240.0


class Served:
    """A FakeAggregator behind a port. Its tasks are handed out until they are done, as a real one's are."""

    def __init__(self, aggregator: Any) -> None:
        self.aggregator = aggregator
        self._done: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.answer))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/task":
            response: httpx.Response = self.aggregator.handle(request)
            return response
        self._done.add(request.url.params.get("done", ""))
        left = [task for task in self.aggregator.tasks if task.id not in self._done]
        reply = TaskReply(task=left[0] if left else FinishTask(reason="RoundsDone"))
        return httpx.Response(200, content=reply.model_dump_json(by_alias=True))


@contextmanager
def served(serving: Served) -> Iterator[Served]:
    """Serve until the block ends."""
    thread = Thread(target=serving._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield serving
    finally:
        serving._server.shutdown()
        serving._server.server_close()
        thread.join()


def _handler(answer: Callable[[httpx.Request], httpx.Response]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            response = answer(httpx.Request(self.command, f"http://test{self.path}", content=body))
            self.send_response(response.status_code)
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = do

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


class Node:
    """One ``photon-worker torchrun`` and the processes below it."""

    def __init__(
        self, served: Served, data: Path, work_dir: Path, *rendezvous: str, processes: int = 2, every: int = 2
    ) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        self._log = work_dir / "log.txt"
        command = [
            *(WORKER, "torchrun", *(rendezvous or ("--standalone", "--nnodes=1"))),
            *(f"--nproc-per-node={processes}", "--max-restarts=0", "--no-python"),
            *(WORKER, "run", "--aggregator", served.url, "--data", str(data), "--work-dir", str(work_dir)),
            *("--threads", "1", "--checkpoint-every", str(every)),
        ]
        env = {**os.environ, "PHOTON_TOKEN": "token", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, in the order of their ranks."""
        children = psutil.Process(self.process.pid).children()
        return sorted(children, key=lambda child: int(child.environ()["LOCAL_RANK"]))

    def kill(self, rank: int) -> None:
        self.ranks()[rank].send_signal(signal.SIGKILL)

    def finish(self) -> int:
        """The exit code; no process is left."""
        try:
            left = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            left = []
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        _, alive = psutil.wait_procs(left, timeout=10)
        assert alive == []
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def finish(nodes: Sequence[Node]) -> list[int]:
    """The exit codes of all nodes."""
    return [node.finish() for node in nodes]


def unused_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

"""An object store for one machine: SeaweedFS as a child process, for ``photon run`` without an endpoint and for tests.

``weed mini`` is used because it is ready in a second (``weed server`` takes three: it waits for a quorum of masters).
Everything binds to 127.0.0.1. The data folder keeps the objects, the keys and the ports, so a store that is started
again on the same folder has the same URL and the same credentials.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Final, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from photon.files import lock, write_atomic
from photon.local.seaweedfs import (
    HOST,
    Identity,
    all_free,
    find_weed,
    free_ports,
    inner_keys,
    options,
    port_names,
    s3_config,
    sockets,
)
from photon.local.seaweedfs_tls import make_certificate
from photon.processes import tied
from photon.store.errors import StorageFull, StoreError

START_SECONDS: Final = 30.0
START_ATTEMPTS: Final = 3
# A predecessor whose owner was killed a moment ago is about to be gone.
LOCK_SECONDS: Final = 2.0
# Its own records and one small model; with less it would start, and fail at the first object.
LEAST_FREE_BYTES: Final = 64 * 2**20
RESTART_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
# After this long it was healthy: its restarts are counted from zero again.
HEALTHY_SECONDS: Final = 600.0


class EmbeddedStore:
    """SeaweedFS on this machine, started by ``start()`` or a ``with`` block and gone after ``stop()``.

    ``port`` fixes the port of the S3 API (default: the last one used with this folder, else a free one). The store
    dies with the process that started it, however that ends. When it dies by itself it is started again at the same
    ports, ``restarts`` times in a row, so that presigned URLs stay good; ``news`` tells of it and ``failure`` says when
    it is given up.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, log_path: Path, restarts: int = 0) -> None:
        self._data_dir = data_dir
        self._port = port
        self._log_path = log_path
        self._restarts = restarts
        self._news: SimpleQueue[str] = SimpleQueue()
        self._failure: StoreError | None = None
        self._ready = Event()
        self._ending = Event()
        self._spawning = Lock()
        self._identity: Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: Thread | None = None
        self._lock_fd: int | None = None

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{HOST}:{self._known.ports['s3']}"

    @property
    def access_key(self) -> str:
        """For AWS_ACCESS_KEY_ID."""
        return self._known.access_key

    @property
    def secret_key(self) -> str:
        """For AWS_SECRET_ACCESS_KEY."""
        return self._known.secret_key

    @property
    def pid(self) -> int | None:
        """The process while it is running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def failure(self) -> StoreError | None:
        """Why it is not started again, with the last lines of its log; None as long as it is."""
        return self._failure

    def news(self) -> list[str]:
        """What has happened to it since the last call, a line each."""
        return [self._news.get() for _ in range(self._news.qsize())]

    def start(self) -> None:
        """Return when the store takes requests; raises StoreError with the last lines of its log when it does not."""
        if self._process is not None:
            raise RuntimeError("the store is started already")
        weed = find_weed()
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        if self.free_bytes() < LEAST_FREE_BYTES:
            raise self._full()
        self._lock()
        try:
            deadline = time.monotonic() + START_SECONDS
            for attempt in range(START_ATTEMPTS):
                self._identity = self._choose(fresh_ports=attempt > 0)
                self._launch(weed)
                try:
                    self._wait_until_ready(deadline)
                    self._ready.set()
                    return
                except _PortTakenError:
                    self._end_process()
            raise StoreError(f"the embedded store found no free ports in {START_ATTEMPTS} attempts")
        except BaseException:
            self.stop()
            raise

    def free_bytes(self) -> int:
        """What can still be written: SeaweedFS takes no more when less than 1 % of the disk is free."""
        disk = shutil.disk_usage(self._data_dir)
        return max(0, disk.free - disk.total // 100)

    def stop(self) -> None:
        """End the process. SIGKILL: all that was acknowledged is in files, and SIGTERM takes SeaweedFS 20 s or more."""
        self._end_process()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _full(self) -> StorageFull:
        return StorageFull(
            f"storage is full: the embedded store has {self.free_bytes() / 2**20:.0f} MiB left at {self._data_dir} "
            "(it leaves 1 % of the disk free); free space, or take another folder or disk"
        )

    @property
    def _known(self) -> Identity:
        if self._identity is None:
            raise RuntimeError("the store is not started")
        return self._identity

    def _lock(self) -> None:
        """Two servers on one folder would destroy it. The server inherits the lock, so it holds while any lives."""
        fd = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not lock(fd, wait_seconds=LOCK_SECONDS):
            os.close(fd)
            raise StoreError(f"another object store is running on {self._data_dir}: stop it or take another folder")
        self._lock_fd = fd

    def _choose(self, *, fresh_ports: bool) -> Identity:
        path = self._data_dir / "store.json"
        last = Identity.model_validate_json(path.read_bytes()) if path.exists() else None
        fixed = {} if self._port is None else {"s3": self._port}
        if not all_free(fixed.values()):
            raise StoreError(f"port {self._port} on {HOST} is taken: the embedded store needs it, or another one")
        ports = {} if last is None or fresh_ports else last.ports | fixed
        if set(ports) != set(port_names()) or not all_free(ports.values()):
            ports = free_ports([name for name in port_names() if name not in fixed]) | fixed
        identity = Identity(
            access_key=last.access_key if last else secrets.token_hex(10),
            secret_key=last.secret_key if last else secrets.token_urlsafe(30),
            ports=ports,
        )
        write_atomic(path, identity.model_dump_json(indent=2), mode=0o600)
        return identity

    def _launch(self, weed: Path) -> None:
        self._ready.clear()
        self._ending.clear()
        started = Event()
        failure: list[OSError] = []

        def keep() -> None:
            # PR_SET_PDEATHSIG fires when the *thread* that forked ends: this one lives as long as the store.
            try:
                process = self._spawn(weed)
            except OSError as error:
                failure.append(error)
                return
            finally:
                started.set()
            if process is not None:
                self._keep(weed, process)

        self._keeper = Thread(target=keep, name="embedded-store", daemon=True)
        self._keeper.start()
        started.wait()
        if failure:
            raise StoreError(f"the embedded store cannot be started: {failure[0]}") from failure[0]

    def _keep(self, weed: Path, process: subprocess.Popen[bytes]) -> None:
        """Until the store is stopped or given up: start it again when it has ended by itself."""
        left, began_at = self._restarts, time.monotonic()
        while True:
            code = process.wait()
            if self._ending.is_set() or not self._ready.is_set():
                return  # it was stopped, or did not even start: who waits for it says so
            if time.monotonic() - began_at > HEALTHY_SECONDS:
                left = self._restarts
            reason = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
            if left == 0:
                times = f" {self._restarts + 1} times" if self._restarts else ""
                self._failure = StoreError(f"the object store failed{times} ({reason}):\n{self._log_tail()}")
                return
            left -= 1
            tries = "try" if left == 1 else "tries"
            self._news.put(f"the object store died ({reason}); starting it again, {left} more {tries}")
            pauses = RESTART_PAUSES_SECONDS
            if self._ending.wait(pauses[min(self._restarts - left, len(pauses)) - 1]):
                return
            began_at = time.monotonic()
            try:
                again = self._spawn(weed)
            except OSError as error:
                self._failure = StoreError(f"the object store cannot be started again: {error}")
                return
            if again is None:
                return
            process = again

    def _spawn(self, weed: Path) -> subprocess.Popen[bytes] | None:
        """Start the server at the chosen ports; None when it is to end."""
        known = self._known
        data_dir = self._data_dir.resolve()
        run_dir = data_dir / "run"
        with self._spawning, self._log_path.open("ab") as log:
            if self._ending.is_set():
                return None
            # `weed mini` notes its options here and would read them again; ours are all on its command line.
            (data_dir / "mini.options").unlink(missing_ok=True)
            shutil.rmtree(run_dir, ignore_errors=True)
            run_dir.mkdir(mode=0o700)
            write_atomic(run_dir / "s3.json", s3_config(known), mode=0o600)
            # Relative paths: SeaweedFS takes a comma in one for the end of it.
            command = [str(weed), "-logtostderr", "mini", "-dir=.", *options(known.ports)]
            command += ["-s3.config=run/s3.json", "-admin.dataDir=run"]
            certificate = make_certificate(run_dir / "tls", seen_as="run/tls")
            if not certificate:
                self._news.put(
                    "openssl is not installed: other users of this machine can reach the store's inner ports"
                )
            # Nothing of the user's settings for SeaweedFS or AWS may reach this instance.
            environment = {
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(run_dir),
                "TMPDIR": str(run_dir),
                **inner_keys(),
                **certificate,
            }
            self._process = subprocess.Popen(
                tied(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=data_dir,
                env=environment,
                pass_fds=[self._lock_fd] if self._lock_fd is not None else [],
                # Ctrl-C in the terminal is for the owner, which still needs the store to end in order.
                start_new_session=True,
            )
            return self._process

    def _wait_until_ready(self, deadline: float) -> None:
        """Ready means that the volumes are there and that a signed request succeeds: it has read its credentials.

        Where one of our ports was taken meanwhile, SeaweedFS ends and another process may answer, which lacks our key.
        """
        process = self._process
        assert process is not None
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=2, proxies={}),
        )
        last = "it does not listen"
        while time.monotonic() < deadline:
            if process.poll() is not None:
                tail = self._log_tail()
                if any(words in tail for words in _PORT_TAKEN):
                    raise _PortTakenError
                raise StoreError(f"the embedded store ended at once (exit status {process.returncode}):\n{tail}")
            try:
                client.list_buckets()
                if self._volumes_are_there():
                    return
                last = "its volumes are missing"
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
                    raise _PortTakenError from error
                last = str(error)
            except BotoCoreError as error:
                last = str(error)
            time.sleep(0.02)
        raise StoreError(f"the embedded store was not ready within {START_SECONDS:.0f} s ({last}):\n{self._log_tail()}")

    def _volumes_are_there(self) -> bool:
        """The S3 API listens regardless; without volumes every read would fail."""
        connection = HTTPConnection(HOST, self._known.ports["volume"], timeout=2)
        try:
            # It says so once the master takes its heartbeats.
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _log_tail(self, lines: int = 15) -> str:
        text = self._log_path.read_text(errors="replace") if self._log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _end_process(self) -> None:
        with self._spawning:
            self._ending.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._keeper is not None:
            self._keeper.join()
        self._process = self._keeper = None
        if self._identity is not None:
            for path in sockets(self._identity.ports):
                path.unlink(missing_ok=True)


_PORT_TAKEN: Final = ("Port allocation failed", "address already in use")


class _PortTakenError(Exception):
    """Somebody took one of the chosen ports between the choice and the start."""

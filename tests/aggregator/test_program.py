"""``photon-aggregator`` as a process: options, exit codes, one clear line for a mistake, and nothing of torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from photon.api.placement import StorageSpec
from photon.protocol.owner import NAMESPACE_VARIABLE, Owner
from photon.protocol.termination import parse
from photon.store.objects import ObjectStore
from photon.store.owner import claim
from tests.aggregator.fake_worker import FakeWorker, job_document, token_digests, write_round_zero
from tests.aggregator.running import chain, working
from tests.faults import Fault, FaultProxy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """The files and environment of one start."""

    def __init__(self, folder: Path, s3: Any, job: Any, names: list[str]) -> None:
        self.job, self.tokens = folder / "job.yaml", folder / "tokens.json"
        document = job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        document |= {"apiVersion": job.api_version, "kind": job.kind}
        self.job.write_text(yaml.safe_dump(document))
        self.tokens.write_text(json.dumps(token_digests(names)))
        self.port = free_port()
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *more: str, fds: tuple[int, ...] = (), **replaced: str) -> subprocess.Popen[str]:
        options = {"--job": str(self.job), "--tokens": str(self.tokens), "--listen": f"127.0.0.1:{self.port}"}
        options |= {f"--{name}": value for name, value in replaced.items()}
        command = [sys.executable, "-c", "from photon_aggregator.main import main; main()"]
        command += [word for pair in options.items() for word in pair]
        return subprocess.Popen(
            [*command, *more], env=self.environment, stderr=subprocess.PIPE, text=True, pass_fds=fds
        )

    def run(self, *more: str, **replaced: str) -> tuple[int, str]:
        process = self.start(*more, **replaced)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, errors


@pytest.fixture
def program(tmp_path: Path, s3: Any, storage: StorageSpec, store: ObjectStore) -> Program:
    return Program(tmp_path, s3, job_document(storage, ["north", "south"], rounds=2), ["north", "south"])


def test_a_job_from_start_to_end(program: Program, store: ObjectStore, storage: StorageSpec, tmp_path: Path) -> None:
    write_round_zero(job_document(storage, ["north", "south"], rounds=2), store)
    termination_log = tmp_path / "termination-log"
    program.environment["PHOTON_TERMINATION_LOG"] = str(termination_log)
    process = program.start("--stop-when-done")
    url = f"http://127.0.0.1:{program.port}"
    with working(FakeWorker("north", [url]), FakeWorker("south", [url])):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(chain(store)) == 3
    record = parse(termination_log.read_bytes())
    assert record is not None
    assert (record.reason, record.exit_code) == ("RoundsDone", 0)
    told = record.status
    assert told is not None
    assert [c.type for c in told.conditions if c.status == "True"] == ["Complete"]
    assert told.committed_rounds == 2
    assert " aggregator  round 2: RoundCommitted" in errors


def test_where_others_reach_it_figures_need_a_token_and_metrics_have_a_port_of_their_own(
    program: Program, store: ObjectStore, storage: StorageSpec
) -> None:
    write_round_zero(job_document(storage, ["north", "south"], rounds=2), store)
    side = free_port()

    def get(path: str, port: int = program.port, **headers: str) -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(retries=10), trust_env=False, timeout=30) as client:
            return client.get(f"http://127.0.0.1:{port}{path}", headers=headers)

    everywhere = {"listen": f"0.0.0.0:{program.port}", "metrics-listen": f"127.0.0.1:{side}"}
    for token in (None, "look"):
        program.environment |= {"PHOTON_READ_TOKEN": token} if token is not None else {}
        process = program.start(**everywhere)
        try:
            assert get("/healthz").status_code == 200
            while get("/readyz").status_code != 200:
                time.sleep(0.05)
            for path in ("/v1/status", "/v1/live", "/v1/history", "/v1/curves", "/v1/events", "/metrics"):
                refused = get(path)
                assert refused.status_code == 401, path
                assert (b"PHOTON_READ_TOKEN" in refused.content) is (token is None)
                if token is not None:
                    assert get(path, Authorization=f"Bearer {token}").status_code == 200, path
            assert b"photon_job_info" in get("/metrics", side).content
            for path in ("/", "/v1/status", "/v1/job", "/healthz"):
                assert get(path, side).status_code == 404, path
        finally:
            process.terminate()
            process.communicate(timeout=60)


def test_it_deletes_what_the_job_wrote_instead_of_running_it(
    program: Program, store: ObjectStore, storage: StorageSpec
) -> None:
    write_round_zero(job_document(storage, ["north", "south"], rounds=2), store)
    code, errors = program.run("--delete-data")
    assert code == 0, errors
    assert list(store.list()) == []
    assert "objects deleted below s3://photon/" in errors


def test_a_prefix_of_another_job_is_a_mistake_with_a_reason_of_its_own_and_its_data_stays(
    program: Program, store: ObjectStore, storage: StorageSpec, tmp_path: Path
) -> None:
    write_round_zero(job_document(storage, ["north", "south"], rounds=2), store)
    claim(store, Owner(job="test", namespace="lab"))
    written = {info.key for info in store.list()}
    termination_log = tmp_path / "termination-log"
    program.environment |= {"PHOTON_TERMINATION_LOG": str(termination_log), NAMESPACE_VARIABLE: "other"}
    code, errors = program.run("--stop-when-done")
    assert code == 2, errors
    record = parse(termination_log.read_bytes())
    assert record is not None
    assert (record.reason, record.exit_code) == ("PrefixTaken", 2)
    assert "belongs to the job lab/test, not to other/test" in record.message
    code, errors = program.run("--delete-data")
    assert code == 0, errors
    record = parse(termination_log.read_bytes())
    assert record is not None
    assert (record.reason, record.exit_code) == ("PrefixTaken", 0)
    assert "nothing is deleted: " in record.message
    assert {info.key for info in store.list()} == written


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_though_workers_hold_the_line(
    number: signal.Signals, code: int, program: Program, store: ObjectStore, storage: StorageSpec
) -> None:
    write_round_zero(job_document(storage, ["north", "south"], rounds=2), store)
    process = program.start()
    worker = FakeWorker("north", [f"http://127.0.0.1:{program.port}"])
    assert worker.next_task(None) is not None
    held = FakeWorker("south", worker.urls, patience=1)
    poll = threading.Thread(target=_quiet, args=(held,))
    poll.start()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    poll.join(20)
    worker.http.close()
    held.http.close()
    assert process.returncode == code, errors
    assert "Traceback" not in errors


def _quiet(worker: FakeWorker) -> None:
    try:
        worker.next_task("train-00001", wait_seconds=30)
    except RuntimeError:
        return


def test_mistakes_end_with_one_line_and_code_2(program: Program, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(program.job.read_text().replace("rounds:", "round:"))
    half = tmp_path / "half.json"
    half.write_text(json.dumps(token_digests(["north"])))
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"north": "secret", "south": "secret"}))
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    cases = [
        ({"job": str(tmp_path / "none.yaml")}, "none.yaml"),
        ({"job": str(broken)}, "round"),
        ({"tokens": str(tmp_path / "none.json")}, "there is no such file"),
        ({"tokens": str(half)}, "no token for south"),
        ({"tokens": str(plain)}, "64 hex digits"),
        ({"listen": "8080"}, "HOST:PORT"),
        ({"listen": f"127.0.0.1:{taken.getsockname()[1]}"}, "Address already in use"),
    ]
    for options, text in cases:
        code, errors = program.run(**options)
        assert code == 2, (options, errors)
        assert text in errors, (options, errors)
        assert "Traceback" not in errors
    taken.close()


def test_a_job_file_that_does_not_fit_the_bucket_is_a_mistake(
    program: Program, store: ObjectStore, storage: StorageSpec
) -> None:
    write_round_zero(job_document(storage, ["north", "south"], rounds=2, outer={"type": "FedAvg"}), store)
    code, errors = program.run("--stop-when-done")
    assert code == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert "outer" in errors
    assert "Traceback" not in errors


def test_a_store_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, s3: Any, store: ObjectStore, storage: StorageSpec
) -> None:
    write_round_zero(job_document(storage, ["north"], rounds=1), store)
    with FaultProxy(s3.endpoint) as proxy:
        behind = storage.model_copy(update={"endpoint": proxy.endpoint})
        program = Program(tmp_path, s3, job_document(behind, ["north"], rounds=1), ["north"])
        proxy.plan(*[Fault(status=503)] * 10_000)
        process = program.start("--stop-when-done")
        worker = FakeWorker("north", [f"http://127.0.0.1:{program.port}"], patience=120)
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"{worker.urls[0]}/v1/status", trust_env=False, timeout=10)
                if answer.json()["conditions"][0]["reason"] == "StorageUnreachable":
                    break
            time.sleep(0.2)
        proxy.heal()
        with working(worker):
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_wrong_keys_are_said_in_one_line(program: Program, tmp_path: Path) -> None:
    program.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    program.environment["PHOTON_TERMINATION_LOG"] = str(tmp_path / "termination-log")
    code, errors = program.run()
    assert code == 1
    assert errors.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in errors
    record = parse((tmp_path / "termination-log").read_bytes())
    assert record is not None
    assert (record.reason, record.exit_code, f"error: {record.message}") == ("AccessDenied", 1, errors.splitlines()[-1])


def test_the_aggregator_imports_nothing_heavy() -> None:
    script = (
        "import sys, photon_aggregator.main\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'pyarrow', 'kopf', 'kubernetes'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


def test_a_socket_that_a_launcher_holds_is_served_after_a_restart_at_the_same_address(
    program: Program, store: ObjectStore, storage: StorageSpec
) -> None:
    """Who asks while the aggregator is away is answered when it is back, and the port is never free for others."""
    write_round_zero(job_document(storage, ["north", "south"], rounds=2), store)
    with socket.create_server(("127.0.0.1", 0)) as held:
        program.environment["PHOTON_LISTEN_FD"] = str(held.fileno())
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        for _ in range(2):
            process = program.start(fds=(held.fileno(),))
            worker = FakeWorker("north", [url], patience=60)
            assert worker.next_task(None) is not None
            worker.http.close()
            process.kill()
            process.communicate()
    program.environment["PHOTON_LISTEN_FD"] = "999"
    code, errors = program.run()
    assert code == 2
    assert "PHOTON_LISTEN_FD=999: is not an open socket" in errors

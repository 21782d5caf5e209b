"""Which GPUs the workers of a run get, on a machine whose GPUs a stand-in for the worker's program lists."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from photon.api.job import FederatedTrainingJob
from photon.errors import RunFailed, UserError
from photon.local import process, supervisor
from photon.local.environment import Keys
from photon.local.gpus import environments
from photon.local.run_folder import RunDirectory
from photon.local.supervisor import Supervisor
from photon.terminal.display import Display
from tests.cli.conftest import job_document
from tests.cli.stub_programs import write_stubs

COMPLETE = {
    "rounds": 3,
    "round": 1,
    "conditions": [
        {"type": "Complete", "status": "True", "reason": "RoundsDone", "message": "", "lastTransitionTime": "now"}
    ],
}


class Machine:
    """A machine with some GPUs, and what the workers of a job were told there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"
        write_stubs(self.programs, [{"status": COMPLETE, "code": 0, "until": "looked"}])

    def told(self, job: FederatedTrainingJob) -> dict[str, dict[str, str]]:
        """Run ``job``; what each worker process found in its environment."""
        given = environments(job, str(self.programs / "photon-worker"))
        directory = RunDirectory(self.folder / "runs" / "small")
        display = Display(name="small", local_steps=2, footer="", events_path=None, quiet=True)
        keys = Keys(access_key="id", secret_key="secret")
        names = [p.name for p in job.spec.participants]
        found = {name: self.programs / f"{name}.gpus" for name in names}

        def look() -> None:
            if all(path.exists() and path.read_text().endswith("}") for path in found.values()):
                (self.programs / "looked").touch()

        with directory.locked(), display:
            Supervisor(
                job, run=directory, folder=self.folder, keys=keys, display=display, watch_store=look, gpus=given
            ).run()
        return {name: json.loads(path.read_text()) for name, path in found.items()}

    def has(self, *gpus: str, variable: str = "CUDA_VISIBLE_DEVICES") -> Machine:
        (self.programs / "gpus.json").write_text(json.dumps({"variable": variable, "gpus": gpus}))
        return self


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(process, "_BACKOFF_SECONDS", (0.05,))
    monkeypatch.setattr(supervisor, "_STATUS_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "_FAREWELL_SECONDS", 0.1)
    made = Machine(tmp_path)
    monkeypatch.setattr(supervisor, "find_program", lambda name: str(made.programs / name))
    return made


def job(*gpus: int, **local: Any) -> FederatedTrainingJob:
    document = job_document(Path("/data"))
    document["spec"]["participants"] = [
        {"name": f"p{i}", "worker": {"data": {"uri": "/data"}, "resources": {"gpus": count}}}
        for i, count in enumerate(gpus)
    ]
    document["spec"]["local"] |= local
    return FederatedTrainingJob.model_validate(document)


@pytest.mark.processes
def test_each_participant_gets_gpus_of_its_own(machine: Machine) -> None:
    told = machine.has("4", "5", "GPU-7f", "7").told(job(1, 2, 0))
    assert told == {
        "p0": {"CUDA_VISIBLE_DEVICES": "4"},
        "p1": {"CUDA_VISIBLE_DEVICES": "5,GPU-7f"},
        "p2": {"CUDA_VISIBLE_DEVICES": ""},  # as in a cluster: it asked for none
    }


@pytest.mark.processes
def test_where_none_asks_they_take_turns(machine: Machine) -> None:
    assert machine.told(job(0, 0, 0)) == {f"p{i}": {"PHOTON_DEVICE_TURN": str(i)} for i in range(3)}


def test_too_few_are_refused_with_who_asks_for_what(machine: Machine) -> None:
    program = str(machine.has("0", "1").programs / "photon-worker")
    with pytest.raises(UserError, match=r"4 GPUs in all \(p0 1, p2 3\), and this machine has 2; lower them"):
        environments(job(1, 0, 3), program)
    machine.has()
    with pytest.raises(UserError, match="has none that torch can use"):
        environments(job(1), program)


def test_another_vendors_gpus_are_listed_as_it_lists_them(machine: Machine) -> None:
    program = str(machine.has("0", "1", variable="HIP_VISIBLE_DEVICES").programs / "photon-worker")
    assert environments(job(1, 1), program) == {"p0": {"HIP_VISIBLE_DEVICES": "0"}, "p1": {"HIP_VISIBLE_DEVICES": "1"}}


@pytest.mark.parametrize("answer", ["", "[]", '{"variable": "PATH", "gpus": ["x"]}', "\x00"])
def test_a_program_that_cannot_say_is_named(machine: Machine, answer: str) -> None:
    (machine.programs / "gpus.json").write_text(answer)
    with pytest.raises(RunFailed, match="photon-worker gpus cannot say"):
        environments(job(1), str(machine.programs / "photon-worker"))


def test_a_process_takes_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four participants without a word about GPUs on a machine with three."""
    import torch

    from photon_worker.training.device import choose

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda _: None)
    chosen = []
    for turn in range(4):
        monkeypatch.setenv("PHOTON_DEVICE_TURN", str(turn))
        chosen.append(choose(None).index)
    assert chosen == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("listed", "count", "expected"),
    [(None, 3, ["0", "1", "2"]), ("4, GPU-7f", 2, ["4", "GPU-7f"]), ("4,-1,5", 1, ["4"]), ("", 0, [])],
)
def test_the_worker_lists_those_that_it_may_use(
    monkeypatch: pytest.MonkeyPatch, listed: str | None, count: int, expected: list[str]
) -> None:
    import torch

    from photon_worker.training.device import visible_gpus

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == ("CUDA_VISIBLE_DEVICES", expected)


def test_the_program_prints_what_photon_run_reads(tmp_path: Path) -> None:
    from photon.local.gpus import Gpus

    worker = Path(sys.executable).parent / "photon-worker"
    env = {"PATH": "/bin", "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([worker, "gpus"], env=env, capture_output=True, text=True, check=True)
    assert Gpus.model_validate_json(done.stdout) == Gpus(variable="CUDA_VISIBLE_DEVICES", gpus=[])

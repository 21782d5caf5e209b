"""The launch plan: what a job consists of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from photon.api.job import FederatedTrainingJob
from photon.launch import DoorContext, LaunchContext, Role, SecretSource, data_arguments, processes

CONTEXT = LaunchContext(
    job_path="/run/job.yaml",
    tokens_path="/run/tokens.json",
    listen="127.0.0.1:8080",
    aggregator_url="http://127.0.0.1:8080",
    work_dir="/run/work/{participant}",
    rendezvous="job-{participant}-0:29400",
)


def job(participants: list[dict[str, Any]], **spec: Any) -> FederatedTrainingJob:
    return FederatedTrainingJob.model_validate(
        {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "test"},
            "spec": {"model": {"preset": "llama-1m"}, "rounds": 2, "participants": participants, **spec},
        }
    )


def here(name: str, **worker: Any) -> dict[str, Any]:
    return {"name": name, "worker": {"data": {"uri": f"/data/{name}"}, **worker}}


def test_init_comes_first_then_the_aggregator_then_a_worker_for_each_participant_here() -> None:
    plan = processes(job([here("a"), {"name": "far", "remote": {}}, here("b")]), CONTEXT)
    assert [p.name for p in plan] == ["init", "aggregator", "worker-a", "worker-b"]
    assert [p.participant for p in plan] == [None, None, "a", "b"]
    assert plan[0].after == ()
    assert all(p.after == ("init",) for p in plan[1:])


def test_the_commands_are_those_of_the_programs() -> None:
    init, aggregator, worker = processes(job([here("a", checkpointEverySteps=7)]), CONTEXT)
    assert init.command == ("photon-worker", "init", "--job", "/run/job.yaml")
    assert aggregator.command == (
        *("photon-aggregator", "--job", "/run/job.yaml", "--listen", "127.0.0.1:8080"),
        *("--tokens", "/run/tokens.json"),
    )
    assert worker.command == (
        *("photon-worker", "run", "--aggregator", "http://127.0.0.1:8080", "--data", "/data/a"),
        *("--work-dir", "/run/work/a", "--threads", "1", "--checkpoint-every", "7"),
    )


def test_workers_wait_for_an_aggregator_as_long_as_their_launcher_says() -> None:
    worker = processes(job([here("a")]), replace(CONTEXT, patience_seconds=3600))[-1]
    assert worker.command[-2:] == ("--patience-seconds", "3600")


def test_thread_pools_are_held_to_the_granted_cores() -> None:
    plan = processes(job([here("a", resources={"cpus": 6})]), CONTEXT)
    worker = plan[-1]
    assert worker.cpus == 6
    assert worker.env["OMP_NUM_THREADS"] == worker.env["OPENBLAS_NUM_THREADS"] == "6"
    assert worker.command[worker.command.index("--threads") + 1] == "6"
    assert plan[1].env["OMP_NUM_THREADS"] == "2", "the aggregator's default"
    assert plan[0].cpus == 6, "init may use what the largest may use"


def test_workers_never_get_the_keys_of_the_bucket() -> None:
    for process in processes(job([here("a"), here("b")]), CONTEXT):
        granted = {secret.name: secret.source for secret in process.secret_env}
        if process.role is Role.WORKER:
            assert granted == {"PHOTON_TOKEN": SecretSource.TOKEN}
        else:
            assert granted == {
                "AWS_ACCESS_KEY_ID": SecretSource.STORAGE,
                "AWS_SECRET_ACCESS_KEY": SecretSource.STORAGE,
                "AWS_SESSION_TOKEN": SecretSource.STORAGE,
            }


def test_a_worker_reads_its_data_where_the_job_says_that_it_lies() -> None:
    data = {"uri": "s3://texts/a", "endpoint": "http://s3.example.org:9000"}
    *others, worker = processes(job([{"name": "a", "worker": {"data": data}}]), CONTEXT)
    assert worker.env["AWS_ENDPOINT_URL"] == "http://s3.example.org:9000"
    assert all("AWS_ENDPOINT_URL" not in process.env for process in others)


def test_a_worker_with_data_in_s3_gets_the_keys_of_its_data() -> None:
    participant = {"name": "a", "worker": {"data": {"uri": "s3://texts/a"}}}
    worker = processes(job([participant]), CONTEXT)[-1]
    assert {(s.name, s.source) for s in worker.secret_env} == {
        ("PHOTON_TOKEN", SecretSource.TOKEN),
        ("AWS_ACCESS_KEY_ID", SecretSource.DATA),
        ("AWS_SECRET_ACCESS_KEY", SecretSource.DATA),
        ("AWS_SESSION_TOKEN", SecretSource.DATA),
    }
    assert [s.name for s in worker.secret_env if s.optional] == ["AWS_SESSION_TOKEN"]


def test_no_secret_is_in_the_plan() -> None:
    assert not any(
        "KEY" in name or "TOKEN" in name
        for p in processes(job([here("a")]), CONTEXT)
        for name in p.env
        if name != "TOKENIZERS_PARALLELISM"
    )


def test_a_mixture_is_named_folder_by_folder() -> None:
    sources = [{"name": "x", "uri": "/data/x"}, {"name": "y", "uri": "/data/y"}]
    worker = processes(job([{"name": "a", "worker": {"data": {"sources": sources}}}]), CONTEXT)[-1]
    given = [worker.command[i + 1] for i, word in enumerate(worker.command) if word == "--data"]
    assert given == ["x=/data/x", "y=/data/y"]


def test_data_arguments_of_one_folder() -> None:
    worker = job([here("a")]).spec.participants[0].worker
    assert worker is not None
    assert data_arguments(worker.data) == ["/data/a"]


def test_fsdp_on_one_node_is_torchrun_standalone_with_the_cores_shared() -> None:
    participant = here("a", processesPerNode=4, resources={"cpus": 8, "gpus": 4})
    worker = processes(job([participant], local={"strategy": "FSDP"}), CONTEXT)[-1]
    assert worker.command[:7] == (
        *("photon-worker", "torchrun", "--standalone", "--nnodes=1", "--nproc-per-node=4"),
        *("--max-restarts=0", "--no-python"),
    )
    assert worker.command[7:9] == ("photon-worker", "run")
    assert worker.env["OMP_NUM_THREADS"] == "2"
    assert (worker.gpus, worker.processes_per_node) == (4, 4)


def test_with_fsdp_each_gpu_has_a_process_without_being_told() -> None:
    worker = processes(job([here("a", resources={"cpus": 16, "gpus": 8})], local={"strategy": "FSDP"}), CONTEXT)[-1]
    assert "--nproc-per-node=8" in worker.command
    assert worker.processes_per_node == 8
    assert worker.env["OMP_NUM_THREADS"] == "2"


def test_a_document_with_default_processes_is_what_an_earlier_release_reads() -> None:
    document = job([here("a")]).model_dump(mode="json", by_alias=True)
    assert "processesPerNode" not in document["spec"]["participants"][0]["worker"]


def test_fsdp_on_several_nodes_meets_at_the_participants_rendezvous() -> None:
    worker = processes(job([here("a", nodes=3)], local={"strategy": "FSDP"}), CONTEXT)[-1]
    assert "--rdzv-endpoint=job-a-0:29400" in worker.command
    assert "--nnodes=3" in worker.command
    assert worker.nodes == 3


def test_the_aggregator_ends_with_the_job_only_where_the_launcher_says_so() -> None:
    context = LaunchContext(
        job_path="j", tokens_path="t", listen="l", aggregator_url="u", work_dir="w", stop_when_done=True
    )
    assert "--stop-when-done" in processes(job([here("a")]), context)[1].command
    assert "--stop-when-done" not in processes(job([here("a")]), CONTEXT)[1].command


def test_the_aggregator_has_a_door_only_where_the_launcher_opens_one() -> None:
    door = DoorContext(listen="0.0.0.0:8443", identity_path="/id.pem", access_path="/run/access.json")
    plain = processes(job([{"name": "far", "remote": {}}]), replace(CONTEXT, door=door))[1].command
    options = ("--door-listen", "0.0.0.0:8443", "--identity", "/id.pem", "--access", "/run/access.json")
    assert plain[-len(options) :] == options
    whole = replace(
        door, certificate="/c.pem", key="/k.pem", object_endpoint="https://hub.test:8444", linger_seconds=60
    )
    encrypted = processes(job([here("a")]), replace(CONTEXT, door=whole))[1].command
    tls = ("--door-certificate", "/c.pem", "--door-key", "/k.pem", "--object-endpoint", "https://hub.test:8444")
    tls += ("--linger-seconds", "60")
    assert encrypted[-len(options) - len(tls) :] == options + tls
    assert not any(word.startswith("--door") for word in processes(job([here("a")]), CONTEXT)[1].command)


def test_the_plan_is_a_pure_function_of_job_and_context() -> None:
    assert processes(job([here("a")]), CONTEXT) == processes(job([here("a")]), CONTEXT)


def test_relative_paths_of_the_job_start_where_the_launcher_says() -> None:
    (first, *_) = processes(job([here("a")]), replace(CONTEXT, folder="/jobs"))
    assert first.command[-2:] == ("--folder", "/jobs")

"""Parts of the launcher that need no process."""

from __future__ import annotations

import pytest

from photon.api.status import ClusterReason
from photon.errors import UserError
from photon.launch import Process, Role, SecretEnv, SecretSource
from photon.local.environment import Keys, environment, not_proxied
from photon.local.process import Exit
from photon.local.programs import find_program
from photon.local.supervisor import failure
from photon.protocol.termination import Termination

KEYS = Keys(access_key="store-id", secret_key="store-secret")
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def process(*secrets: SecretEnv) -> Process:
    return Process(
        role=Role.WORKER, name="worker-a", participant="a", command=("x",), cpus=1, restarts=2, secret_env=secrets
    )


def ended(*, code: int, record: Termination | None) -> Exit:
    return Exit(
        process=process(), code=code, final=True, restarts_left=0, record=record, log_tail="first\nTraceback: boom"
    )


def test_a_process_that_failed_without_a_word_is_named_with_the_last_lines_of_its_log() -> None:
    assert failure(ended(code=-9, record=None), "runs/x/logs/worker-a.log").splitlines() == [
        "worker-a failed 3 times (killed by SIGKILL); the last lines of runs/x/logs/worker-a.log:",
        "    first",
        "    Traceback: boom",
    ]


def test_a_process_that_said_why_it_failed_is_quoted_and_nothing_more() -> None:
    record = Termination.of(ClusterReason.STORAGE_FULL, "no room", 1)
    text = failure(ended(code=1, record=record), "runs/x/logs/worker-a.log")
    said = "worker-a failed 3 times (exit code 1): StorageFull: no room"
    assert text == f"{said}; its log is runs/x/logs/worker-a.log"


def test_a_worker_inherits_no_credentials() -> None:
    inherited = {"PATH": "/bin", "AWS_ACCESS_KEY_ID": "mine", "AWS_SESSION_TOKEN": "mine", "PHOTON_TOKEN": "stale"}
    token = SecretEnv(name="PHOTON_TOKEN", source=SecretSource.TOKEN)
    env = environment(process(token), keys=KEYS, tokens={"a": "fresh", "b": "other"}, inherited=inherited)
    assert env["PHOTON_TOKEN"] == "fresh"
    assert env["PATH"] == "/bin"
    assert not {*inherited.values(), "store-id", "store-secret", "other"} & set(env.values()) - {"/bin"}


def test_a_process_that_may_use_the_bucket_gets_its_keys() -> None:
    secrets = [SecretEnv(name=name, source=SecretSource.STORAGE) for name in AWS]
    env = environment(process(*secrets), keys=KEYS, tokens={}, inherited={"AWS_ACCESS_KEY_ID": "mine"})
    assert [env[name] for name in AWS] == ["store-id", "store-secret"]


def test_a_worker_with_data_in_s3_gets_the_users_keys_where_there_are_any() -> None:
    secrets = [SecretEnv(name=name, source=SecretSource.DATA) for name in AWS]
    env = environment(process(*secrets), keys=KEYS, tokens={}, inherited={"AWS_ACCESS_KEY_ID": "mine"})
    assert env["AWS_ACCESS_KEY_ID"] == "mine"
    assert "AWS_SECRET_ACCESS_KEY" not in env


def test_own_processes_are_never_proxied() -> None:
    env = environment(process(), keys=KEYS, tokens={}, inherited={"HTTP_PROXY": "http://proxy:3128"})
    assert env["HTTP_PROXY"] == "http://proxy:3128", "what is elsewhere still goes through it"
    assert env["NO_PROXY"] == env["no_proxy"] == "127.0.0.1,localhost,::1"


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_what_the_user_does_not_proxy_stays_so(name: str) -> None:
    assert not_proxied({name: " .example.org, localhost,"})["no_proxy"] == ".example.org,localhost,127.0.0.1,::1"


def test_temporary_credentials_and_the_certificate_authority_reach_those_who_may_use_the_bucket() -> None:
    inherited = {"AWS_CA_BUNDLE": "/ca.pem", "AWS_SESSION_TOKEN": "mine"}
    keys = Keys(access_key="id", secret_key="secret", session_token="token")
    secrets = [SecretEnv(name=name, source=SecretSource.STORAGE) for name in (*AWS, "AWS_SESSION_TOKEN")]
    assert "AWS_SESSION_TOKEN" not in environment(process(*secrets), keys=KEYS, tokens={}, inherited=inherited)
    env = environment(process(*secrets), keys=keys, tokens={}, inherited=inherited)
    assert (env["AWS_SESSION_TOKEN"], env["AWS_CA_BUNDLE"]) == ("token", "/ca.pem")
    assert "AWS_SESSION_TOKEN" not in environment(process(), keys=keys, tokens={}, inherited=inherited)


def test_a_program_that_is_not_installed_is_the_users_to_install() -> None:
    with pytest.raises(UserError, match="pip install"):
        find_program("photon-no-such-program")

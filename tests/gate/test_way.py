"""The way to the hub: what fails on it is told apart, and the programs say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from photon.api.join import JoinSpec
from photon.ending import read
from photon.protocol.termination import TERMINATION_LOG
from photon_gate.hub.errors import HubUnreachable
from photon_gate.hub.exchange import Exchange
from tests.forwarding import ForwardProxy
from tests.gate.hub import STORE, ScriptedHub, institution_of
from tests.gate.site import free_port
from tests.tls import make_authority, server_context

PROGRAM = str(Path(sys.executable).parent / "photon-gate")


def join(hub: ScriptedHub, url: str, **fields: Any) -> JoinSpec:
    return JoinSpec(url=url, objects=[STORE], hub_key=hub.identity.key.text, **fields)


def fails(spec: JoinSpec) -> HubUnreachable:
    with Exchange(spec) as exchange, pytest.raises(HubUnreachable) as met:
        exchange.ask("GET", "v1/hello", params={"nonce": "0" * 32})
    return met.value


def test_dns_and_refused_connections_are_told_apart(hub: ScriptedHub) -> None:
    unknown = fails(join(hub, "https://hub.invalid/jobs/default/test"))
    assert (unknown.where, "check DNS" in str(unknown)) == ("DNS", True)
    refused = fails(join(hub, f"http://127.0.0.1:{free_port()}/jobs/default/test"))
    assert (refused.where, str(refused)) == ("Refused", "127.0.0.1 refuses connections")


def test_a_captive_page_a_redirect_and_a_huge_answer_are_no_hub(hub: ScriptedHub) -> None:
    for status, body in ((200, b"<html>Log in</html>"), (302, b""), (200, b"x" * 300_000)):
        hub.bend["v1/hello"] = lambda *_, status=status, body=body: (status, body)  # type: ignore[misc]
        assert fails(join(hub, hub.url)).where == "Page"
    hub.bend["v1/hello"] = lambda *_: (502, b"bad gateway")
    assert fails(join(hub, hub.url)).where == "Away"


def test_a_proxy_that_asks_for_credentials_and_one_that_gets_them(
    hub: ScriptedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    bundle = (authority / "ca.crt").read_text()
    url = "https://store.invalid/jobs/default/test"
    with (
        ScriptedHub(tls=server_context(authority)) as secure,
        ForwardProxy({"store.invalid": secure.port}, credentials="mary:s3cret word") as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        asked = fails(join(secure, url, ca_bundle=bundle))
        assert (asked.where, "407" in str(asked)) == ("Proxy", True)
        monkeypatch.setenv("HTTPS_PROXY", f"http://mary:s3cret%20word@{proxy.address}")
        untrusted = fails(join(secure, url))
        assert (untrusted.where, "join.caBundle" in str(untrusted)) == ("TLS", True)
        assert "s3cret" not in str(untrusted)
        with Exchange(join(secure, url, ca_bundle=bundle)) as exchange:
            assert exchange.ask("GET", "v1/hello", params={"nonce": "0" * 32}).status == 200


def program(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, TERMINATION_LOG: str(folder / "ended.json"), **environment}
    return subprocess.run([PROGRAM, *words], env=env, capture_output=True, text=True, timeout=60, check=False)


def test_leave_says_farewell_and_a_gate_that_runs_ends_well(hub: ScriptedHub, tmp_path: Path) -> None:
    site = institution_of(hub, tmp_path / "north")
    options = site.options()
    with site.gate() as gate:
        gate.membership.step()
        ended = program(tmp_path, "leave", "--job", str(options.job), "--identity", str(options.identity))
    assert ended.returncode == 0, ended.stderr
    assert (
        f"north has left default/test at 127.0.0.1, signed with the key {site.identity.key.fingerprint}" in ended.stdout
    )
    hub.refuse("v1/session", 403, "Left")
    hub.bend["v1/enrolment"] = hub.bend["v1/session"]
    ended = program(tmp_path, *site.command())
    assert ended.returncode == 0
    record = read(tmp_path / "ended.json")
    assert record is not None
    assert (record.reason, record.exit_code) == ("Left", 0)


def test_a_policy_that_refuses_ends_the_program_with_what_to_change(hub: ScriptedHub, tmp_path: Path) -> None:
    site = institution_of(hub, tmp_path / "north", policy={"hubs": ["hub.example.org"]})
    ended = program(tmp_path, *site.command())
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: join.url is 127.0.0.1")
    record = read(tmp_path / "ended.json")
    assert record is not None
    assert (record.reason, record.exit_code) == ("PolicyRefused", 2)
    assert hub.asked == []


def test_the_doctor_has_a_line_for_each_part_of_the_way(hub: ScriptedHub, tmp_path: Path) -> None:
    site = institution_of(hub, tmp_path / "north")
    job = str(site.options().job)
    well = program(tmp_path, "doctor", "--job", job)
    assert well.returncode == 0, well.stdout + well.stderr
    assert [line.split()[:2] for line in well.stdout.splitlines()] == [
        ["ok", "DNS"], ["ok", "proxy"], ["ok", "TLS"], ["ok", "hub"], ["ok", "clock"],
    ]  # fmt: skip
    assert hub.identity.key.fingerprint in well.stdout
    hub.bend["v1/hello"] = lambda *_: (200, b"<html>Log in</html>")
    ill = program(tmp_path, "doctor", "--job", job)
    assert ill.returncode == 1
    assert "failed  hub       127.0.0.1 answers 200 with something that is not of Photon" in ill.stdout

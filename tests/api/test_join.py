"""``spec.join``: the document with which an institution joins a job of another one."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from photon.api.job import JobSpec
from photon.api.join import JoinedJob, JoinedSpec, RemoteSpec, forbidden_changes
from tests.tls import make_authority

KEY = "ed25519:" + base64.urlsafe_b64encode(bytes([251, 239] * 16)).decode().rstrip("=")
DOCUMENT = f"""
apiVersion: photon.dev/v1alpha1
kind: FederatedTrainingJob
metadata: {{name: radiology-1b}}
spec:
  join:
    url: https://hub.example.org/jobs/train/radiology-1b
    objects: [https://hub.example.org]
    hubKey: {KEY}
    invitationSecretRef: {{name: radiology-1b-invitation}}
    caBundle: ""
  participants:
    - name: st-mary
      worker:
        data: {{uri: /data/prepared}}
        resources: {{cpus: 8, memory: 64Gi, gpus: 1}}
"""


def document() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load(DOCUMENT))


def joined(**join: Any) -> JoinedJob:
    data = document()
    data["spec"]["join"] |= join
    return JoinedJob.model_validate(data)


def with_spec(**spec: Any) -> JoinedJob:
    data = document()
    data["spec"] |= spec
    return JoinedJob.model_validate(data)


def test_the_document_of_an_invitation_is_read_and_written_the_same() -> None:
    job = JoinedJob.model_validate(document())
    assert (job.participant, job.spec.join.host, job.spec.join.bytes) == ("st-mary", "hub.example.org", "Relay")
    written = job.model_dump(by_alias=True, mode="json")
    assert JoinedJob.model_validate(written) == job


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://hub.example.org/jobs/a/b", "must begin with https://"),
        ("https://hub.example.org/", "must end with /jobs/NAMESPACE/NAME"),
        ("https://hub.example.org/jobs/a/b/v1", "must end with /jobs/NAMESPACE/NAME"),
        ("https://hub.example.org/jobs/../b", "must end with /jobs/NAMESPACE/NAME"),
        ("https://user:secret@hub.example.org/jobs/a/b", "without a user"),
        ("https://hub.example.org/jobs/a/b?x=1", "without a user, a query"),
        ("https://hub.example.org\n/jobs/a/b", "a character that no URL has"),
        ("https://hub.example.org:port/jobs/a/b", "is no URL: Port"),
        ("ftp://hub.example.org/jobs/a/b", "must be https://HOST"),
    ],
)
def test_the_address_of_the_door_is_checked(url: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        joined(url=url)


def test_a_hub_on_this_machine_needs_no_encryption_and_a_hub_may_have_a_base_path() -> None:
    joined(url="http://127.0.0.1:8081/jobs/default/demo", objects=["http://127.0.0.1:8333/"])
    joined(url="https://example.org/research/photon/jobs/default/demo")


@pytest.mark.parametrize("objects", [[], ["https://a"] * 9, ["https://hub/bucket"], ["hub"], ["http://hub"]])
def test_origins_are_bounded_and_have_no_path(objects: list[str]) -> None:
    with pytest.raises(ValidationError, match="objects"):
        joined(objects=objects)


@pytest.mark.parametrize(
    "key",
    [KEY[:-1], KEY + "A", KEY.replace("ed25519", "rsa4096"), KEY[:-1] + "9", KEY[:-1] + "=", KEY.replace("-", "+")],
)
def test_a_key_has_one_spelling(key: str) -> None:
    with pytest.raises(ValidationError, match="hubKey"):
        joined(hubKey=key)


def test_a_bundle_holds_certificates_and_nothing_secret(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    joined(caBundle=(authority / "ca.crt").read_text())
    for wrong, said in (
        ((authority / "store.key").read_text(), "holds a private key"),
        ("hub.crt", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----", "not whole"),
    ):
        with pytest.raises(ValidationError, match=said):
            joined(caBundle=wrong)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": {"preset": "llama-1m"}}, "a job has either join or model"),
        ({"rounds": 3}, "a job has either join or rounds"),
        ({"outer": {"type": "FedAdam"}}, "outer has no effect with join"),
        ({"local": {"steps": 7}}, "local has no effect with join"),
        ({"stop": {"nonsense": 1}}, "stop has no effect with join"),
        ({"participants": []}, "participants"),
        ({"participants": [{"name": "a", "remote": {}}]}, "it needs worker"),
        ({"participnts": []}, "Extra inputs"),
    ],
)
def test_what_the_hub_decides_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        with_spec(**spec)


def test_defaults_that_an_api_server_fills_in_are_ignored() -> None:
    required = {"model": {"preset": "llama-1m"}, "rounds": 1, "participants": document()["spec"]["participants"]}
    filled = JobSpec.model_validate(required).model_dump(by_alias=True, mode="json")
    kept = {name: value for name, value in filled.items() if name not in required}
    assert with_spec(**kept) == JoinedJob.model_validate(document())


def test_another_hub_or_name_is_another_membership() -> None:
    before = JoinedJob.model_validate(document()).spec
    assert forbidden_changes(before, joined(leave=True, bytes="Direct").spec) == []
    data = document()["spec"]
    data["join"] |= {"url": "https://other.example.org/jobs/a/b", "hubKey": "ed25519:" + "A" * 43}
    data["participants"][0]["name"] = "st-john"
    assert forbidden_changes(before, JoinedSpec.model_validate(data)) == [
        "join.url is immutable",
        "join.hubKey is immutable",
        "participants[0].name is immutable",
    ]


def test_a_remote_participant_has_safe_defaults_and_bounds() -> None:
    remote = RemoteSpec.model_validate({})
    assert (remote.approval, remote.access, remote.invitation.valid_seconds) == ("Automatic", "Granted", 7 * 86400)
    for wrong in (
        {"key": "x"},
        {"access": "granted"},
        {"invitation": {"serial": 0}},
        {"invitation": {"validSeconds": 1}},
    ):
        with pytest.raises(ValidationError):
            RemoteSpec.model_validate(wrong)

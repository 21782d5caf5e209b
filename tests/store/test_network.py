"""Proxies and certificates: one configuration for requests through boto3, for uploads, downloads and ranged reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.records import FileRecord
from photon.store import network
from photon.store.errors import Refused, Unreachable, Unusable
from photon.store.objects import ObjectStore
from photon.store.retry import RetryPolicy
from photon.store.source import UrlSource
from photon.store.transfer import download, upload
from tests.faults import FaultProxy
from tests.forwarding import ForwardProxy
from tests.opened import OpenStore
from tests.tls import make_authority, server_context

pytestmark = pytest.mark.s3

DATA = b"an update" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
ONCE = RetryPolicy(attempts=1)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in network.CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def boto3(store: ObjectStore, folder: Path) -> None:
    store.check()
    assert store.put("by boto3", DATA)
    assert store.get("by boto3") == DATA


def uploading(store: ObjectStore, folder: Path) -> None:
    put = store.presign_put("part", size_bytes=len(DATA), sha256=SHA256, valid_seconds=60)
    upload(put.url, put.headers, memoryview(DATA), retry=ONCE)


def downloading(store: ObjectStore, folder: Path) -> None:
    file = FileRecord(name="model.safetensors", size_bytes=len(DATA), sha256=SHA256)
    download(store.presign_get("there", valid_seconds=60), folder / "model", file=file, retry=ONCE)
    assert (folder / "model").read_bytes() == DATA


def ranges(store: ObjectStore, folder: Path) -> None:
    source = UrlSource(store.presign_get("there", valid_seconds=60), len(DATA), retry=ONCE)
    buffer = bytearray(100)
    source.read_into(500, memoryview(buffer))
    source.close()
    assert buffer == DATA[500:600]


Use = Callable[[ObjectStore, Path], None]
every_reader = pytest.mark.parametrize("use", [boto3, uploading, downloading, ranges])


@pytest.fixture
def reach(store: ObjectStore, storage: StorageSpec, open_store: OpenStore) -> Callable[[str], ObjectStore]:
    """Opens the bucket at another endpoint."""
    store.put("there", DATA)

    def reach(endpoint: str) -> ObjectStore:
        spec = storage.model_copy(update={"endpoint": endpoint})
        return open_store(spec)

    return reach


def port_of(s3: EmbeddedStore) -> int:
    return int(s3.endpoint.rpartition(":")[2])


# -- proxies ------------------------------------------------------------------------------------------------------


@every_reader
def test_a_proxy_of_the_environment_is_used(
    reach: Callable[[str], ObjectStore], s3: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    with ForwardProxy({"store.invalid": port_of(s3)}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        use(reach("http://store.invalid"), tmp_path)
        assert proxy.seen


@every_reader
def test_a_proxy_gets_its_credentials_and_is_named_without_them(
    reach: Callable[[str], ObjectStore], s3: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    with ForwardProxy({"store.invalid": port_of(s3)}, credentials="north:p@ss") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://north:p%40ss@{proxy.address}")
        use(reach("http://store.invalid"), tmp_path)
        seen = len(proxy.seen)
        monkeypatch.setenv("HTTP_PROXY", f"http://north:wrong-secret@{proxy.address}")
        with pytest.raises(Refused, match=r"the proxy .* asks for credentials \(407\)") as caught:
            use(reach("http://store.invalid"), tmp_path)
        assert len(proxy.seen) == seen
        assert "wrong-secret" not in str(caught.value)


@every_reader
def test_no_proxy_is_heeded(
    reach: Callable[[str], ObjectStore], s3: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    with ForwardProxy({"store.invalid": port_of(s3)}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "example.org,.invalid")
        with pytest.raises(Unreachable, match=r"store\.invalid"):
            use(reach("http://store.invalid"), tmp_path)
        use(reach(s3.endpoint), tmp_path)  # this machine is never reached by a proxy
        assert proxy.seen == []


@every_reader
def test_a_proxy_that_is_not_there_is_named(
    reach: Callable[[str], ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"no proxy answers at http://127\.0\.0\.1:9"):
        use(reach("http://store.invalid"), tmp_path)


@pytest.mark.parametrize("value", ["socks5://user:secret@proxy:1080", "https://proxy:3128", "http://proxy:port"])
def test_a_proxy_that_is_not_supported_is_a_mistake(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(Unusable, match=r"HTTPS_PROXY must be the address of an HTTP proxy") as caught:
        network.proxy_for("https://store.example.org")
    assert "secret" not in str(caught.value)


def test_no_proxy_may_name_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8, fd00::/8,a/b")
    assert network.proxy_for("http://10.1.2.3:9000/x") is None
    assert network.proxy_for("http://[fd00::1]:9000/x") is None
    assert str(network.proxy_for("http://11.1.2.3:9000/x")) == "http://proxy:3128"


# -- certificates -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt and a server's certificate that it signed."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def secure(authority: Path, s3: EmbeddedStore) -> Iterator[FaultProxy]:
    """The same store behind TLS."""
    with FaultProxy(s3.endpoint, tls=server_context(authority)) as running:
        yield running


@every_reader
@pytest.mark.parametrize("variable", network.CA_VARIABLES)
def test_a_private_authority_is_trusted_by_any_of_its_names(
    reach: Callable[[str], ObjectStore],
    secure: FaultProxy,
    authority: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Use,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, str(authority / "ca.crt"))
    use(reach(secure.endpoint), tmp_path)


@every_reader
def test_the_aws_configuration_file_may_name_the_authority(
    reach: Callable[[str], ObjectStore],
    secure: FaultProxy,
    authority: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Use,
) -> None:
    (tmp_path / "config").write_text(f"[default]\nca_bundle = {authority / 'ca.crt'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    use(reach(secure.endpoint), tmp_path)


@every_reader
def test_an_unknown_authority_is_refused_at_once_and_told_what_to_set(
    reach: Callable[[str], ObjectStore], secure: FaultProxy, tmp_path: Path, use: Use
) -> None:
    with pytest.raises(Refused, match=r"the certificate of .* cannot be verified .* set AWS_CA_BUNDLE"):
        use(reach(secure.endpoint), tmp_path)
    assert secure.requests == []


@every_reader
def test_tls_passes_through_a_proxy_with_credentials(
    reach: Callable[[str], ObjectStore],
    secure: FaultProxy,
    authority: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Use,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority / "ca.crt"))
    with ForwardProxy({"store.invalid": secure.port}, credentials="north:secret") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://north:secret@{proxy.address}")
        use(reach("https://store.invalid"), tmp_path)
        assert set(proxy.seen) == {"CONNECT store.invalid"}
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        with pytest.raises(Refused, match=rf"the proxy http://{proxy.address} asks for credentials \(407\)"):
            use(reach("https://store.invalid"), tmp_path)


@every_reader
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "AWS_CA_BUNDLE is .* which is not a file"), ("no certificate", "holds no certificates")],
)
def test_a_file_without_certificates_is_a_mistake(
    reach: Callable[[str], ObjectStore],
    secure: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Use,
    content: str | None,
    said: str,
) -> None:
    if content is not None:
        (tmp_path / "ca.crt").write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.crt"))
    with pytest.raises(Unusable, match=said):
        use(reach(secure.endpoint), tmp_path)

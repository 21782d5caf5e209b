"""The requests that the operator makes of the API server: few, plain, counted, each with a time limit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote

import kubernetes

from photon.api.job import GROUP, KIND, PLURAL, VERSION
from photon.api.status import JobStatus
from photon.errors import UserError
from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, NETWORK_POLICY, POD, SECRET, SERVICE, Object
from photon_operator.decide.conditions import as_json
from photon_operator.decide.plan import KubeEvent
from photon_operator.errors import OperatorError

TIMEOUT_SECONDS: Final = 20.0
CONNECTIONS: Final = 32
PAGE: Final = 500
# A field that the API server does not know is an error, not a warning that no one reads.
_STRICT: Final = (("fieldValidation", "Strict"),)
EVENT: Final = "Event"
LEASE: Final = "Lease"
# The cause that the API server names when it takes nothing new because the namespace is being deleted.
NAMESPACE_TERMINATING: Final = "NamespaceTerminating"

_RESOURCES: Final[Mapping[str, tuple[str, str]]] = {
    CONFIG_MAP: ("/api/v1", "configmaps"),
    SECRET: ("/api/v1", "secrets"),
    SERVICE: ("/api/v1", "services"),
    CLAIM: ("/api/v1", "persistentvolumeclaims"),
    POD: ("/api/v1", "pods"),
    EVENT: ("/api/v1", "events"),
    JOB: ("/apis/batch/v1", "jobs"),
    NETWORK_POLICY: ("/apis/networking.k8s.io/v1", "networkpolicies"),
    LEASE: ("/apis/coordination.k8s.io/v1", "leases"),
    KIND: (f"/apis/{GROUP}/{VERSION}", PLURAL),
}


class ApiError(OperatorError):
    """The API server answered with an error; ``status`` is the HTTP status, the message its own.

    ``causes``: the reasons that its details name, as ``NamespaceTerminating``.
    """

    def __init__(self, what: str, status: int, message: str, causes: frozenset[str] = frozenset()) -> None:
        super().__init__(f"{what}: {message}")
        self.status = status
        self.message = message
        self.causes = causes

    @property
    def refuses(self) -> bool:
        """Whether asking again is of no use until something is changed: not allowed, or not as it must be."""
        return self.status in (400, 403, 422)


class NotLeader(OperatorError):
    """Another operator may be looking after this namespace: nothing was written."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"another operator may be looking after {namespace}")


class NoKubernetes(OperatorError, UserError):
    """There is no cluster to speak to; the message says what was looked for."""


def connect() -> kubernetes.client.ApiClient:
    """A client by the pod's own account; outside a cluster by the user's kubeconfig.

    Raises:
        NoKubernetes: There is neither.
    """
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes.config.ConfigException:
        try:
            kubernetes.config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except kubernetes.config.ConfigException as error:
            raise NoKubernetes(
                f"no Kubernetes to speak to: this is no pod, and there is no kubeconfig ({error}); set KUBECONFIG"
            ) from error
    configuration.connection_pool_maxsize = CONNECTIONS
    return kubernetes.client.ApiClient(configuration)


class Api:
    """Blocking and thread-safe. ``on_request`` is told the verb of every request. ``check`` is asked before every one
    that writes, with the namespace: it raises where that must not be. ``seconds``: the time limit of each."""

    def __init__(
        self,
        client: kubernetes.client.ApiClient,
        *,
        on_request: Callable[[str], None],
        check: Callable[[str], None] = lambda _: None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._client = client
        self._on_request = on_request
        self._check = check
        self._seconds = seconds

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object; None when there is none."""
        try:
            return self._call("get", "GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def listed(self, kind: str, namespace: str | None, *, labels: str = "") -> Iterator[Object]:
        """All objects of a kind, a page at a time."""
        for items, _ in self._pages(kind, namespace, labels):
            yield from items

    def snapshot(self, kind: str, namespace: str | None, *, labels: str = "") -> tuple[list[Object], str]:
        """All objects of a kind, and the version as of which they were listed."""
        pages = list(self._pages(kind, namespace, labels))
        return [raw for items, _ in pages for raw in items], pages[0][1]

    def _pages(self, kind: str, namespace: str | None, labels: str) -> Iterator[tuple[Sequence[Object], str]]:
        query = [("limit", str(PAGE))] + ([("labelSelector", labels)] if labels else [])
        more = ""
        while True:
            page = self._call("list", "GET", _path(kind, namespace), [*query, *([("continue", more)] if more else [])])
            metadata = page.get("metadata") or {}
            yield page.get("items") or (), str(metadata.get("resourceVersion") or "")
            more = metadata.get("continue") or ""
            if not more:
                return

    def apply(self, namespace: str, body: Object) -> Object:
        """Server-side apply: what we state is ours, what others set beside it stays theirs."""
        return self._call(
            "apply",
            "PATCH",
            _path(body["kind"], namespace, body["metadata"]["name"]),
            [("fieldManager", names.MANAGER), ("force", "true"), *_STRICT],
            body,
            "application/apply-patch+yaml",
        )

    def create(self, namespace: str, body: Object) -> Object:
        """Make an object that must not be there yet; an ApiError 409 when it is."""
        query = [("fieldManager", names.MANAGER), *_STRICT]
        return self._call("create", "POST", _path(body["kind"], namespace), query, body)

    def replace(self, namespace: str, body: Object) -> Object:
        """Put an object in place of the version that it says; an ApiError 409 when there is another by now."""
        path = _path(body["kind"], namespace, body["metadata"]["name"])
        return self._call("update", "PUT", path, [("fieldManager", names.MANAGER)], body)

    def named(self, kind: str, name: str) -> list[Object]:
        """All objects of this name, one of each namespace that has one."""
        query = [("fieldSelector", f"metadata.name={name}")]
        return list(self._call("list", "GET", _path(kind, None), query).get("items") or ())

    def set_metadata(self, kind: str, namespace: str, name: str, metadata: Object) -> Object:
        """Merge into the metadata of an object."""
        return self._call(
            "patch",
            "PATCH",
            _path(kind, namespace, name),
            [("fieldManager", names.MANAGER)],
            {"metadata": metadata},
            "application/merge-patch+json",
        )

    def set_finalizers(self, job: Object, finalizers: Sequence[str]) -> Object | None:
        """Replace the finalizers of this version of the job; None when it is gone, an ApiError 409 when it changed."""
        metadata = job["metadata"]
        try:
            return self.set_metadata(
                KIND,
                metadata["namespace"],
                metadata["name"],
                {
                    "uid": metadata["uid"],
                    "resourceVersion": metadata["resourceVersion"],
                    "finalizers": list(finalizers),
                },
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def delete(self, kind: str, namespace: str, name: str, uid: str, *, foreground: bool, force: bool = False) -> None:
        """Delete the object of this uid. One that is gone, or another of its name, is as good.

        ``foreground``: it goes when what it owns has gone, so that its name is free only then. ``force``: of a pod, its
        node is not waited for.
        """
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Foreground" if foreground else "Background",
            "preconditions": {"uid": uid},
            **({"gracePeriodSeconds": 0} if force else {}),
        }
        try:
            self._call("delete", "DELETE", _path(kind, namespace, name), body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def write_status(self, job: Object, status: JobStatus) -> Object | None:
        """Replace the status of this very job; None when it is gone. Our own model was asked first, so a refusal by
        the API server is a defect, and is raised."""
        metadata = job["metadata"]
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
            # As a whole: merged, a figure that is no longer known would stay.
            {"op": "add", "path": "/status", "value": as_json(status)},
        ]
        path = f"{_path(KIND, metadata['namespace'], metadata['name'])}/status"
        try:
            return self._call(
                "status", "PATCH", path, [("fieldManager", names.MANAGER)], patch, "application/json-patch+json"
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def closing(self, namespace: str) -> bool:
        """Whether a namespace is being deleted: it takes nothing new, and says so by name. That needs no right on
        namespaces, which an installation for some of them does not have. Nothing is made: it is a dry run."""
        body = {"apiVersion": "v1", "kind": CONFIG_MAP, "metadata": {"name": f"{names.MANAGER}-asks"}}
        try:
            self._call("ask", "POST", _path(CONFIG_MAP, namespace), [("dryRun", "All")], body)
        except ApiError as error:
            if not error.refuses and error.status not in (404, 409):
                raise
            return NAMESPACE_TERMINATING in error.causes
        return False

    def emit(self, job: Object, event: KubeEvent) -> None:
        """An event at the job."""
        metadata = job["metadata"]
        about = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            **{key: metadata[key] for key in ("name", "namespace", "uid")},
        }
        self._emit(metadata["namespace"], about, event, leads=metadata["namespace"])

    def emit_at_namespace(self, namespace: str, event: KubeEvent) -> None:
        """An event at a namespace, which is in the namespace ``default``, as all of what is in no namespace."""
        self._emit("default", {"apiVersion": "v1", "kind": "Namespace", "name": namespace}, event, leads=namespace)

    def _emit(self, namespace: str, about: Object, event: KubeEvent, *, leads: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": "v1",
            "kind": EVENT,
            "metadata": {"generateName": f"{about['name']}.", "namespace": namespace},
            "involvedObject": about,
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": names.MANAGER},
            "reportingComponent": names.MANAGER,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": event.count,
        }
        self._call("event", "POST", _path(EVENT, namespace), body=body, leads=leads)

    def last_warning(self, namespace: str, uid: str) -> str | None:
        """The message of the latest warning about an object."""
        selector = f"involvedObject.uid={uid},type=Warning"
        found = self._call("list", "GET", _path(EVENT, namespace), [("fieldSelector", selector)])
        items = sorted(found.get("items") or (), key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        return str(items[-1].get("message") or "") if items else None

    def _call(
        self,
        verb: str,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Any = None,
        content: str = "application/json",
        leads: str | None = None,
    ) -> dict[str, Any]:
        """``leads``: the namespace that must be this operator's for a write, where it is not that of the path."""
        if method != "GET":
            self._check(leads or _namespace(path))
        self._on_request(verb)
        headers = {"Accept": "application/json", "Content-Type": content}
        method, url, headers, _, _ = self._client.param_serialize(
            method, path, query_params=query or [], header_params=headers, auth_settings=["BearerToken"]
        )
        answer = self._client.call_api(
            method,
            url,
            header_params=headers,
            # The client writes JSON itself, a string as a JSON string. YAML, of which JSON is a part,
            # it sends as it is.
            body=json.dumps(body) if content.endswith("yaml") else body,
            _request_timeout=self._seconds,
        )
        data: bytes = answer.read()  # type: ignore[no-untyped-call]
        if not 200 <= answer.status < 300:
            message, causes = _refusal(data)
            raise ApiError(f"{verb} {path}", answer.status, message or str(answer.reason), causes)
        return cast("dict[str, Any]", json.loads(data)) if data else {}


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    root, plural = _RESOURCES[kind]
    within = f"/namespaces/{quote(namespace)}" if namespace is not None else ""
    return f"{root}{within}/{plural}" + (f"/{quote(name)}" if name is not None else "")


def _namespace(path: str) -> str:
    return path.partition("/namespaces/")[2].partition("/")[0]


def _refusal(data: bytes) -> tuple[str, frozenset[str]]:
    """Message and causes of a metav1.Status; empty where the answer is something else, as a proxy's."""
    try:
        status: dict[str, Any] = json.loads(data)
        causes = (status.get("details") or {}).get("causes") or ()
        return str(status["message"]), frozenset(str(cause.get("reason")) for cause in causes)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", frozenset()

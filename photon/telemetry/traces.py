"""OpenTelemetry spans of rounds, across aggregator and workers. Off unless asked for, and then one setting is enough.

``OTEL_EXPORTER_OTLP_ENDPOINT`` sends them to a collector by OTLP over HTTP; OpenTelemetry's other variables count too.
``PHOTON_TRACES=1`` does so to http://localhost:4318; ``PHOTON_TRACES=FILE`` appends them to a file, a span a line.
The extra ``traces`` has what it takes.

A round is one trace. Its id and that of its root span are the digest of the plan, so all that ever work on it agree on
them, also after a restart; the context travels in the header ``traceparent`` (W3C Trace Context) of the protocol.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from photon.errors import UserError

log = logging.getLogger(__name__)

TRACES_VARIABLE: Final = "PHOTON_TRACES"
ENDPOINT_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADER: Final = "traceparent"
_HEADER: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_FLUSH_MILLISECONDS: Final = 3000
_YES: Final = ("1", "true", "on")
_NO: Final = ("0", "false", "off")

Attributes = Mapping[str, str | int | float | bool]


class TracesError(UserError, ValueError):
    """Traces were asked for and cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where in a trace something belongs: below this span. Ids in hexadecimal, as in the header."""

    trace: str
    span: str

    @property
    def header(self) -> str:
        return f"00-{self.trace}-{self.span}-01"

    @classmethod
    def parse(cls, header: str | None) -> Self | None:
        """None when there is no header, or one that is none."""
        match = _HEADER.fullmatch(header or "")
        return cls(match[1], match[2]) if match and int(match[1], 16) and int(match[2], 16) else None


def round_context(plan_digest: str) -> Context:
    """The root span of the round with this plan."""
    return Context(plan_digest[:32], plan_digest[32:48])


class Traces:
    """The spans of one process. Without OpenTelemetry behind it, it does nothing and costs nothing.

    ``current`` is what the process is at: one thing at a time, so that helper threads know it as well.
    """

    def __init__(self, otel: _OpenTelemetry | None = None) -> None:
        self._otel = otel
        self.current: Context | None = None

    def __bool__(self) -> bool:
        return self._otel is not None

    @contextmanager
    def span(
        self, name: str, parent: Context | None = None, attributes: Attributes = MappingProxyType({})
    ) -> Iterator[None]:
        """The block as a span, below ``parent`` or what the process is at; errors that leave it are noted."""
        if self._otel is None:
            yield
            return
        outer = self.current
        with self._otel.running(name, parent or outer, attributes) as inner:
            self.current = inner
            try:
                yield
            finally:
                self.current = outer

    def record(
        self,
        name: str,
        *,
        parent: Context | None,
        start: float,
        end: float,
        own: Context | None = None,
        failed: str = "",
        attributes: Attributes = MappingProxyType({}),
    ) -> None:
        """A span that is over; times in seconds since the epoch. ``own``: the ids that it must have."""
        if self._otel is not None:
            self._otel.over(name, parent=parent, start=start, end=end, own=own, failed=failed, attributes=attributes)

    def headers(self) -> dict[str, str]:
        """What a request carries so that its server's spans belong to what this process is at."""
        return {HEADER: self.current.header} if self._otel is not None and self.current is not None else {}

    def close(self) -> None:
        """Send what is left; waits a few seconds at most."""
        if self._otel is not None:
            self._otel.close()
            self._otel = None


def open_traces(service: str, environment: Mapping[str, str] = os.environ, **attributes: str) -> Traces:
    """The traces of this process, as the environment asks for them. ``attributes`` are of all its spans.

    Where OpenTelemetry is not installed there are none, which is said: a program does its work without them, too.

    Raises:
        TracesError: They are asked for, and the file cannot be written.
    """
    wanted = environment.get(TRACES_VARIABLE, "")
    if wanted.lower() in _NO or not (wanted or environment.get(ENDPOINT_VARIABLE)):
        return Traces()
    try:
        return Traces(_OpenTelemetry(service, _file(wanted), attributes))
    except ImportError as error:
        log.warning(
            "%s asks for traces, and OpenTelemetry is not installed (%s): there are none; pip install 'photon[traces]'",
            TRACES_VARIABLE if wanted else ENDPOINT_VARIABLE,
            error,
        )
        return Traces()


def absolute(environment: Mapping[str, str]) -> dict[str, str]:
    """The setting for programs that run in another folder; empty when it names no file."""
    file = _file(environment.get(TRACES_VARIABLE, ""))
    return {TRACES_VARIABLE: str(file.absolute())} if file is not None else {}


def _file(wanted: str) -> Path | None:
    return None if wanted.lower() in ("", *_YES, *_NO) else Path(wanted)


class _OpenTelemetry:
    """The SDK behind ``Traces``, imported only when it is wanted."""

    def __init__(self, service: str, file: Path | None, attributes: Attributes) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        self._api = trace
        self._ids = _ids()
        self._file: Any = None
        exporter: SpanExporter
        if file is None:
            exporter = OTLPSpanExporter()
        else:
            try:
                self._file = file.open("a", buffering=1, encoding="utf-8")
            except OSError as error:
                raise TracesError(f"{TRACES_VARIABLE}={file} cannot be written: {error.strerror}") from error
            exporter = ConsoleSpanExporter(out=self._file, formatter=lambda span: span.to_json(indent=None) + "\n")
        resource = Resource.create({"service.name": service, **attributes})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("photon")

    @contextmanager
    def running(self, name: str, parent: Context | None, attributes: Attributes) -> Iterator[Context]:
        with self._tracer.start_as_current_span(name, context=self._below(parent), attributes=dict(attributes)) as span:
            ids = span.get_span_context()
            yield Context(f"{ids.trace_id:032x}", f"{ids.span_id:016x}")

    def over(
        self,
        name: str,
        *,
        parent: Context | None,
        start: float,
        end: float,
        own: Context | None,
        failed: str,
        attributes: Attributes,
    ) -> None:
        with self._ids.fixed(own):
            span = self._tracer.start_span(
                name, context=self._below(parent), attributes=dict(attributes), start_time=round(start * 1e9)
            )
        if failed:
            span.set_status(self._api.Status(self._api.StatusCode.ERROR, failed))
        span.end(round(end * 1e9))

    def close(self) -> None:
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()
        if self._file is not None:
            self._file.close()

    def _below(self, parent: Context | None) -> Any:
        """OpenTelemetry's context below ``parent``; an empty one for a root."""
        from opentelemetry.context import Context as Nothing

        if parent is None:
            return Nothing()
        api = self._api
        ids = api.SpanContext(
            int(parent.trace, 16),
            int(parent.span, 16),
            is_remote=True,
            trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED),
        )
        return api.set_span_in_context(api.NonRecordingSpan(ids), Nothing())


def _ids() -> Any:
    """Random ids, but those that ``fixed`` sets for the spans which this thread starts in its block."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        def __init__(self) -> None:
            self._mine = threading.local()

        @contextmanager
        def fixed(self, own: Context | None) -> Iterator[None]:
            self._mine.own = own
            try:
                yield
            finally:
                self._mine.own = None

        def generate_trace_id(self) -> int:
            own: Context | None = getattr(self._mine, "own", None)
            return int(own.trace, 16) if own is not None else super().generate_trace_id()

        def generate_span_id(self) -> int:
            own: Context | None = getattr(self._mine, "own", None)
            return int(own.span, 16) if own is not None else super().generate_span_id()

    return Ids()

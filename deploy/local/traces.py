"""Takes the traces of a local run by OTLP, keeps them in a file, and shows each as a tree.

    python -m deploy.local.traces .data/traces/spans.jsonl [TRACE_ID]

A span is a line of JSON. Of a file that has grown past ``FILE_BYTES_MAX`` the older half goes.
"""

import html
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

FILE_BYTES_MAX = 50_000_000
SHOWN_MAX = 100
_TRACE = re.compile(r"/([0-9a-f]{32})")
_STYLE = "body{font:1rem/1.5 system-ui,sans-serif;margin:2rem}pre{font-size:.85rem}"


@dataclass(frozen=True)
class Span:
    """One piece of work; times are Unix time. ``kind`` is ``server``, ``client``, …"""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    """The traces that it is part of besides."""
    is_error: bool = False


def taken(body: bytes) -> Iterator[Span]:
    """The spans of a request to ``/v1/traces``. Raises what protobuf does for anything else."""
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _plain(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    service=str(service),
                    name=span.name,
                    kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    links=[link.trace_id.hex() for link in span.links],
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                )


def _plain(attributes: Iterable[Any]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class Spans:
    """The spans in a file, as they came."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._lock = Lock()

    def keep(self, spans: Iterable[Span]) -> None:
        lines = "".join(json.dumps(asdict(span)) + "\n" for span in spans)
        with self._lock:
            with self._path.open("a") as file:
                file.write(lines)
            if self._path.stat().st_size > FILE_BYTES_MAX:
                kept = self._path.read_text().splitlines(keepends=True)
                self._path.write_text("".join(kept[len(kept) // 2 :]))

    def traces(self) -> dict[str, list[Span]]:
        """By their ids, those first that began first."""
        found: dict[str, list[Span]] = defaultdict(list)
        if self._path.exists():
            with self._lock:
                # Somebody may be writing the last one.
                lines = self._path.read_text().rpartition("\n")[0].splitlines()
            for line in lines:
                span = Span(**json.loads(line))
                found[span.trace_id].append(span)
        for spans in found.values():
            spans.sort(key=lambda span: span.began_ns)
        return dict(sorted(found.items(), key=lambda each: each[1][0].began_ns))


def tree(spans: list[Span]) -> str:
    """A trace: when each span began, how long it took, whose it is, and under it what it led to.

    A call that is made has an arrow; an error its type.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        children[span.parent_id if span.parent_id in known else ""].append(span)

    def lines(parent: str, depth: int) -> Iterator[str]:
        for span in children[parent]:
            began_ms = (span.began_ns - spans[0].began_ns) / 1e6
            took_ms = (span.ended_ns - span.began_ns) / 1e6
            arrow = "→ " if span.kind == "client" else ""
            error = span.attributes.get("error.type")
            told = f"  {'FAILED ' if span.is_error else ''}{error}" if error else ""
            indent = "  " * depth
            yield f"{began_ms:9.1f} {took_ms:8.1f}  {indent}{span.service} {arrow}{span.name}{told}"
            yield from lines(span.span_id, depth + 1)

    head = f"trace {spans[0].trace_id}\n began ms  took ms"
    return "\n".join([head, *lines("", 0)])


def listing(traces: dict[str, list[Span]]) -> str:
    rows = []
    for trace_id, spans in list(traces.items())[: -SHOWN_MAX - 1 : -1]:
        what = html.escape(f"{spans[0].service} {spans[0].name}")
        rows.append(f'<li><a href="/{trace_id}">{what}</a>, {len(spans)} spans</li>')
    return _page("Traces", f"<ol>{''.join(rows)}</ol>" if rows else "<p>No traces yet.</p>")


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{body}</html>"
    )


class Viewer(BaseHTTPRequestHandler):
    """Takes ``/v1/traces``; / lists the newest traces, /<id> shows one, /healthz answers."""

    spans: Spans

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            self.spans.keep(taken(body))
        self._send(200 if self.path == "/v1/traces" else 404, "", "application/x-protobuf")

    def do_GET(self) -> None:
        self._send(*self._answer(), "text/html; charset=utf-8")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: whoever reads it is the one who runs it."""

    def _answer(self) -> tuple[int, str]:
        if self.path == "/healthz":
            return 200, "ok"
        traces = self.spans.traces()
        if self.path == "/":
            return 200, listing(traces)
        found = _TRACE.fullmatch(self.path)
        if found is None or found[1] not in traces:
            return 404, _page("Not found", '<p><a href="/">All traces</a></p>')
        shown = html.escape(tree(traces[found[1]]))
        return 200, _page("Trace", f'<p><a href="/">All traces</a></p><pre>{shown}</pre>')

    def _send(self, status: int, body: str, content_type: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def serving(spans: Spans, port: int) -> ThreadingHTTPServer:
    """What takes and shows them, once it is told to serve."""
    return ThreadingHTTPServer(("127.0.0.1", port), type("Traces", (Viewer,), {"spans": spans}))


def main(arguments: list[str]) -> None:
    if not arguments:
        with serving(Spans(Path(os.environ["TRACES_FILE"])), int(os.environ["TRACES_PORT"])) as it:
            it.serve_forever()
    traces = Spans(Path(arguments[0])).traces()
    wanted = arguments[1:] or list(traces)[-SHOWN_MAX:]
    for trace_id in wanted:
        if trace_id not in traces:
            sys.exit(f"There is no trace {trace_id} in {arguments[0]}.")
        print(tree(traces[trace_id]), end="\n\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(0)

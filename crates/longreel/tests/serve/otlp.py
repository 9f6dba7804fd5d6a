"""Reads what a collector was sent by the official message types, and prints it as they have it.

Each file is one body. Ids are hexadecimal in OTLP's JSON and bytes in the messages; all else is as protobuf's
own JSON has it, and a name or a type that the messages do not know is an error.
"""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def with_bytes(value):
    if isinstance(value, list):
        return [with_bytes(one) for one in value]
    if not isinstance(value, dict):
        return value
    ids = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
    changed = {}
    for key, one in value.items():
        if key in ids:
            raw = bytes.fromhex(one)
            assert len(raw) == ids[key], (key, one)
            changed[key] = base64.b64encode(raw).decode()
        else:
            changed[key] = with_bytes(one)
    return changed


def plain(value):
    return getattr(value, value.WhichOneof("value"))


for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        body = json.load(file)
    request = json_format.ParseDict(with_bytes(body), ExportTraceServiceRequest())
    assert request.SerializeToString()
    for of_resource in request.resource_spans:
        resource = {a.key: plain(a.value) for a in of_resource.resource.attributes}
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                assert span.start_time_unix_nano <= span.end_time_unix_nano, span
                print(json.dumps({
                    "service": resource["service.name"],
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": int(span.kind),
                    "status": int(span.status.code),
                    "attributes": {a.key: plain(a.value) for a in span.attributes},
                }))

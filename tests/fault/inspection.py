"""What a daemon holds at a moment, and what an error of its says."""

import os

import standard_services_pb2
import process_memory
from gguf_offload.v1 import diagnostics_pb2, diagnostics_pb2_grpc


def descriptors(pid):
    """Open files of a process: [what each is]."""
    names = []
    for entry in os.listdir(f'/proc/{pid}/fd'):
        try:
            names.append(os.readlink(f'/proc/{pid}/fd/{entry}'))
        except FileNotFoundError:
            pass  # closed meanwhile
    return names


def own_bytes(pid):
    """Memory that a process has allocated: anonymous pages, which nobody shares."""
    return process_memory.rollup(pid)['Anonymous']


def sessions(channel, timeout=30):
    return diagnostics_pb2_grpc.DiagnosticsServiceStub(channel).ListSessions(
        diagnostics_pb2.ListSessionsRequest(), timeout=timeout).sessions


def kv_bytes_in_use(channel, timeout=30):
    """Of a worker: bytes of its KV cache that belong to a request."""
    memory = diagnostics_pb2_grpc.DiagnosticsServiceStub(channel).GetMemory(
        diagnostics_pb2.GetMemoryRequest(), timeout=timeout)
    return next(use.used_bytes for use in memory.uses if 'kv' in use.purpose.lower())


def health(channel, service='', timeout=30):
    """Answer of the standard health service: its number."""
    call = channel.unary_unary(
        '/grpc.health.v1.Health/Check',
        request_serializer=standard_services_pb2.HealthRequest.SerializeToString,
        response_deserializer=standard_services_pb2.HealthResponse.FromString)
    return call(standard_services_pb2.HealthRequest(service=service), timeout=timeout).status


def retry_seconds(error):
    """The delay of the google.rpc.RetryInfo that comes with an RpcError; None if there is none."""
    details = dict(error.trailing_metadata() or ()).get('grpc-status-details-bin')
    if details is None:
        return None
    for detail in standard_services_pb2.Status.FromString(details).details:
        if detail.type_url.endswith('google.rpc.RetryInfo'):
            delay = standard_services_pb2.RetryInfo.FromString(detail.value).retry_delay
            return delay.seconds + delay.nanos * 1e-9
    return None


def percentile(values, percent):
    """The smallest value that at least `percent` % of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

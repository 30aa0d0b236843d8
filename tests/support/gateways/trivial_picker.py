"""The least that picks: round robin by ``grpc.aio`` and ``xds-protos``, for comparison.

``python tests/support/gateways/trivial_picker.py --port 9002 --endpoints 127.0.0.11:8801,...``
"""

import argparse
import asyncio
import itertools

import grpc
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as rpc
from envoy.type.v3 import http_status_pb2
from google.protobuf import struct_pb2

DESTINATION = "x-gateway-destination-endpoint"


def _mutation(**fields):
    return pb.HeaderMutation(
        set_headers=[
            core.HeaderValueOption(
                header=core.HeaderValue(key=name.replace("_", "-"), raw_value=value.encode())
            )
            for name, value in fields.items()
        ]
    )


def _streamed(body):
    piece = pb.StreamedBodyResponse(body=body.body, end_of_stream=body.end_of_stream)
    return pb.BodyResponse(
        response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=piece))
    )


class Picker(rpc.ExternalProcessorServicer):
    """Answers the headers at once, and sends bodies back as they come."""

    def __init__(self, endpoints):
        self._endpoints = endpoints
        self._turns = itertools.count()

    def _pick(self, message):
        allowed = self._endpoints
        hint = message.metadata_context.filter_metadata.get("envoy.lb.subset_hint")
        if hint is not None and f"{DESTINATION}-subset" in hint:
            named = hint[f"{DESTINATION}-subset"]
            given = [named] if isinstance(named, str) else list(named)
            wanted = {word.strip() for text in given for word in text.split(",")}
            allowed = [endpoint for endpoint in allowed if endpoint in wanted]
        return allowed[next(self._turns) % len(allowed)] if allowed else None

    async def Process(self, messages, context):  # noqa: N802 - gRPC's name
        async for message in messages:
            kind = message.WhichOneof("request")
            if kind == "request_headers":
                endpoint = self._pick(message)
                if endpoint is None:
                    yield pb.ProcessingResponse(
                        immediate_response=pb.ImmediateResponse(
                            status=http_status_pb2.HttpStatus(code=503)
                        )
                    )
                    return
                noted = struct_pb2.Struct()
                noted.update({"envoy.lb": {DESTINATION: endpoint}})
                mutation = _mutation(**{DESTINATION.replace("-", "_"): endpoint})
                yield pb.ProcessingResponse(
                    request_headers=pb.HeadersResponse(
                        response=pb.CommonResponse(header_mutation=mutation)
                    ),
                    dynamic_metadata=noted,
                )
            elif kind == "request_body":
                yield pb.ProcessingResponse(request_body=_streamed(message.request_body))
            elif kind == "response_headers":
                yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
            elif kind == "response_body":
                yield pb.ProcessingResponse(response_body=_streamed(message.response_body))
            elif kind == "request_trailers":
                yield pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
            elif kind == "response_trailers":
                yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())


async def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9002)
    parser.add_argument("--endpoints", required=True)
    options = parser.parse_args()
    server = grpc.aio.server()
    rpc.add_ExternalProcessorServicer_to_server(Picker(options.endpoints.split(",")), server)
    server.add_insecure_port(f"{options.host}:{options.port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())

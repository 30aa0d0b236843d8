"""Plays the gateway: one stream of messages to a picker, and what comes back."""

import asyncio
import queue
import threading

import grpc
from envoy.config.core.v3 import base_pb2 as core
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as rpc
from google.protobuf import struct_pb2

DESTINATION = "x-gateway-destination-endpoint"
SUBSET = "x-gateway-destination-endpoint-subset"
Mode = modes.ProcessingMode
ANSWER_SECONDS = 30.0
CROWD_SECONDS = 90.0
"""A crowd's own messages are most of that: it is one Python process."""
_END = object()


def headers(pairs: dict[str, str]) -> core.HeaderMap:
    """Header fields as Envoy sends them."""
    return core.HeaderMap(
        headers=[
            core.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items()
        ]
    )


def request_fields(path="/v1/chat/completions", method="POST", **more) -> dict[str, str]:
    """Those of a request."""
    given = {":method": method, ":path": path, ":authority": "llm.example", ":scheme": "http",
             "content-type": "application/json", "x-request-id": "a-request"}  # fmt: skip
    return given | {name.replace("_", "-"): value for name, value in more.items()}


def say_modes(message, request, response) -> None:
    """How bodies come, as the first message of a stream says it."""
    message.protocol_config.request_body_mode = request
    message.protocol_config.response_body_mode = response


def head_of(fields, *, is_last=False):
    """A request's header fields."""
    return pb.HttpHeaders(headers=headers(fields), end_of_stream=is_last)


class Stream:
    """One stream. Messages are sent and awaited one by one."""

    def __init__(self, channel, request=Mode.FULL_DUPLEX_STREAMED, response=None) -> None:
        """``response``: how bodies of answers come; None: as those of requests."""
        self._modes = request, request if response is None else response
        self._is_first = True
        self._out = queue.Queue()
        self._in = queue.Queue()
        self.call = rpc.ExternalProcessorStub(channel).Process(iter(self._out.get, _END))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for message in self.call:
                self._in.put(message)
        except grpc.RpcError as error:
            self._in.put(error)
        else:
            self._in.put(None)

    def send(self, subset=None, served=None, **message):
        """One message. ``subset``: the gateway's hint; ``served``: who has served."""
        made = pb.ProcessingRequest(**message)
        if self._is_first:
            self._is_first = False
            say_modes(made, *self._modes)
        if subset is not None:
            hint = struct_pb2.Struct()
            hint.update({SUBSET: subset})
            made.metadata_context.filter_metadata["envoy.lb.subset_hint"].CopyFrom(hint)
        if served is not None:
            noted = struct_pb2.Struct()
            noted.update({f"{DESTINATION}-served": served})
            made.metadata_context.filter_metadata["envoy.lb"].CopyFrom(noted)
        self._out.put(made)

    def head(self, fields=None, *, is_last=False, **beside):
        """A request's header fields."""
        fields = request_fields() if fields is None else fields
        self.send(request_headers=head_of(fields, is_last=is_last), **beside)

    def body(self, data: bytes, *, is_last=True, **beside):
        """A piece of its body."""
        self.send(request_body=pb.HttpBody(body=data, end_of_stream=is_last), **beside)

    def trailers(self):
        """Its trailers."""
        self.send(request_trailers=pb.HttpTrailers())

    def answer_head(self, status="200", *, kind="application/json", is_last=False, **beside):
        """An answer's header fields."""
        fields = {":status": status, "content-type": kind}
        self.send(response_headers=pb.HttpHeaders(headers=headers(fields), end_of_stream=is_last),
                  **beside)  # fmt: skip

    def answer_body(self, data: bytes, *, is_last: bool):
        """A piece of an answer's body."""
        self.send(response_body=pb.HttpBody(body=data, end_of_stream=is_last))

    def answer_trailers(self):
        """An answer's trailers."""
        self.send(response_trailers=pb.HttpTrailers())

    def half_close(self):
        """All is said."""
        self._out.put(_END)

    def next(self, seconds=ANSWER_SECONDS):
        """The next answer; None: the stream has ended well. Raises ``grpc.RpcError``."""
        message = self._in.get(timeout=seconds)
        if isinstance(message, Exception):
            raise message
        return message

    def is_silent(self, seconds=0.5) -> bool:
        """Whether nothing comes for a while."""
        try:
            message = self._in.get(timeout=seconds)
        except queue.Empty:
            return True
        self._in.queue.appendleft(message)
        return False

    def close(self):
        """End it, whatever."""
        self._out.put(_END)
        self.call.cancel()


async def crowd(picker: str, body: bytes, count: int) -> list:
    """The first answer to each of ``count`` streams, all of them open at once.

    On one loop: a thread for each stream is more than two cores bear.
    """
    first = pb.ProcessingRequest(request_headers=head_of(request_fields()))
    say_modes(first, Mode.FULL_DUPLEX_STREAMED, Mode.NONE)
    whole = pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True))
    async with asyncio.timeout(CROWD_SECONDS), grpc.aio.insecure_channel(picker) as channel:
        stub = rpc.ExternalProcessorStub(channel)
        streams = [stub.Process() for _ in range(count)]
        for message in (first, whole):
            await asyncio.gather(*(stream.write(message) for stream in streams))
        return await asyncio.gather(*(stream.read() for stream in streams))


def set_headers(mutation) -> dict[str, str]:
    """What a mutation sets."""
    return {
        option.header.key: (option.header.raw_value or option.header.value.encode()).decode()
        for option in mutation.set_headers
    }


def picked(answer) -> str:
    """The endpoints that an answer names, by its header; whichever message they are in."""
    for name in ("request_headers", "request_body"):
        if answer.HasField(name):
            response = getattr(answer, name).response
            return set_headers(response.header_mutation).get(DESTINATION, "")
    return ""


def noted(answer) -> str:
    """The same by its metadata."""
    lb = answer.dynamic_metadata.fields.get("envoy.lb")
    if lb is None:
        return ""
    value = lb.struct_value.fields.get(DESTINATION)
    return "" if value is None else value.string_value


def piece(answer):
    """A piece of a body that is sent back: bytes, and whether it is the last."""
    body = answer.request_body if answer.HasField("request_body") else answer.response_body
    streamed = body.response.body_mutation.streamed_response
    return streamed.body, streamed.end_of_stream

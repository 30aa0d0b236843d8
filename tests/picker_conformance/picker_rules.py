"""The rules of the endpoint picker protocol, each with where it comes from."""

from dataclasses import dataclass
from enum import StrEnum

SPEC = "GAIE docs/proposals/004-endpoint-picker-protocol"
EXT_PROC = "Envoy api/envoy/service/ext_proc/v3/external_processor.proto"
MODES = "Envoy api/envoy/extensions/filters/http/ext_proc/v3/processing_mode.proto"
LWEPP = "GAIE pkg/lwepp/README.md (conformance tests of gateways)"
HEALTH = "grpc.health.v1; GAIE 004, health"
GRPC = "gRPC over HTTP/2"
PRACTICE = "seen with Envoy 1.40"


class Level(StrEnum):
    """How binding a rule is."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"
    """For pickers that claim it: whoever does not is not wrong."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    level: Level
    text: str
    source: str


def _must(text: str, source: str) -> Rule:
    return Rule(Level.MUST, text, source)


def _should(text: str, source: str) -> Rule:
    return Rule(Level.SHOULD, text, source)


def _may(text: str, source: str) -> Rule:
    return Rule(Level.MAY, text, source)


def unknown_claims(text: str) -> list[str]:
    """What ``--claims`` names, with commas, that is no optional rule, nor ``all``."""
    names = [name for name in text.split(",") if name and name != "all"]
    return [name for name in names if name not in RULES or RULES[name].level is not Level.MAY]


RULES = {
    "health-serving": _must(
        "The health service answers SERVING for envoy.service.ext_proc.v3.ExternalProcessor, for "
        "readiness and for liveness once the picker can pick.", HEALTH),
    "health-unknown": _should(
        "The health service answers NOT_FOUND for a service that it does not know.", HEALTH),
    "pick-header": _must(
        "The answer sets x-gateway-destination-endpoint to ip:port of an endpoint of the pool.",
        SPEC),
    "pick-metadata": _must(
        "The answer sets the same value as dynamic metadata envoy.lb / "
        "x-gateway-destination-endpoint.", SPEC),
    "pick-overwrites": _must(
        "A client's own x-gateway-destination-endpoint is replaced.", SPEC),
    "pick-without-body": _must(
        "A request without a body is answered at its headers, by a pick or by an immediate "
        "response.", EXT_PROC),
    "duplex-order": _must(
        "With full-duplex bodies the answers come in the order headers, body, trailers.", MODES),
    "duplex-waits": _should(
        "With full-duplex bodies the header answer waits until the body is whole: the endpoint is "
        "chosen by what is asked, not before.", PRACTICE),
    "duplex-whole-body": _must(
        "With full-duplex bodies the whole body is sent back, byte for byte if unchanged, and the "
        "last piece has end_of_stream.", MODES),
    "duplex-pieces": _should(
        "With full-duplex bodies a piece has no more than 64 KB.", EXT_PROC),
    "duplex-bodies-through-envoy": _must(
        "Bodies of 1 byte, 62,000, 62,001 bytes, 1 MiB and 3 MB reach the engine unchanged.",
        PRACTICE),
    "duplex-no-response-bodies": _should(
        "Full-duplex request bodies with response_body_mode NONE work.", MODES),
    "buffered-one-answer": _must(
        "With BUFFERED bodies each message gets exactly one answer, and no streamed_response.",
        MODES),
    "buffered-through-envoy": _must(
        "BUFFERED request bodies with STREAMED answers work through Envoy.", MODES),
    "mode-unsupported": _should(
        "A stream whose body mode is not supported ends with an error, and does not hang.",
        PRACTICE),
    "content-length": _must(
        "A content-length that the answer sets is that of the body sent back.", PRACTICE),
    "request-trailers": _must(
        "Request trailers end the body where no body message has end_of_stream, and are answered "
        "after it.", EXT_PROC),
    "subset-list": _must(
        "With a subset hint (a list) the endpoint is one of it.", SPEC),
    "subset-text": _should(
        "A subset hint that is a text with commas is understood.", LWEPP),
    "subset-empty": _must(
        "With an empty subset hint the answer is an immediate response with 503.", SPEC),
    "subset-foreign": _must(
        "With a subset hint that names no endpoint of the pool the answer is an immediate "
        "response with 503.", SPEC),
    "immediate-ends": _must(
        "After an immediate response the stream ends without another answer.", EXT_PROC),
    "refusal-of-garbage": _should(
        "A body that is no JSON gets 400 with a JSON error object and its content-type.",
        PRACTICE),
    "overload-429": _may(
        "A request that is dropped because the endpoints are under load gets 429 with "
        "Retry-After.", SPEC),
    "response-headers": _must("Response headers are answered.", EXT_PROC),
    "response-body": _must(
        "With full-duplex bodies every piece of an answer is sent back in order, unchanged, and "
        "the last one with end_of_stream.", MODES),
    "response-streams": _must(
        "Pieces of a streamed answer pass before the answer has ended.", PRACTICE),
    "response-large": _must("An answer of 3 MB reaches the client unchanged.", PRACTICE),
    "response-trailers": _must("Response trailers are answered.", EXT_PROC),
    "response-error": _must(
        "An engine's 400 or 500 reaches the client with its body.", PRACTICE),
    "served-reported": _may(
        "The picker reads envoy.lb / x-gateway-destination-endpoint-served and, for tests, "
        "returns it as x-conformance-test-served-endpoint.", LWEPP),
    "test-selection": _may(
        "For tests, test-epp-endpoint-selection names the endpoint by ip or ip:port.", LWEPP),
    "test-selection-unknown": _may(
        "For tests, a selection that matches nothing falls back to all endpoints.", LWEPP),
    "half-close": _must("The picker ends a stream that the gateway half-closes.", GRPC),
    "cancel-anywhere": _must(
        "A stream that is cancelled after any message leaves the picker able to pick.", GRPC),
    "client-gone-through-envoy": _must(
        "Clients that leave in the middle of request and answer leave the picker able to pick.",
        PRACTICE),
    "malformed-message": _must(
        "A message that is no protobuf ends its stream with an error, and no other.", GRPC),
    "large-message": _must(
        "A message of more than 4 MiB (a BUFFERED body) is read.", PRACTICE),
    "many-streams": _must("A thousand streams at once are all answered.", PRACTICE),
}  # fmt: skip

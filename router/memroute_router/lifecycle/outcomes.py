"""How a request can end; the value is a metric label and stands in the log."""

from enum import StrEnum


class Outcome(StrEnum):
    """The end of a request."""

    SERVED = "served"
    BAD_REQUEST = "bad-request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate-limited"
    UNKNOWN_MODEL = "unknown-model"
    NEVER_FITS = "never-fits"
    SATURATED = "saturated"
    QUEUE_TIMEOUT = "queue-timeout"
    NO_READY_REPLICA = "no-ready-replica"
    MODEL_ASLEEP = "model-asleep"
    ROUTER_EXHAUSTED = "router-exhausted"
    SHUTTING_DOWN = "shutting-down"
    ENGINE_PUSH_BACK = "engine-push-back"
    ENGINE_ERROR = "engine-error"
    REPLICAS_FAILED = "replicas-failed"
    REPLICAS_DIED = "replicas-died"
    STREAM_BROKEN = "stream-broken"
    CLIENT_GONE = "client-gone"
    INTERNAL_ERROR = "internal-error"

"""What becomes of memroute's leases when a part of the way dies: of its own picker alone."""

import re
import signal
import socket
import time
import urllib.request
from urllib.parse import urlsplit

import pytest
from conftest import free_port, is_ours, memroute, memroute_process
from picker_gateway import DUPLEX, DUPLEX_NONE, Envoy, bootstrap, watched
from picker_web import post


@pytest.fixture
def ours(request, engines, endpoints, model, tmp_path):  # noqa: ARG001 - they run
    """Starts memroute's picker, with a port of operations."""
    if not is_ours(request.config):
        pytest.skip("of memroute's own picker")
    ops = free_port()

    def reserved(family="requests_in_flight"):
        url = f"http://127.0.0.1:{ops}/metrics"
        with urllib.request.urlopen(url, timeout=30) as page:
            text = page.read().decode()
        found = re.findall(rf"(?m)^memroute_router_{family}\{{.*\}} (\S+)$", text)
        assert found, text[:2000]
        return sum(map(float, found))

    def start(port=None, how=memroute, flags=()):
        return how(tmp_path, endpoints, model, "--ops-port", str(ops), *flags, port=port)

    return start, reserved


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun(envoy, body, how="events=200"):
    """A client whose streamed answer has begun."""
    place = urlsplit(envoy.url)
    client = socket.create_connection((place.hostname, place.port), 30)
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-answer: %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    client.sendall(head % (how.encode(), len(body)) + body)
    assert b"200" in client.recv(100)
    return client


def is_whole(client):
    """Read to the end; whether the answer was brought to its own."""
    found = b""
    try:
        while data := client.recv(65536):
            found += data
            if found.endswith(b"0\r\n\r\n"):
                return True
    except ConnectionResetError:
        pass
    return False


@pytest.mark.parametrize("modes", [DUPLEX, DUPLEX_NONE])
def test_clients_and_gateways_that_die_leave_no_lease(ours, prompt, modes):
    """A lease of nobody is memory that nobody gets any more."""
    start, reserved = ours
    with start() as picker:
        with Envoy(picker, free_port(), modes) as envoy:
            clients = [begun(envoy, prompt(stream=True)) for _ in range(5)]
            until(lambda: reserved() == 5)
            for client in clients[:3]:
                client.close()
            until(lambda: reserved() == 2)
        until(lambda: reserved() == 0)
        for client in clients:
            client.close()


def test_a_picker_that_dies_and_comes_back(ours, prompt):
    """Meanwhile the gateway does what its failure mode says; then all is as before."""
    start, reserved = ours
    port = free_port()
    with Envoy(f"127.0.0.1:{port}", free_port(), DUPLEX) as envoy:
        with start(port):
            until(lambda: post(envoy, prompt()).status == 200)
            client = begun(envoy, prompt(stream=True))
            until(lambda: reserved() == 1)
        # The picker was killed in the middle of an answer: that one is broken off.
        while client.recv(4096):
            pass
        client.close()
        assert post(envoy, prompt()).status == 503
        with start(port):
            until(lambda: post(envoy, prompt()).status == 200)
            until(lambda: reserved() == 0)


@pytest.mark.parametrize("modes", [DUPLEX, DUPLEX_NONE])
def test_an_engine_that_resets_in_the_middle_of_an_answer(ours, prompt, modes):
    """The client sees that its answer is not whole, and no lease is left."""
    start, reserved = ours
    with start() as picker, Envoy(picker, free_port(), modes) as envoy:
        for _ in range(3):
            client = begun(envoy, prompt(stream=True), "reset=5")
            assert not is_whole(client)
            client.close()
        until(lambda: reserved() == 0)
        assert post(envoy, prompt()).status == 200


def test_a_client_that_reads_no_further_costs_no_replica_its_health(ours, prompt):
    """Envoy stops reading the engine for it, and the picker sees what it would of a stall."""
    start, reserved = ours
    with (
        start(flags=("--stalled-engine-seconds", "1")) as picker,
        Envoy(picker, free_port(), DUPLEX) as envoy,
    ):
        client = begun(envoy, prompt(), f"bytes={256 * 1024**2}")
        until(lambda: reserved("requests_in_flight") == 1)
        until(lambda: reserved("requests_in_flight") == 0, 60.0)
        assert reserved("replica_avoided") == 0
        assert not is_whole(client)
        client.close()


def test_a_picker_that_hangs_is_found_out(ours, prompt):
    """Its gateway pings it: nobody waits for it for ever, and then all is as before."""
    start, reserved = ours
    with start(how=memroute_process) as (picker, process):
        port = free_port()
        config = watched(bootstrap(picker, port, DUPLEX))
        with Envoy(picker, port, config=config) as envoy:
            until(lambda: post(envoy, prompt()).status == 200)
            client = begun(envoy, prompt(stream=True))
            until(lambda: reserved() == 1)
            process.send_signal(signal.SIGSTOP)
            try:
                # Neither what waits for it nor what comes later is left hanging.
                assert post(envoy, prompt()).status == 503
                assert not is_whole(client)
                assert post(envoy, prompt()).status == 503
            finally:
                process.send_signal(signal.SIGCONT)
            client.close()
            until(lambda: post(envoy, prompt()).status == 200)
            until(lambda: reserved() == 0)


def test_answers_that_are_not_shown_outlive_a_picker_that_stops(ours, prompt):
    """The gateway needs it no more for them: an error of the stream would break them off."""
    start, reserved = ours

    def how(*facts, **more):
        return memroute_process(*facts, "--shutdown-timeout-seconds", "0", **more)

    with (
        start(how=how) as (picker, process),
        Envoy(picker, free_port(), DUPLEX_NONE) as envoy,
        begun(envoy, prompt(stream=True)) as client,
    ):
        until(lambda: reserved() == 1)
        process.terminate()
        process.wait(timeout=60)
        assert is_whole(client)

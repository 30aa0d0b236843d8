"""What becomes of requests and leases when a part dies, hangs or is full, behind Istio."""

import re
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from mesh_cluster import rule
from mesh_pods import OPS_PORT
from mesh_web import SELECTION, TIMEOUT_SECONDS, Stream, ask, eventually, is_served, many, prompt

# Events of an answer that lasts longer than what is done to it: 20 ms each. None is waited for to
# its end.
NUM_EVENTS = 3000


def leases(picker):
    """Requests that hold memory, as the picker has it; None: it does not say."""
    url = f"http://{picker.address}:{OPS_PORT}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
        found = re.findall(
            r"(?m)^memroute_router_requests_in_flight\{.*\} (\S+)$", page.read().decode()
        )
    return sum(map(float, found)) if found else None


@pytest.fixture
def pool(mesh, routes, accepted):
    """A pool's picker, and the host that is routed to it. All is well again afterwards."""
    used = []

    def serve(name):
        route, host = routes(rule(name))
        accepted(route, name)
        picker = mesh.pods[f"{name}-picker"]
        used.append((picker, host))
        eventually(lambda: ask(mesh.gateway(), host, body=prompt()), is_served)
        return picker, host

    yield serve
    for picker, host in used:
        eventually(lambda h=host: ask(mesh.gateway(), h, body=prompt()), is_served)
        eventually(lambda p=picker: leases(p), lambda count: count == 0)


@pytest.fixture
def disabled():
    """Takes a picker away as its node would see it: by a signal, and then not ready."""
    paused = []

    def disable(picker, number):
        picker.signal(number)
        paused.append(picker)
        picker.say(is_ready=False)

    yield disable
    for picker in paused:
        if picker.process.poll() is None and picker.process.returncode is None:
            picker.signal(signal.SIGCONT)
        if picker.process.poll() is not None:
            picker.restart()
        picker.say(is_ready=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_picker_fail_open_serves_anyhow(mesh, pool, disabled, number):
    """[EppUnAvailableFailOpen], for a picker that is dead and for one that hangs."""
    picker, host = pool("secondary")
    disabled(picker, number)
    answer = eventually(lambda: _soon(mesh, host), lambda found: found and is_served(found))
    assert answer.pod.startswith("secondary-")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_picker_fail_close_serves_nothing(mesh, pool, disabled, number):
    """The default: no replica ever gets more than it has room for."""
    picker, host = pool("primary")
    disabled(picker, number)
    eventually(lambda: _soon(mesh, host), lambda found: found and found.status >= 500)
    answers = [_soon(mesh, host) for _ in range(5)]
    assert all(found is None or found.status >= 500 for found in answers), answers


def _soon(mesh, host):
    """An answer within seconds, or None: so long as the gateway still asks one that hangs."""
    try:
        return ask(mesh.gateway(), host, body=prompt(), timeout=3)
    except TimeoutError:
        return None


def test_a_picker_that_dies_in_the_middle_of_answers_breaks_them_off(mesh, pool):
    """A client knows that its answer is not whole; the next one is served as ever."""
    picker, host = pool("primary")
    streams = _begun(mesh, host, 3)
    eventually(lambda: leases(picker), lambda count: count == 3)
    picker.restart()
    assert not any(stream.is_whole() for stream in streams)
    eventually(lambda: leases(picker), lambda count: count == 0)


def test_a_picker_that_hangs_for_a_moment_loses_nothing(mesh, pool):
    """Answers go on where they were, and requests that came meanwhile are served."""
    picker, host = pool("primary")
    streams = _begun(mesh, host, 3, num_events=50)
    picker.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(ask, mesh.gateway(), host, body=prompt()) for _ in range(3)]
        assert not any(each.done() for each in asked)
        picker.signal(signal.SIGCONT)
        assert all(each.result().status == 200 for each in asked)
    assert all(stream.is_whole() for stream in streams)


def test_an_engine_that_resets_in_the_middle_of_an_answer_breaks_it_off(mesh, pool):
    """The client gets what there was, and sees that it is not whole; no lease is left."""
    picker, host = pool("primary")
    for _ in range(3):
        stream = Stream(mesh.gateway(), host, prompt(stream=True), x_answer="reset=5")
        assert stream.begin() == 200
        assert not stream.is_whole()
    eventually(lambda: leases(picker), lambda count: count == 0)


def test_clients_may_leave_at_any_byte(mesh, pool):
    """In the middle of the head, of the body, before the answer and in it."""
    picker, host = pool("primary")
    body = prompt(stream=True)
    length = len(Stream(mesh.gateway(), host, body, x_answer="events=200").request)
    for count in [*range(0, length, 7), length]:
        stream = Stream(mesh.gateway(), host, body, x_answer="events=200")
        stream.send(count)
        stream.close()
    for stream in _begun(mesh, host, 3):
        stream.close()
    eventually(lambda: leases(picker), lambda count: count == 0)


def test_a_replica_that_dies_is_passed_over(mesh, pool):
    """Answers of it are broken off; whoever comes later is served by the others."""
    picker, host = pool("primary")
    lost = mesh.of("primary")[0]
    streams = _begun(mesh, host, 2, **{SELECTION: lost.address})
    eventually(lambda: leases(picker), lambda count: count == 2)
    try:
        lost.kill()
        assert not any(stream.is_whole() for stream in streams)
        # Its pod is still called ready: the gateway's own retries go on to others.
        statuses = {ask(mesh.gateway(), host, body=prompt()).status for _ in range(20)}
        assert statuses <= {200, 502, 503}
        lost.say(is_ready=False)
        answers = many(lambda: ask(mesh.gateway(), host, body=prompt()), is_served)
        assert lost.name not in {answer.pod for answer in answers}
        eventually(lambda: leases(picker), lambda count: count == 0)
    finally:
        lost.restart()
        lost.say(is_ready=True)


def test_a_full_pool_is_429_with_a_time_to_come_back(mesh, pool):
    """Its engine has room for 8,192 tokens; each request needs 3,000 and may need 3,400."""
    picker, host = pool("engines")
    body = prompt(prompt="word " * 3000, max_tokens=400, ignore_eos=True)
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: ask(mesh.gateway(), host, body=body), range(12)))
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 429}
    refused = [answer for answer in answers if answer.status == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all("error" in answer.document for answer in refused)
    eventually(lambda: leases(picker), lambda count: count == 0)


def _begun(mesh, host, count, *, num_events=NUM_EVENTS, **fields):
    """Clients whose answers have begun."""
    streams = []
    for _ in range(count):
        how = {"x_answer": f"events={num_events}"} | fields
        streams.append(Stream(mesh.gateway(), host, prompt(stream=True), **how))
        assert streams[-1].begin() == 200
    return streams

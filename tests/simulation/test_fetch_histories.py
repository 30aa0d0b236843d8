"""Any history of a cache: breaks, kills, wrong bytes and meddling, in any order.

Whatever happened before, one start ends with the whole model or with a failure that is named; and
a marker never stands beside wrong bytes that this program wrote.
"""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fake_hub
from fake_hub import FakeHub, Repository
from fetching import Fetching, without_waits
from memroute_fetch import task
from memroute_fetch.failures import ExitCode
from sizes import tries

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 12,
    "model-00002-of-00002.safetensors": bytes(range(255, -1, -1)) * 8,
}
NAMED = {
    ExitCode.CHECKSUM, ExitCode.NOT_FOUND, ExitCode.NO_NETWORK, ExitCode.DENIED, ExitCode.NO_SPACE,
}  # fmt: skip


class KilledError(BaseException):
    """The process is gone: nothing of it runs any more."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_waits(monkeypatch)
    with fake_hub.loopback_sessions():
        yield


@pytest.fixture
def hub():
    with FakeHub({"org/tiny": Repository(FILES)}) as running:
        yield running


FAULTS = st.one_of(
    st.builds(fake_hub.cut, st.integers(0, 2000)),
    st.builds(fake_hub.wrong, st.integers(0, 20)),
    st.sampled_from([fake_hub.status(code) for code in (403, 404, 429, 500, 503)]),
    st.just(fake_hub.without_ranges),
    st.just(fake_hub.body(b"{}")),
)
MEDDLING = st.sampled_from(["remove", "truncate", "scribble", "journal", "marker", "part", "link"])
STEPS = st.one_of(
    st.tuples(st.just("fault"), st.sampled_from(sorted(FILES)), FAULTS),
    st.tuples(st.just("start"), st.none(), st.none()),
    st.tuples(st.just("kill"), st.integers(0, 40), st.none()),
    st.tuples(st.just("meddle"), st.sampled_from(sorted(FILES)), MEDDLING),
)


@settings(
    max_examples=tries(30, 100), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(steps=st.lists(STEPS, max_size=8))
def test_every_history_ends_with_the_whole_model_or_a_named_failure(hub, tmp_path, steps):
    """The disk of a node outlives every program that writes to it."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    hub.faults.clear()
    source = f"hf://org/tiny@{hub.repositories['org/tiny'].commit}"
    fetching = Fetching(tmp_path / "cache", hub.url)
    is_ours = True
    for kind, where, what in steps:
        if kind == "fault":
            hub.faults.setdefault(where, []).append(what)
        elif kind == "start":
            code = fetching.run(source, "--parallel", "1")
            assert code in {ExitCode.COMPLETE, *NAMED}, fetching.said
            assert fetching.is_whole(source) == (code == ExitCode.COMPLETE)
            assert code != ExitCode.COMPLETE or fetching.files(source) == FILES
            is_ours = is_ours or code == ExitCode.COMPLETE
        elif kind == "kill":
            _killed_after(where, fetching, source)
            if is_ours and fetching.is_whole(source):
                assert fetching.files(source) == FILES
        else:
            is_ours = False
            _meddle(fetching, source, where, what)
    hub.faults.clear()
    assert fetching.run(source) == ExitCode.COMPLETE, fetching.said
    assert fetching.files(source) == FILES
    assert fetching.is_whole(source)


def _killed_after(num_calls, fetching, source):
    """A start whose process ends at one of its writes: later ones do not happen either."""
    left = [num_calls]
    calls = [
        (os, "pwrite"), (os, "fsync"), (os, "open"), (Path, "replace"), (Path, "unlink"),
        (Path, "mkdir"), (shutil, "rmtree"),
    ]  # fmt: skip

    def counted(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        # Its writes would be counted in an order of chance.
        patch.setattr(task, "Noting", lambda *_: contextlib.nullcontext())
        for owner, name in calls:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            fetching.run(source, "--parallel", "1")
        except KilledError:
            return


def _meddle(fetching, source, name, how):
    """Somebody else's hand in the cache, while no program runs."""
    folder = fetching.folder(source)
    own = fetching.cache / ".memroute" / "models" / folder.name
    path = folder / name
    if how == "marker":
        (folder / ".memroute-complete.json").unlink(missing_ok=True)
    elif how == "journal":
        (own / "files.json").unlink(missing_ok=True)
    elif how == "part":
        for part in own.glob("partial/*.part"):
            part.write_bytes(b"x" * (part.stat().st_size + 7))
    elif path.is_file() and how == "remove":
        path.unlink()
    elif path.is_file() and how == "truncate":
        path.write_bytes(path.read_bytes()[:-3])
    elif path.is_file() and how == "scribble":
        path.write_bytes(bytes(len(FILES[name])))
    elif path.is_file() and how == "link":
        path.unlink()
        path.symlink_to("/etc/hostname")

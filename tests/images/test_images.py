"""Every step of the Dockerfile is done in an empty root, and what comes out is started.

What stands for the base images, and what therefore is not shown:
tests/support/images/image_roots.py.
"""

import json
import re
import socket
import subprocess
import time
import urllib.request

import pytest

from image_roots import BASE_LIBRARIES
from memroute import __version__

PROGRAMS = ("operator", "fetch", "router", "simulator")
START_SECONDS = 60.0

pytestmark = pytest.mark.timeout(3000)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_starts_unprivileged_on_a_read_only_root(builder, program):
    """A pod of deploy/base gives it no more: that user, no capability, /tmp."""
    image = builder.build(program)
    assert image.user == ("65532", "65532")
    said = image.run([*image.entrypoint, "--version"]).stdout
    assert said.split() == [f"memroute-{program}", __version__]
    assert f"usage: memroute-{program}" in image.run([*image.entrypoint, "--help"]).stdout
    looked = image.run(["python", "-c", _LOOK]).stdout
    assert json.loads(looked) == {
        "uid": 65532, "capabilities": "0" * 16,
        "/opt/memroute/x": "Read-only file system", "/etc/x": "Read-only file system",
        "/tmp/x": "written",  # noqa: S108 - the pod's emptyDir
    }  # fmt: skip


_LOOK = """
import json, os
found = {"uid": os.getuid()}
status = open("/proc/self/status").read() if os.path.exists("/proc/self/status") else ""
found["capabilities"] = status.split("CapEff:")[1].split()[0] if status else "unknown"
for path in ("/opt/memroute/x", "/etc/x", "/tmp/x"):
    try:
        open(path, "w").close()
        found[path] = "written"
    except OSError as error:
        found[path] = error.strerror
print(json.dumps(found))
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_holds_memroute_and_what_it_needs_and_nothing_else(builder, program):
    """Tests, caches and sources would be weight, and a larger surface."""
    image = builder.build(program)
    files = image.files()
    assert {name.split("/")[0] for name in files} <= {"opt", "bin", "sbin", "lib", "lib64"}
    inside = re.compile(r"opt/memroute/lib/python3\.\d+/site-packages/(.*)")
    packages = [found[1] for name in files if (found := inside.match(name))]
    assert any(name.startswith(f"memroute_{program}/") for name in packages)
    unwanted = re.compile(
        r"(^|/)(\.git|\.pytest_cache|\.mypy_cache|\.ruff_cache|\.cache|\.native(-tests)?)(/|$)"
        r"|^(tests|bench|monitoring|release|docs)/|^memroute[a-z_]*/(.*/)?(tests/|test_|conftest)"
    )
    assert [name for name in packages if unwanted.search(name)] == []
    assert (image.root / "src").exists() is False


@pytest.mark.parametrize("program", PROGRAMS)
def test_extension_modules_need_only_what_the_base_image_has(builder, program):
    """On this machine they load; python:3.13-slim lacks libraries that compilers bring."""
    image = builder.build(program)
    modules = [image.root / name for name in image.files() if name.endswith(".so")]
    own = {path.name for path in (image.root / "opt").rglob("*.so*")}
    needed = {
        (library, module.name)
        for module in modules
        for library in re.findall(
            r"NEEDED +(\S+)",
            subprocess.run(
                ["objdump", "-p", module], capture_output=True, text=True, check=True
            ).stdout,
        )
    }
    python = re.compile(r"libpython3\.\d+\.so")
    assert {
        one for one in needed if one[0] not in BASE_LIBRARIES | own and not python.match(one[0])
    } == set()


@pytest.mark.parametrize("program", ["router", "simulator"])
def test_the_hot_modules_of_the_image_are_compiled(builder, program):
    """The figures are of compiled modules; a wheel of plain ones would start as well."""
    module = {
        "router": "memroute_router.http.connection",
        "simulator": "memroute_simulator.engine.model.scheduler",
    }[program]
    asked = f"import importlib; print(importlib.import_module({module!r}).__file__)"
    assert builder.build(program).run(["python", "-c", asked]).stdout.strip().endswith(".so")


def test_the_routers_image_has_the_picker_compiled(builder):
    """The chart starts it from there, by another command."""
    image = builder.build("router")
    assert image.run(["memroute-picker", "--version"]).stdout.startswith("memroute-picker ")
    asked = "import memroute_picker.picking.process as it; print(it.__file__)"
    assert image.run(["python", "-c", asked]).stdout.strip().endswith(".so")


def test_the_routers_image_serves(builder, tmp_path):
    """Past --help: sockets, threads, compiled modules and its temporary files, as that user."""
    image = builder.build("router")
    (image.root / "opt/router.yaml").write_text(
        "models: [{name: chat, replicas: ['http://127.0.0.1:9']}]\n"
    )
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, operations = one.getsockname()[1], other.getsockname()[1]
    command = [
        *image.entrypoint, "--config", "/opt/router.yaml", "--host", "127.0.0.1",
        "--port", str(port), "--ops-port", str(operations),
    ]  # fmt: skip
    started = image.command(command, image.environment, read_only=True, drop=True)
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(started, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        assert _models(process, port, log) == ["chat"]
    finally:
        process.terminate()
        process.wait(30)
        (image.root / "opt/router.yaml").unlink()
        log.close()


def _models(process, port, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                return [model["id"] for model in json.load(answer)["data"]]
        except OSError:
            time.sleep(0.1)
    log.seek(0)
    pytest.fail(f"the router does not answer; its log:\n{log.read()}")

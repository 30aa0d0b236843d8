"""A file of keys, and requests with them, for tests of who may ask."""

import json

from router_rig import Rig, body, exchange

ALICE = "mr-alice-0123456789abcdefghij"
BOB = "mr-bob-0123456789abcdefghijklm"
EVE = "mr-eve-0123456789abcdefghijklm"


def tenant(name, *keys, models=("m",), **fields):
    listed = [
        {"id": f"{name}-{number}", "key": key} if isinstance(key, str) else key
        for number, key in enumerate(keys)
    ]
    return {"name": name, "models": list(models), "keys": listed} | fields


def write_keys(path, *tenants, **more):
    path.write_text(json.dumps({"tenants": list(tenants)} | more))
    return str(path)


async def keyed_rig(tmp_path, *tenants, flags=(), **more):
    """A router with these tenants, started."""
    rig = Rig("--keys", write_keys(tmp_path / "keys.json", *tenants, **more), *flags)
    await rig.start()
    return rig


def request(key=None, data=None, path=b"/v1/chat/completions", method=b"POST", lines=b""):
    """A request as bytes; ``key``: None for none."""
    data = body() if data is None and method == b"POST" else data or b""
    given = b"" if key is None else b"authorization: Bearer %b\r\n" % key.encode()
    return b"%b %b HTTP/1.1\r\nhost: x\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
        method, path, given, lines, len(data), data,
    )  # fmt: skip


async def ask(rig, key=None, data=None, **request_facts):
    """Send one; status, header fields, and the answer as JSON."""
    status, headers, content = await exchange(rig.port, request(key, data, **request_facts))
    return status, headers, json.loads(content) if content else None


async def get(rig, path, key=None):
    status, headers, content = await exchange(rig.port, request(key, b"", path=path, method=b"GET"))
    return status, headers, content

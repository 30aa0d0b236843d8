"""``memroute top`` and ``memroute explain`` on a stub cluster that an operator works on."""

import asyncio
import json

from typer.testing import CliRunner

from memroute_cli.cluster.looking import glance
from memroute_cli.main import app


async def told(rig):
    """What the operator has told by now, and the picture that a kubeconfig gives."""
    await rig.reconciler.tell_fleet()
    return await glance(rig.reconciler.board.client)


def kubeconfig(rig, path):
    """A file that points at the stub."""
    server = rig.reconciler.board.client._api.configuration.host
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


async def memroute(*arguments, columns=80):
    """The command as a person runs it: exit status, output, errors."""
    result = await asyncio.to_thread(
        CliRunner().invoke, app, list(arguments), env={"COLUMNS": str(columns)}
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr

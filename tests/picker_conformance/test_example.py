"""The example of the how-to is complete: as it stands there, but for its ports."""

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import free_port, is_ours
from picker_gateway import Envoy
from picker_web import post

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-gateway-picker.md"


def test_the_bare_envoy_of_the_how_to_works(request, picker, prompt, endpoints):
    """What people copy has to run."""
    if not is_ours(request.config):
        pytest.skip("the page is of memroute's own picker")
    text = re.search(r"```yaml\n(static_resources:.*?)```", PAGE.read_text(), re.DOTALL)[1]
    port = free_port()
    text = text.replace("port_value: 8080", f"port_value: {port}")
    text = text.replace("port_value: 9002", "port_value: " + picker.rpartition(":")[2])
    with Envoy(picker, port, config=yaml.safe_load(text)) as envoy:
        answer = post(envoy, prompt())
    assert answer.status == 200
    assert json.loads(answer.body)["endpoint"] in endpoints

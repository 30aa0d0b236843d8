"""What is typed wrongly ends with a sentence: no traceback, and no guess at what was meant."""

import socket

import pytest

from memroute_operator.app import run_operator
from memroute_operator.settings import parse_settings as operator_settings
from memroute_router.settings import parse_settings as router_settings
from memroute_simulator.engine.program import main as engine


@pytest.mark.parametrize(
    ("parse", "flag"),
    [(operator_settings, "--resync-second"), (router_settings, "--max-queued-request")],
)
def test_the_beginning_of_a_flag_is_no_flag(parse, flag, capsys):
    """A manifest with half a flag would change its meaning when a longer one is added."""
    with pytest.raises(SystemExit):
        parse([flag, "3"])
    assert f"no flag {flag}; did you mean {flag}s" in capsys.readouterr().err


@pytest.mark.usefixtures("capsys")  # one line: no terminal
async def test_an_operator_whose_port_is_taken_says_which_flag_names_another():
    """Two operators on one machine (hostNetwork, a laptop) are the usual case."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = operator_settings(["--host", "127.0.0.1", "--metrics-port", str(port)])
        with pytest.raises(SystemExit) as ended:
            await run_operator(settings)
    assert str(ended.value) == (
        f"memroute-operator: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "see --metrics-port"
    )


def test_an_unknown_fault_lists_the_known_ones(capsys):
    """The page of faults is long, and one types from memory."""
    status = engine(["--model", "Qwen/Qwen3-8B", "--simulator-fault", "slow=3"])
    assert status == 2
    error = capsys.readouterr().err
    assert "--simulator-fault: no fault 'slow'; there are slowdown_ratio, " in error

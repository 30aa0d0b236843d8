import pytest

from cluster_support import program_address


@pytest.fixture
def router_url(cluster):
    """Where the cluster's router takes requests."""
    return f"http://{program_address(cluster, 'router')}:8000"

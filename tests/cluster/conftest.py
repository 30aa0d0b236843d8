import pytest

from cluster_support import router_of


@pytest.fixture
def router_url(cluster):
    """Where the cluster's router takes requests."""
    return router_of(cluster)

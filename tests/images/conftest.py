import pytest

from image_roots import Builder, cannot


@pytest.fixture(scope="session")
def builder(repository, tmp_path_factory):
    """Builds the images of deploy/images/Dockerfile, each stage once."""
    if reason := cannot():
        pytest.skip(reason)
    return Builder(
        repository, repository / "deploy/images/Dockerfile", tmp_path_factory.mktemp("images")
    )

import pytest


@pytest.fixture
async def engine_factory():
    """Makes scripted engines, ended with the test."""
    from router_rig import Engine

    engines = []

    async def make(script):
        engine = Engine(script)
        await engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop()

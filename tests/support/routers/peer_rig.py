"""What routers and pickers of the same replicas have heard of each other."""

from router_rig import until


def num_keys(cached, replica):
    return sum(len(keys) for keys, _ in cached.guessed_stretches(replica))


def knowledge(rig):
    """Of prompts and sessions, on which replica."""
    cached = rig.pools.by_model["m"].dispatcher.cached
    keys = {
        (replica.info.key, key)
        for replica in rig.replicas
        for stretch, _ in cached.guessed_stretches(replica.info.key)
        for key in stretch
    }
    return keys | {session[:2] for session in cached.recent_sessions(1000)}


async def heard(teller, hearer):
    """Until the hearer knows what the teller knows, and that what was sent has ended.

    Not until some datagrams have come: on a busy machine those are what was told before.
    """
    peers = hearer.pools.peers.peers
    await until(
        lambda: (
            knowledge(hearer) >= knowledge(teller) and not any(peer.open for peer in peers.values())
        )
    )


def alike(*rigs):
    """As if all replicas had shown the same speed: a busy machine makes some of them look slow."""
    for rig in rigs:
        for replica in rig.replicas:
            replica.ledger.speed.assume(prompt_seconds=0.01, token_seconds=1e-4)

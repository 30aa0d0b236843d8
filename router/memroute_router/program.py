"""The router as a process of its own: what Python and the kernel are told before it runs."""

import asyncio
import gc
import logging
import resource
import sys
from collections.abc import Callable, Coroutine

import uvloop

from memroute.sentences import for_stderr
from memroute_kube import NotConfiguredError
from memroute_router.access.engine_key import EngineKeyError
from memroute_router.access.keyfile import KeysError
from memroute_router.app import ListenError
from memroute_router.discovery.static import ConfigError
from memroute_router.log.program_log import formatter
from memroute_router.peers import PeerSecretError
from memroute_router.settings import RouterSettings
from memroute_router.tracing.tracer import TracingError

GC_ALLOCATIONS = 20_000
# Requests leave no cycles behind: the default of 700 would look for them every twenty requests.

KEPT_BYTES = 8 * 1024**2
# Of freed memory: the bodies of two hundred requests of 40 KB. Chosen by hand.


def run_program(
    name: str, settings: RouterSettings, run: Callable[[], Coroutine[None, None, None]]
) -> None:
    """Run a program that routes until SIGTERM. Ends with a sentence where it cannot start."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    _allow_many_connections()
    _keep_freed_memory()
    # What is there now stays: it need not be looked at again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run())
        except NotConfiguredError as error:
            told = (
                f"no cluster is configured: KUBECONFIG, else ~/.kube/config: {error}; "
                "--config FILE routes without Kubernetes"
            )
        except ConfigError as error:
            told = f"{settings.config}: {error}"
        except (ListenError, TracingError) as error:
            told = str(error)
        except KeysError as error:
            told = f"{settings.keys}: {error}"
        except EngineKeyError as error:
            told = f"{settings.engine_key_file}: {error}"
        except PeerSecretError as error:
            told = f"{settings.peer_secret_file}: {error}"
        else:
            return
        sys.exit(for_stderr(f"{name}: {told}"))


def _allow_many_connections() -> None:
    """A stream takes two file descriptors; the usual limit of 1,024 is for programs with few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_freed_memory() -> None:
    """Let the memory of a body be that of the next: glibc gives 128 KiB back to the kernel at once.

    Of 100 us for a request of 40 KB, page faults took 5. To free a block that is mapped by itself
    raises the limit to twice the block's size (mallopt(3), "dynamic mmap threshold").
    """
    block = bytearray(KEPT_BYTES)
    del block

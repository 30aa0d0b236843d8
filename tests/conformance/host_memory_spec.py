"""A worker for vLLM's offloading connector that copies in plain host memory.

The connector's scheduler side is pure Python and runs on the CPU build; only its worker wants a
GPU. Loaded into a live server by ``spec_name`` and ``spec_module_path``.
"""

import time

import torch
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

# A transfer that takes no time would divide by it.
SHORTEST_SECONDS = 1e-9


class HostMemoryWorker(OffloadingWorker):
    """Copies blocks when it is asked to, and says in the same step that they are there."""

    def __init__(self, caches, num_chunks):
        """``caches``: the engine's own; as many chunks beside each."""
        self._caches = [
            (cache.tensor.view(torch.int8).view(-1, cache.page_size_bytes),
             torch.zeros((num_chunks, cache.page_size_bytes), dtype=torch.int8))
            for cache in caches.tensors
        ]  # fmt: skip
        self._finished = []

    def submit_store(self, job_id, src_spec, dst_spec):
        """From the engine's blocks to the host's."""
        pairs = list(zip(src_spec.block_ids.tolist(), dst_spec.block_ids.tolist(), strict=True))
        return self._copy(job_id, pairs, stores=True)

    def submit_load(self, job_id, src_spec, dst_spec):
        """From the host's blocks to the engine's."""
        pairs = list(zip(dst_spec.block_ids.tolist(), src_spec.block_ids.tolist(), strict=True))
        return self._copy(job_id, pairs, stores=False)

    def get_finished(self):
        """What has been copied since the last time."""
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids):
        """Nothing is ever under way."""

    def _copy(self, job_id, pairs, *, stores):
        begun, size = time.monotonic(), 0
        for device, host in self._caches:
            for block, chunk in pairs:
                if stores:
                    host[chunk].copy_(device[block])
                else:
                    device[block].copy_(host[chunk])
                size += host.shape[1]
        took = max(time.monotonic() - begun, SHORTEST_SECONDS)
        self._finished.append(TransferResult(job_id, True, size, took))
        return True


class HostMemorySpec(CPUOffloadingSpec):
    """vLLM's own manager of chunks with that worker."""

    def get_worker(self, kv_caches):
        """One worker for the life of the engine."""
        if self._worker is None:
            self._worker = HostMemoryWorker(kv_caches, self.num_chunks)
        return self._worker

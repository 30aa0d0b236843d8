"""vLLM's own scheduler, writing down every decision: loaded into a live server by a flag."""

import json
import os
from pathlib import Path

from vllm.v1.core.sched.scheduler import Scheduler


class RecordingScheduler(Scheduler):
    """Appends a JSON line per step to the file that MEMROUTE_RECORDING names."""

    def __init__(self, *args, **kwargs):
        """As vLLM makes it."""
        super().__init__(*args, **kwargs)
        # Open for the life of the engine.
        path = Path(os.environ["MEMROUTE_RECORDING"])
        self._recording = path.open("a", buffering=1)

    def schedule(self, *args, **kwargs):
        """Schedule, and say what was decided."""
        output = super().schedule(*args, **kwargs)
        if output.total_num_scheduled_tokens or output.preempted_req_ids:
            pool = self.kv_cache_manager.block_pool
            line = {
                "tokens": output.num_scheduled_tokens,
                "preempted": sorted(output.preempted_req_ids or ()),
                "free": pool.get_num_free_blocks(),
            }
            self._recording.write(json.dumps(line) + "\n")
        return output

"""What engines have measured, in an object of the operator's own: it outlives them and us.

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: memroute-calibrations, namespace: memroute-system}
data:
  1f3c9a70b2d4: '{"model": "Qwen/Qwen3-8B", "engine": "vllm/vllm-openai:v0.32.0", "flags": "{…}",
    "product": "NVIDIA-H100-80GB-HBM3", "overheadBytes": 1610612736, "expectedOverheadBytes": …}'
```

Each measurement is a key of its own, named by a hash of what must be equal for it to count. The
object is in the operator's namespace: whoever may write there can replace the operator itself. A
tenant can neither forge a measurement nor delete one.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memroute.footprint import Calibration, CalibrationKey
from memroute_kube import ApiError, KubeObject, KubernetesClient
from memroute_kube.shapes import mapping
from memroute_operator.store.own_objects import patch_config_map, read_config_map

LOGGER = logging.getLogger(__name__)
BOOK_NAME = "memroute-calibrations"
# Measurements that are kept: chosen by hand, a hundred models times a handful of accelerators and
# flags. Of 400 bytes each, a fifth of what an object may have.
MAX_KEPT = 512
# How long a write that failed is left alone, in seconds: chosen by hand. Nothing waits for it.
RETRY_SECONDS = 30.0
# No overhead of an engine is larger: a bound on what is read.
MAX_BYTES = 2**50


def entry_name(key: CalibrationKey) -> str:
    """The name of a measurement in the ConfigMap."""
    text = json.dumps([key.model, key.engine, key.flags, key.product])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(calibration: Calibration) -> str:
    """A measurement as it is kept."""
    key = calibration.key
    return json.dumps(
        {
            "model": key.model,
            "engine": key.engine,
            "flags": key.flags,
            "product": key.product,
            "overheadBytes": calibration.overhead_bytes,
            "expectedOverheadBytes": calibration.expected_overhead_bytes,
        }
    )


def read_book(obj: KubeObject) -> dict[CalibrationKey, Calibration]:
    """All measurements of the ConfigMap. What cannot be read is left out; raises nothing."""
    found: dict[CalibrationKey, Calibration] = {}
    for text in mapping(obj.get("data")).values():
        try:
            calibration = _read(json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        found[calibration.key] = calibration
    return found


def _read(entry: Mapping[str, Any]) -> Calibration:
    texts = [entry[name] for name in ("model", "engine", "flags", "product")]
    numbers = [entry[name] for name in ("overheadBytes", "expectedOverheadBytes")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    if not all(type(number) is int and 0 < number < MAX_BYTES for number in numbers):
        raise ValueError
    model, engine, flags, product = texts
    return Calibration(
        key=CalibrationKey(model=model, engine=engine, flags=flags, product=product),
        overhead_bytes=numbers[0],
        expected_overhead_bytes=numbers[1],
    )


@dataclass(slots=True, kw_only=True)
class CalibrationBook:
    """Owns what is known, and what of it is not written yet."""

    client: KubernetesClient
    namespace: str
    clock: Callable[[], float]
    known: dict[CalibrationKey, Calibration] = field(default_factory=dict)
    _unwritten: dict[CalibrationKey, Calibration] = field(default_factory=dict)
    _due_seconds: float = 0.0

    async def read(self) -> bool:
        """Read it again; whether anything is other than before. What was measured here stays."""
        obj = await read_config_map(self.client, self.namespace, BOOK_NAME)
        before = self.known
        self.known = read_book(obj) | self._unwritten
        return self.known != before

    async def keep(self, measured: Mapping[CalibrationKey, Calibration]) -> None:
        """Remember what engines have measured, and write what is new. Raises nothing."""
        for key, calibration in measured.items():
            if self.known.get(key) != calibration:
                self.known[key] = self._unwritten[key] = calibration
        if not self._unwritten or self.clock() < self._due_seconds:
            return
        writing = dict(self._unwritten)
        data: dict[str, str | None] = {entry_name(k): written(c) for k, c in writing.items()}
        # Those go first that were here before this process measured anything.
        for key in list(self.known)[: max(0, len(self.known) - MAX_KEPT)]:
            del self.known[key]
            data[entry_name(key)] = None
        try:
            await patch_config_map(self.client, self.namespace, BOOK_NAME, {"data": data})
        except ApiError as error:
            self._due_seconds = self.clock() + RETRY_SECONDS
            LOGGER.warning(
                "calibrations not written configmap=%s/%s error=%s retry_seconds=%.0f",
                self.namespace, BOOK_NAME, error, RETRY_SECONDS,
            )  # fmt: skip
        else:
            for key, calibration in writing.items():
                if self._unwritten.get(key) == calibration:
                    del self._unwritten[key]

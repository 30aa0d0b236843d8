"""Emulated GPU nodes: kubelet, device plugin, driver and DCGM exporter of machines we lack.

```text
fleet ── one watch of pods and nodes, dispatched to ──► agent (one per node)
  devices         HBM per device, as a driver counts it
  pod_worker      one per pod: containers, probes, status
  kubelet_server  logs for kubectl; the driver for engines
  dcgm            what the exporter's pod serves
```

A container is a local process. It has an address of its own and the environment of a
container, and no mount namespace: volumes are not there, and the ServiceAccount comes as a
kubeconfig named by ``KUBECONFIG``.
"""

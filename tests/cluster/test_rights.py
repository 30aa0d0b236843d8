from cluster_support import apply, fetch, get_deployment, pods_of, wait_program, wait_ready
from rights_used import check_rights


def test_every_call_is_allowed_and_nothing_is_granted_that_is_not_used(cluster, namespace):
    """By the API server's audit log. The scenario alone uses every right.

    That none was missing is judged again at the end of each control plane, for all its tests.
    """
    # A budget is made for two replicas and goes with the second, which is marked and deleted.
    apply(cluster, namespace, "m", replicas=2)
    wait_ready(cluster, namespace, "m")
    # Engines on whole devices measure: the first is written down by a create, the next by a patch.
    for name, model in (("one", "Qwen/Qwen3-0.6B"), ("two", "Qwen/Qwen3-8B")):
        apply(
            cluster,
            namespace,
            name,
            model={"name": model},
            placement={"mode": "Exclusive", "nodeSelector": {"kubernetes.io/hostname": "gpu-c"}},
        )
        wait_ready(cluster, namespace, name)
        cluster.wait_for(
            f"what {name} has measured",
            lambda name=name: (
                get_deployment(cluster, namespace, name)["status"]["footprint"]["source"]
                == "calibrated"
            ),
        )
    # Events are read of a pod that is not ready for a while.
    apply(cluster, namespace, "ends", engine={"args": ["--simulator-ending=killed"]})
    # The operator's map is read while somebody looks at the router's.
    looked = fetch(f"http://{wait_program(cluster, 'router')}:8002/map/fleet.json")
    assert looked.status_code == 200
    cluster.kubectl("scale", "mdep/m", "--replicas=1", "-n", namespace)
    cluster.wait_for("one pod", lambda: len(pods_of(cluster, namespace, "m")) == 1)
    for program in ("operator", "router"):
        check_rights(cluster, program)

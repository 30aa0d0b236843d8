"""Where replicas are: told in a status that the API server takes, whatever their number."""

import json
from dataclasses import replace

import pytest

from memroute.placement import PlacementMode
from memroute_operator.replicas.homes import read_homes, read_numbers, write_numbers
from memroute_operator.replicas.reading import read_replica
from memroute_operator.status.placements import MAX_BYTES, placement_fields
from planned_objects import deployment, pod_of

# What etcd takes of one object by default, in bytes (``--max-request-bytes``).
ETCD_BYTES = 1_572_864


def fleet(number, *, mode="shared", per_device=4, num_devices=1, node_name="gpu-{}"):
    """That many replicas, ``per_device`` on the devices of a node."""
    one = read_replica(pod_of(deployment(mode=mode)))
    made = []
    for index in range(number):
        node = node_name.format(index // per_device)
        uuids = [
            f"GPU-{index // per_device:08d}-0000-4000-8000-{i:012d}" for i in range(num_devices)
        ]
        made.append(
            replace(
                one,
                index=index,
                pod_name=f"m-{index}",
                uid=f"uid-{index}",
                node=node,
                device_bytes=dict.fromkeys(uuids, 20 * 2**30) if mode == "shared" else {},
                num_devices=num_devices,
                why="the smallest gap that holds it, on the node that has the fewest left " * 3,
            )
        )
    return made


def size(fields):
    """In bytes, as the client sends it at the most."""
    return len(json.dumps({k: v for k, v in fields.items() if v is not None}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"per_device": 1},
        {"per_device": 1, "num_devices": 8, "node_name": "n{}." + "x" * 240},
        {"mode": "exclusive", "per_device": 8},
    ],
    ids=["shared", "one-each", "eight-devices-and-long-names", "exclusive"],
)
def test_a_status_of_5000_replicas_is_one_that_etcd_takes(facts):
    """At 341 bytes each it was refused from about 4,600 replicas on, and said nothing any more."""
    fields = placement_fields(fleet(5000, **facts), {})
    assert size(fields) < ETCD_BYTES / 2
    assert len(fields["placements"]) <= 100
    assert fields["placementsLeftOut"] == 5000 - len(fields["placements"])


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_the_planner_reads_the_home_of_every_replica_back(mode):
    """A replica that ran before comes back before what is new: also number 1,900."""
    replicas = fleet(2000, mode=mode)
    homes = read_homes(placement_fields(replicas, {}))
    assert homes.keys() == set(range(2000))
    shared = mode == "shared"
    for replica in replicas:
        ran = homes[replica.index]
        assert ran.node == replica.node
        held = dict.fromkeys(replica.device_bytes, replica.bytes_per_device)
        assert ran.device_bytes == (held if shared else {})


@pytest.mark.slow
def test_homes_that_are_too_many_are_left_out():
    """Those replicas are placed like new ones; a status that is refused would help nobody."""
    replicas = fleet(5000, per_device=1, num_devices=8)
    fields = placement_fields(replicas, {})
    assert len(json.dumps(fields["homes"], separators=(",", ":"))) <= MAX_BYTES + 1
    assert len(fields["homes"]) > 100
    assert 100 < len(read_homes(fields)) < 5000


def test_a_small_deployment_is_told_as_ever():
    """Scripts read ``status.placements``: nothing changes for those that fit."""
    replicas = fleet(3)
    fields = placement_fields(replicas, {})
    assert [one["pod"] for one in fields["placements"]] == ["m-0", "m-1", "m-2"]
    assert fields["placements"][0]["devices"] == list(replicas[0].device_bytes)
    assert (fields["placementsLeftOut"], fields["homes"]) == (None, None)
    assert fields["nodes"] == "gpu-0"


def test_two_pods_of_one_slot_are_one_placement():
    """``placements`` is a map by the slot: two of one slot, and the status is refused whole.

    It was, just while a node was broken and people looked: earlier releases gave the pod that
    took the place of one that hangs its number.
    """
    hanging = fleet(1)[0]
    instead = replace(hanging, created_at="2027", pod_name="m-0-r1", node="gpu-9")
    fields = placement_fields([instead, hanging], {})
    (told,) = fields["placements"]
    assert (told["pod"], told["node"]) == ("m-0-r1", "gpu-9")
    assert fields["placementsLeftOut"] == 1


def test_a_reason_that_somebody_made_long_does_not_break_the_status():
    """The reason is an annotation of the pod: 256 KiB of it are anybody's to write there."""
    replicas = [replace(one, why="x" * 262_144) for one in fleet(100)]
    assert size(placement_fields(replicas, {})) < ETCD_BYTES / 2


@pytest.mark.slow
def test_the_column_of_nodes_is_a_line():
    """1,000 nodes made a column of 10 KB."""
    nodes = placement_fields(fleet(5000, mode="exclusive", per_device=1), {})["nodes"]
    assert len(nodes.split(",")) == 11
    assert nodes.endswith(",+4990")


@pytest.mark.parametrize(
    "homes",
    [
        "nonsense",
        [None, 5, "x"],
        [{"node": 3, "replicas": "0-3"}, {"node": "a", "replicas": 7}, {"node": "a"}],
        [{"node": "a", "replicas": "3-0"}, {"node": "a", "replicas": "-1,1-,x,1-2-3,٣"}],
        [{"node": "a", "replicas": "1", "devices": "GPU-0"}],
    ],
)
def test_homes_that_make_no_sense_are_no_homes(homes):
    """Whoever may edit a status may have been there, and the plan must go on."""
    assert read_homes({"homes": homes}) == {}


def test_homes_of_a_billion_replicas_do_not_fill_the_memory():
    """Three numbers in a status must not end the operator for everybody."""
    status = {"homes": [{"node": "a", "replicas": "0-999999999"}]}
    assert len(read_homes(status)) == 100_000


def test_numbers_in_short_are_the_same_numbers():
    assert write_numbers([4, 0, 1, 2, 2, 17]) == "0-2,4,17"
    assert list(read_numbers("0-2,4,17")) == [0, 1, 2, 4, 17]
    assert write_numbers([]) == ""
    assert list(read_numbers("")) == []


def test_the_mode_that_needs_devices_is_the_one_that_shares():
    """Whole devices are the device plugin's to choose: their UUIDs would be 1.8 MB of nothing."""
    fields = placement_fields(fleet(200, mode="exclusive", num_devices=8), {})
    assert all("devices" not in home for home in fields["homes"])
    assert PlacementMode.EXCLUSIVE.value == "exclusive"

"""A typing error in one annotation took all emulated nodes down, and nobody was told."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.units import GIB
from memroute_simulator.nodes.faults import PREFIX, read_faults


def read(num_gpus=2, **annotations):
    return read_faults(
        {f"{PREFIX}/{name.replace('_', '-')}": value for name, value in annotations.items()},
        num_gpus=num_gpus,
    )


def test_what_is_documented_is_read():
    faults = read(
        gone="true",
        lost_gpus="0, 1",
        foreign_hbm='{"0": "20Gi", "1": 1024}',
        xid='{"1": 79}',
        image_pull_seconds="never",
        exporter_down="false",
    )
    assert faults.is_gone
    assert not faults.is_cut_off
    assert not faults.is_exporter_down
    assert faults.lost_gpus == {0, 1}
    assert faults.foreign_bytes == {0: 20 * GIB, 1: 1024}
    assert faults.xids == {1: 79}
    assert faults.image_pull_seconds == math.inf
    assert faults.not_understood == ()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("gone", "yes", """gone is 'yes', but it takes "true" or "false": it is ignored"""),
        ("lost_gpus", "0,x", "lost-gpus is '0,x', but it takes GPUs by index, from 0 to 1: it"),
        ("lost_gpus", "2", "from 0 to 1: it is ignored"),
        (
            "foreign_hbm",
            "lots",
            'takes GPUs by index, from 0 to 1, as in {"0": "20Gi"}: it',
        ),
        ("foreign_hbm", '{"0": "lots"}', "foreign-hbm is"),
        ("foreign_hbm", '{"0": -1}', "foreign-hbm is"),
        ("foreign_hbm", "[" * 100_000, "[[[…'"),
        ("xid", '{"7": 79}', "GPUs by index, from 0 to 1"),
        ("image_pull_seconds", "soon", """'soon', but it takes seconds, or "never": it is"""),
        ("image_pull_seconds", "-1", "image-pull-seconds"),
    ],
)
def test_what_cannot_be_read_is_no_fault_and_is_told(name, value, sentence):
    faults = read(**{name: value})
    assert sentence in faults.not_understood[0]
    healthy = read()
    assert faults == type(healthy)(
        **{field: getattr(healthy, field) for field in healthy.__slots__}
        | {"not_understood": faults.not_understood}
    )


def test_a_node_without_a_gpu_has_none_to_lose():
    assert "this node has none" in read(0, lost_gpus="0").not_understood[0]


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([
    "gone", "cut-off", "exporter-down", "lost-gpus", "foreign-hbm", "xid", "image-pull-seconds",
]), st.text()), st.integers(0, 8))  # fmt: skip
def test_whatever_is_written_is_read_or_told(annotations, num_gpus):
    found = read_faults({f"{PREFIX}/{k}": v for k, v in annotations.items()}, num_gpus=num_gpus)
    assert len(found.not_understood) <= len(annotations)

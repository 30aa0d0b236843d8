import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    """Exit status and output of ``python -m bench.footprint``."""
    return subprocess.run(
        [sys.executable, "-m", "bench.footprint", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_golden_rows_and_start_logs_hold():
    done = bench("--output", "json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert len(document["golden"]) > 150
    assert len(document["checkpoints"]) > 20
    assert len(document["slices"]) > 15
    rows = [row for table in document.values() for row in table]
    assert not [row for row in rows if row["is_off"]]


def test_a_row_that_is_off_fails_the_run(tmp_path):
    """The bench can fail: one layer too many in a layout is found."""
    folder = ROOT / "tests/data/footprint"
    rows = json.loads((folder / "kv-layouts.json").read_text())[5:6]
    rows[0]["config"]["num_hidden_layers"] += 1
    (tmp_path / "kv-layouts.json").write_text(json.dumps(rows))
    (tmp_path / "model-sizes.json").write_text("[]")
    done = bench("--fixtures", str(tmp_path))
    assert done.returncode == 1
    assert "OFF" in done.stdout
    assert bench("--fixtures", str(tmp_path / "none")).returncode == 2

"""Writes cli/memroute_cli/doctor/crd_fields.txt: the fields of the CRD of this release."""

from pathlib import Path

import yaml

from memroute_cli.doctor.checks.crd import fields_of

REPOSITORY = Path(__file__).parents[3]
CRD = REPOSITORY / "crds" / "modeldeployments.memroute.dev.yaml"
FIELDS = REPOSITORY / "cli" / "memroute_cli" / "doctor" / "crd_fields.txt"


def text():
    """One path a line."""
    (version,) = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    return "\n".join(sorted(fields_of(version))) + "\n"


if __name__ == "__main__":
    FIELDS.write_text(text())

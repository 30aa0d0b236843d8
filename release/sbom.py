"""A bill of materials for each image, of what its lock file pins: ``python -m release.sbom``.

CycloneDX as JSON, checked against its schema. It runs in the venv of requirements/release.txt.
What the base image brings (Debian, Python) is not in it: the scanner of whoever builds the image
sees that.
"""

import argparse
import datetime as dt
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

PROGRAMS = ("fetch", "operator", "router", "simulator")
# What an image is: the markers of the lock file are read for it (deploy/images/Dockerfile).
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.13.0",
    "python_version": "3.13",
    "sys_platform": "linux",
    "extra": "",
}


@dataclass(frozen=True, slots=True)
class Pinned:
    """One package of a lock file."""

    name: str
    version: str
    sha256: tuple[str, ...]
    """Of each file that may be installed: a wheel for each platform, the source."""
    needed_by: tuple[str, ...]
    """Packages of the lock file, or memroute."""


def pinned(lock: str) -> list[Pinned]:
    """The packages that ``pip install --require-hashes -r`` puts into an image, by name."""
    found = []
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", lock):
        first = block.split("\n", 1)[0].strip().removesuffix("\\").strip()
        if not first or first.startswith("#"):
            continue
        requirement = Requirement(first)
        if requirement.marker is not None and not requirement.marker.evaluate(IMAGE):
            continue
        via = block.partition("# via")[2].replace("#", " ").split()
        found.append(
            Pinned(
                name=requirement.name,
                version=str(requirement.specifier).removeprefix("=="),
                sha256=tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", block)),
                needed_by=tuple(
                    sorted(re.split(r"[\[ ]", name)[0] for name in via if name[0] != "(")
                ),
            )
        )
    return sorted(found, key=lambda each: each.name)


def document(program: str, packages: list[Pinned], version: str, epoch: int) -> str:
    """The bill as CycloneDX 1.6. Raises ``ValueError`` where it does not keep to the schema."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashType, XsUri  # noqa: PLC0415
    from cyclonedx.model.bom import Bom  # noqa: PLC0415
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415
    from packageurl import PackageURL  # noqa: PLC0415

    def component(name: str, release: str, kind: ComponentType) -> Component:
        purl = PackageURL(type="pypi", name=name, version=release)
        return Component(name=name, version=release, type=kind, purl=purl, bom_ref=str(purl))

    image = component(f"memroute-{program}", version, ComponentType.CONTAINER)
    # An image of one's own build has no address before it is pushed.
    image.purl = None
    memroute = component("memroute", version, ComponentType.APPLICATION)
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"memroute/{program}@{version}"))
    bom.metadata.timestamp = dt.datetime.fromtimestamp(epoch, tz=dt.UTC)
    bom.metadata.component = image
    made = {"memroute": memroute}
    for package in packages:
        made[package.name] = component(package.name, package.version, ComponentType.LIBRARY)
        # Hashes are of files that may be installed, one for each platform: not of the component.
        made[package.name].external_references.add(
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(str(made[package.name].purl)),
                hashes=[HashType.from_hashlib_alg("sha256", each) for each in package.sha256],
            )
        )
    bom.components = made.values()
    needs: dict[str, list[Component]] = {name: [] for name in made}
    for package in packages:
        for name in package.needed_by:
            needs.get(name, needs["memroute"]).append(made[package.name])
    bom.register_dependency(image, [memroute])
    for name, needed in needs.items():
        bom.register_dependency(made[name], needed)
    text = str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        msg = f"the bill of materials of {program} does not keep to CycloneDX 1.6: {wrong}"
        raise ValueError(msg)
    return text


def main() -> None:
    """Write one bill for each program into a folder."""
    parser = argparse.ArgumentParser(prog="python -m release.sbom", description=__doc__)
    parser.add_argument("--locks", type=Path, required=True, help="the folder requirements/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--epoch", type=int, required=True)
    options = parser.parse_args()
    for program in PROGRAMS:
        packages = pinned((options.locks / f"{program}.txt").read_text())
        text = document(program, packages, options.version, options.epoch)
        (options.out / f"memroute-{program}-{options.version}.cdx.json").write_text(text)


if __name__ == "__main__":
    main()

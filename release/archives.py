"""Archives without the traces of who made them: times, owners, modes and the order of files."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

FILE_MODE = 0o644


def normalise_chart(path: Path, epoch: int) -> None:
    """Write a packed chart again: its files in order, all of them of the time ``epoch``.

    ``helm package`` writes the time at which it ran.
    """
    with tarfile.open(path) as packed:
        files = {
            member.name: read.read()
            for member in packed.getmembers()
            if (read := packed.extractfile(member)) is not None
        }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as written:
        # Helm reads Chart.yaml first, as it writes it.
        for name in sorted(files, key=lambda name: (not name.endswith("/Chart.yaml"), name)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(files[name]), epoch, FILE_MODE
            written.addfile(member, io.BytesIO(files[name]))
    # Python's own header of gzip: no name, and this time.
    path.write_bytes(gzip.compress(plain.getvalue(), mtime=epoch))


def members(path: Path) -> dict[str, bytes]:
    """The files in a wheel, a source archive or a chart; of any other file, itself."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    if path.suffix in {".tgz", ".gz"}:
        with tarfile.open(path) as packed:
            return {
                member.name: read.read()
                for member in packed.getmembers()
                if (read := packed.extractfile(member)) is not None
            }
    return {path.name: path.read_bytes()}


def differences(first: Path, second: Path) -> list[str]:
    """A sentence for each file that is not the same bytes in both folders."""
    found = []
    names = [{path.name for path in folder.iterdir()} for folder in (first, second)]
    found += [f"{name} was made once only" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if (first / name).read_bytes() == (second / name).read_bytes():
            continue
        one, other = members(first / name), members(second / name)
        inside = sorted(
            each for each in one.keys() | other.keys() if one.get(each) != other.get(each)
        )
        where = ", ".join(inside) or "the archive itself, not the files in it"
        found.append(f"{name} differs between two builds: {where}")
    return found

"""The steps of a Dockerfile, done in a folder that becomes the image's root. Needs root and Linux.

What comes of the base image is this machine's: ``python`` is the one that runs the tests, and
/usr is mounted read-only, so that commands have a shell, libraries and a C compiler. What a base
image lacks of that is not shown; ``BASE_LIBRARIES`` says what python:3.13-slim surely has.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from dockerfiles import NotUnderstoodError, ignored, read_stages

BASE_IMAGES = {"python:3.13", "python:3.13-slim"}
# Shared libraries of Debian's own packages that are in python:3.13-slim: libc6, libgcc-s1,
# libstdc++6, zlib1g, and Python's own needs.
BASE_LIBRARIES = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libdl.so.2", "libm.so.6",
    "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2", "libgcc_s.so.1",
    "libstdc++.so.6", "libz.so.1", "libcrypt.so.1",
}  # fmt: skip
_LINKS = ("bin", "sbin", "lib", "lib64")
# What programs of the base image look into, beside /usr.
_FILES = (
    "etc/ssl", "etc/alternatives", "etc/ld.so.cache", "etc/resolv.conf", "etc/hosts",
    "etc/nsswitch.conf", "etc/pip.conf", "dev/null", "dev/zero", "dev/urandom", "dev/full",
)  # fmt: skip
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:20000:0:99999:7:::\n",
    "etc/gshadow": "root:*::\n",
}
# Of the surroundings, what pip needs to reach an index.
_FOR_PIP = ("PIP_", "SSL_CERT", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy",
            "https_proxy", "no_proxy", "NO_PROXY")  # fmt: skip


def cannot():
    """Why steps cannot be done here; empty where they can."""
    if os.geteuid() != 0:
        return (
            "the steps of a Dockerfile are done here with mounts and as other users: run this as "
            "root (sudo make images-test), or in a container"
        )
    for program in ("unshare", "setpriv", "chroot"):
        if shutil.which(program) is None:
            return f"{program} is not there (Debian: the packages util-linux and coreutils)"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"mounts are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


class Image:
    """A folder that is a root, and how programs are started in it."""

    def __init__(self, root, environment=None, user=("0", "0"), directory="/", entrypoint=()):
        self.root = root
        self.environment = dict(environment or {})
        self.user = user
        self.directory = directory
        self.entrypoint = entrypoint

    def copy(self, root):
        """The same in a folder of its own, for a stage that goes on from here."""
        subprocess.run(["cp", "-a", "--reflink=auto", self.root, root], check=True)
        return Image(root, self.environment, self.user, self.directory, self.entrypoint)

    def files(self):
        """The files that a registry would hold, from the root."""
        found = []
        for folder, folders, names in os.walk(self.root):
            if Path(folder) == self.root:
                folders[:] = [name for name in folders if name not in {"usr", "dev", "proc", "etc"}]
            found += [str(Path(folder, name).relative_to(self.root)) for name in names]
        return sorted(found)

    def run(self, command, *, more=(), read_only=True, check=True, timeout=120):
        """Start ``command`` as a kubelet would: its user, no capabilities, /tmp writable."""
        return self._in_root(
            command, dict(self.environment) | dict(more), read_only, check, timeout,
            drop=self.user != ("0", "0"),
        )  # fmt: skip

    def step(self, line):
        """Do one RUN: with the network, and everything writable."""
        outside = {name: value for name, value in os.environ.items() if name.startswith(_FOR_PIP)}
        environment = outside | {"HOME": "/root", "PATH": _path()} | self.environment
        self._in_root(["/bin/sh", "-c", line], environment, False, True, 1200, drop=False)

    def command(self, words, environment, *, read_only, drop):
        """The command outside that starts ``words`` inside."""
        root = shlex.quote(str(self.root))
        script = [f"mount --bind {root} {root}", f"cd {root}"]
        script += [f"mount --bind -o ro {source} .{source}" for source in ("/usr", _prefix())]
        script.append("mount -t proc proc ./proc")
        script += [
            f"mount --bind {'' if name.startswith('dev/') else '-o ro '}/{name} ./{name}"
            for name in _FILES
            if Path("/", name).exists()
        ]
        if read_only:
            # As in deploy/base: a read-only root, and an emptyDir on /tmp.
            script += ["mount -o remount,bind,ro .", "mount -t tmpfs -o mode=1777 tmp ./tmp"]
        identity = ""
        if drop:
            uid, gid = self.user
            identity = (
                f"setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs "
                "--bounding-set=-all --inh-caps=-all "
            )
        variables = " ".join(shlex.quote(f"{n}={v}") for n, v in environment.items())
        script.append(
            f"exec chroot . /usr/bin/env -i -C {shlex.quote(self.directory)} {variables} "
            f"{identity}{shlex.join(words)}"
        )
        return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", "\n".join(script)]

    def _in_root(self, words, environment, read_only, check, timeout, *, drop):
        environment.setdefault("PATH", _path())
        command = self.command(words, environment, read_only=read_only, drop=drop)
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and result.returncode:
            last = "\n".join((result.stdout + result.stderr).splitlines()[-25:])
            msg = f"{shlex.join(words)} ended with {result.returncode}:\n{last}"
            raise RuntimeError(msg)
        return result


class Builder:
    """Builds stages of one Dockerfile into folders below ``scratch``, each once."""

    def __init__(self, context, dockerfile, scratch):
        self.context = context
        self.scratch = scratch
        self.stages = read_stages(dockerfile.read_text())
        self.left_out = (context / ".dockerignore").read_text()
        self._built = {}

    def build(self, name):
        """The image of a stage, and of those that it needs."""
        if name not in self._built:
            stage, root = self.stages[name], self.scratch / name
            if stage.base in self.stages:
                image = self.build(stage.base).copy(root)
            elif stage.base in BASE_IMAGES:
                image = _base(root)
            else:
                msg = f"FROM {stage.base}: say in image_roots.py what this base image has"
                raise NotUnderstoodError(msg)
            for instruction in stage.instructions:
                self._perform(image, instruction)
            self._built[name] = image
        return self._built[name]

    def _perform(self, image, instruction):
        words = instruction.words
        match instruction.kind:
            case "WORKDIR":
                image.directory = words[0]
                (image.root / words[0].lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                for name, value in zip(words[::2], words[1::2], strict=True):
                    path = image.environment.get("PATH", _path())
                    image.environment[name] = value.replace("$PATH", path)
            case "USER":
                image.user = words
            case "ENTRYPOINT":
                image.entrypoint = words
            case "RUN":
                image.step(words[0])
            case "COPY":
                source, target = words
                into = image.root / os.path.normpath(f"{image.directory}/{target}").lstrip("/")
                if target.startswith("/"):
                    into = image.root / target.lstrip("/")
                if instruction.from_stage:
                    other = self.build(instruction.from_stage).root
                    into.mkdir(parents=True, exist_ok=True)
                    subprocess.run(
                        ["cp", "-a", f"{other / source.lstrip('/')}/.", into], check=True
                    )
                else:
                    self._copy_context(source, into)

    def _copy_context(self, source, into):
        """As Docker copies: a folder's content, without what .dockerignore leaves out."""
        copied = 0
        for name in context_files(self.context, self.left_out, source):
            copy = into / Path(name).relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.context / name, copy)
            copied += 1
        if not copied:
            msg = f"COPY {source}: not in the build context, or .dockerignore leaves it out"
            raise FileNotFoundError(msg)


def context_files(context, left_out, below="."):
    """The files of the build context below a folder."""
    for folder, folders, names in os.walk(context / below):
        here = Path(folder).relative_to(context)
        folders[:] = [name for name in folders if not ignored(left_out, here / name)]
        for name in names:
            if not ignored(left_out, here / name) and not (Path(folder) / name).is_symlink():
                yield here / name


def _base(root):
    for name in ("usr", "proc", "tmp", "root", "etc", "dev", _prefix().lstrip("/")):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in _LINKS:
        (root / name).symlink_to(f"usr/{name}")
    for name, text in _ACCOUNTS.items():
        (root / name).write_text(text)
    for name in _FILES:
        here = Path("/", name)
        if here.is_dir():
            (root / name).mkdir(parents=True, exist_ok=True)
        elif here.exists():
            (root / name).touch()
    (root / "tmp").chmod(0o1777)
    return Image(root)


def _prefix():
    """Where the Python lives that stands for the base image's."""
    return str(Path(sys.base_prefix).resolve())


def _path():
    return f"{_prefix()}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

"""Stands before a program while a page is followed: ``page_program.py NAME ARGUMENTS``.

What a page says is typed as it stands. What would change the shared cluster is done by the API
server with ``--dry-run=server``: checked, admitted, and not stored. What would run for ever is
ended, and what needs Docker is passed over.
"""

import argparse
import hashlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

CHANGES = {
    "apply", "create", "delete", "patch", "label", "annotate", "taint", "scale", "drain", "cordon",
    "uncordon", "replace", "autoscale", "edit", "set", "run", "expose",
}  # fmt: skip
# Flags of kubectl with a value of their own, which may stand before the verb.
WITH_VALUE = {"-n", "--namespace", "--context", "--kubeconfig"}
WAIT_SECONDS = 240
# Enough for a table: a page's own number of requests takes up to a minute.
NUM_REQUESTS = "60"


def run(command, *, good=(0,)):
    code = subprocess.run(command, check=False).returncode
    sys.exit(0 if code in good else code)


def verb_of(args):
    skip = False
    for word in args:
        if skip or word in WITH_VALUE:
            skip = not skip
        elif not word.startswith("-"):
            return word
    return ""


def kubectl(args):
    program = os.environ["PAGE_KUBECTL"]
    verb = verb_of(args)
    args = [word for word in args if word not in {"-w", "--watch"}]
    if verb == "port-forward":
        what = args[args.index("port-forward") + 1]
        scope = ["-n", args[args.index("-n") + 1]] if "-n" in args else []
        what = what if "/" in what else f"pod/{what}"
        # The emulated release has no Service: pods have addresses of this machine.
        run(["true"] if what == "svc/memroute-router" else [program, "get", what, *scope])
    if verb == "wait":
        args.append(f"--timeout={WAIT_SECONDS}s")
    if verb in CHANGES and not os.environ["PAGE_CHANGES"]:
        at = args.index("--") if "--" in args else len(args)
        args[at:at] = ["--dry-run=server"]
        args += ["--ignore-not-found"] if verb == "delete" else []
        args += ["--force-conflicts"] if "--server-side" in args else []
    if verb not in {"create", "taint"}:
        run([program, *args])
    result = subprocess.run([program, *args], capture_output=True, text=True, check=False)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    # What an earlier command would have made, or taken away, is as it was.
    left_out = "already exists" if verb == "create" else "not found"
    sys.exit(0 if left_out in result.stderr else result.returncode)


def helm(args):
    program, verb = os.environ["PAGE_HELM"], verb_of(args)
    if verb == "install":  # a release of that name may be there
        args = ["upgrade", "--install", *(word for word in args if word != "install")]
    if verb in {"install", "upgrade", "rollback"}:
        args = [word for word in args if word != "--wait"] + ["--dry-run=server"]
        result = subprocess.run([program, *args], capture_output=True, text=True, check=False)
        sys.stderr.write(result.stderr)
        # The shared release is at its first revision: there is none to go back to.
        is_first = verb == "rollback" and "has no 0 version" in result.stderr
        sys.exit(0 if is_first else result.returncode)
    if verb == "test":
        args = ["status", *(word for word in args if word not in {"test", "--logs"})]
    run([program, *args, *(["--dry-run"] if verb == "uninstall" else [])])


def memroute(args):
    verb = verb_of(args)
    if verb == "demo":
        sys.exit(0)  # tests/e2e/test_demo.py runs it
    if verb == "simulate" and "--list" not in args:
        args += ["--requests", NUM_REQUESTS]
    if verb == "explain" and "-n" not in args and not os.environ["PAGE_CHANGES"]:
        args += ["-n", os.environ["PAGE_NAMESPACE"]]  # others have models of these names too
    if "--router" not in args and verb == "decisions":
        args += ["--router", os.environ["OPERATIONS"]]
    if "--router" not in args and "--request" in args:
        args += ["--router", os.environ["ROUTER"]]
    args = [word for word in args if word not in {"-w", "--watch"}]
    # 1: something does not fit, or does not serve, and is told. 2: nothing could be told.
    run([sys.executable, "-m", "memroute_cli", *args], good=(0, 1))


def curl(args):
    for port, name in (("8000", "ROUTER"), ("8002", "OPERATIONS")):
        for host in ("localhost", "127.0.0.1"):
            args = [
                word.replace(f"http://{host}:{port}", f"{host}:{port}").replace(
                    f"{host}:{port}", os.environ[name]
                )
                for word in args
            ]
    run([os.environ["PAGE_CURL"], "--max-time", "120", *args])


def jq(args):
    program = os.environ.get("PAGE_JQ")
    if program:
        run([program, *args])
    json.load(sys.stdin)


def make(args):
    run([os.environ["PAGE_MAKE"], "-n", "-C", os.environ["PAGE_REPOSITORY"], *args])


def parsed(module, args):
    """Run a program until its own parser has read every argument."""
    read = argparse.ArgumentParser.parse_args

    def parse_and_end(self, *given, **named):
        read(self, *given, **named)
        sys.exit(0)

    argparse.ArgumentParser.parse_args = parse_and_end
    sys.argv = [module, *args]
    sys.path.insert(0, os.environ["PAGE_REPOSITORY"])
    sys.path.insert(0, "")
    runpy.run_module(module, run_name="__main__")
    sys.exit(f"{module} parsed nothing")


def python(args):
    if args[:1] != ["-m"]:
        sys.exit(f"nobody knows what this is: python {args}")
    parsed(args[1], args[2:])


def router(args):
    from memroute_router.settings import parse_settings

    parse_settings(args)


def fetch(args):
    from memroute_fetch.settings import parse_options

    parse_options(args)


def simulator(args):
    parsed("memroute_simulator", args)


PROGRAMS = {
    "kubectl": kubectl, "helm": helm, "memroute": memroute, "curl": curl, "jq": jq, "make": make,
    "python": python, "memroute-router": router, "memroute-fetch": fetch,
    "memroute-simulator": simulator,
}  # fmt: skip


def mark_of(name, args):
    """The file that says that the same was done before; None where doing it again tells more.

    Many pages begin with ``memroute doctor``: once is enough, unless somebody reads what it prints,
    or it reads a file, which is another one on the next page.
    """
    folder = Path(os.environ["PAGE_SEEN"])
    if os.environ["PAGE_CHANGES"] or any(Path(word).is_file() for word in args):
        return None
    if not os.path.samestat(os.fstat(1), (folder / "shown").stat()):
        return None
    return folder / f"seen-{hashlib.sha256(repr((name, args)).encode()).hexdigest()}"


def main(name, args):
    mark = mark_of(name, args)
    if mark is not None and mark.exists():
        return 0
    try:
        PROGRAMS.get(name, lambda _: None)(args)
        code = 0
    except SystemExit as end:
        code = end.code
    if mark is not None and not code:
        mark.touch()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

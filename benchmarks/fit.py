"""The whole of `mavis fit` as its user sees it: time, memory and what came out.

python benchmarks/fit.py --objective humor
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from clock import report
from jsonargparse import auto_cli

GIB = 1024**2  # of the kibibytes in which the system counts memory


def fit(objective: str = "humor", options: Sequence[str] = ()) -> dict[str, Any]:
    """Run `mavis fit` in a new process with one thread, in a folder that is thrown away.

    Args:
        objective: name of an installed objective.
        options: more words for the command line, such as --data.rounds=1.
    """
    with TemporaryDirectory() as folder:
        out = Path(folder) / "runs" / objective
        program = "import sys; from mavis.cli.main import main; sys.exit(main())"
        words = ["fit", "--objective", objective, "--out", str(out), *options]
        begin = perf_counter()
        subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=sys.stderr,
            check=True,
        )
        wall = perf_counter() - begin
        rounds = json.loads((out / "metrics.json").read_text())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = used.ru_maxrss / GIB
    return {
        "benchmark": "fit",
        "objective": objective,
        "options": list(options),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(peak, 2),
        "targets": {
            "wall_seconds": {"target": "at most 150", "met": wall <= 150},
            "peak_gib": {"target": "at most 2", "met": peak <= 2},
        },
        "rounds": rounds,
    }


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    report(auto_cli(fit, args=args, as_positional=False))


if __name__ == "__main__":
    main()

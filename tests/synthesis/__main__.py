"""PYTHONPATH=tests python -m synthesis build/hls: what the checks of synthesizable C++ find in a project; exit code 1: something."""

from __future__ import annotations

import sys
from pathlib import Path

from synthesis.lint import lint_project


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "attnc_top.cpp").is_file():
        print(__doc__, file=sys.stderr)
        return 2
    found = lint_project(Path(sys.argv[1]))
    print("\n".join(map(str, found)) or "no finding")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m attnc_host selftest app.zip`, `python -m attnc_host serve app.zip`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from attnc_host import selftest
from attnc_host.backends import names
from attnc_host.errors import AcceleratorError
from attnc_host.json_file import write_json

OK, DIFFERENT, ERROR = 0, 1, 2


def main(given: Sequence[str] | None = None) -> int:
    """The exit code: 0 when every byte equals golden, 1 when not, 2 after an error; of a service 0 when it was asked to end."""
    from attnc_host.serve import command

    parser = argparse.ArgumentParser(prog="python -m attnc_host", description="The runtime of attnc.")
    commands = parser.add_subparsers(dest="command", required=True)
    test = commands.add_parser("selftest", help="golden vectors bit for bit, latency, throughput, power")
    test.add_argument("build", type=Path, help="an archive (attnc package), or a build folder")
    test.add_argument("--backend", default="auto", choices=["auto", *names()], help="by default the board that is here")
    test.add_argument("--runs", type=int, default=selftest.RUNS, help="samples to time (%(default)s)")
    test.add_argument("--output", type=Path, help="file for the facts; measured.json by default, on a device")
    test.add_argument("--timeout", type=float, help="seconds per sample")
    test.add_argument("--checks", choices=["none", "open", "all"], help="see attnc_host/driver.py")
    command.add_arguments(commands.add_parser("serve", help="HTTP: inference, text of decoders, metrics, a page to try the model"))
    arguments = parser.parse_args(given)
    try:
        if arguments.command == "selftest":
            return _selftest(arguments)
        command.serve_arguments(arguments)
        return OK
    except (AcceleratorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR


def _selftest(arguments: argparse.Namespace) -> int:
    options = {name: value for name in ("timeout", "checks") if (value := getattr(arguments, name)) is not None}
    facts = selftest.selftest(arguments.build, arguments.backend, arguments.runs, options)
    print(selftest.text(facts))
    output = arguments.output or (Path("measured.json") if facts["hardware"] else None)
    if output is not None:
        write_json(facts, output)
        print(f"written     {output}")
    return DIFFERENT if facts["mismatches"] else OK


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What other libraries take for batch normalization over the shapes of suites.json. See README.md beside this file."""

import argparse
import os
import re
import sys
from pathlib import Path

# No __pycache__ among the sources, which are packaged as they lie here.
sys.dont_write_bytecode = True

from peer import PEERS  # noqa: E402
from rows import BYTES, LAYOUTS, OPERATIONS, SUITES, BadRow, Row, read_suites  # noqa: E402
from serve import private_stdout, serve, write  # noqa: E402


class Refused(Exception):
    """Ends the program with one line on stderr and exit code 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise Refused(message)


def parser() -> Parser:
    this = Parser(prog="peers.py", description=__doc__, allow_abbrev=False)
    this.add_argument("--serve", action="store_true", help="answer requests on stdin, a line of JSON each")
    this.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where torch sees one")
    this.add_argument("--threads", type=whole, metavar="N", help="of torch on the CPU; default: torch's own choice")
    this.add_argument("--peer", action="append", choices=PEERS, help="may be repeated, as the next four; default: all")
    this.add_argument("--operation", action="append", choices=OPERATIONS)
    this.add_argument("--layout", action="append", choices=LAYOUTS)
    this.add_argument("--dtype", action="append", choices=BYTES)
    this.add_argument("--suite", action="append", metavar="NAME")
    this.add_argument("--rows", type=pattern, metavar="REGEX", help="found in 'SUITE/NAME n=N LAYOUT DTYPE'")
    this.add_argument("--seconds", type=seconds, default=0.2, metavar="S", help="for each way to time; default: 0.2")
    this.add_argument("--limit-bytes", type=whole, metavar="B", help="leave out what needs more memory")
    this.add_argument("--json", type=Path, metavar="FILE")
    this.add_argument("--suites", type=Path, default=SUITES, metavar="FILE", help="default: the one beside this folder")
    return this


def whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"from 0 to 3600, not {text}")
    return value


def pattern(text: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def selected(arguments) -> list[Row]:
    """The rows that the arguments leave."""
    try:
        rows = read_suites(arguments.suites)
    except BadRow as error:
        raise Refused(str(error)) from error
    unknown = set(arguments.suite or ()) - {row.suite for row in rows}
    if unknown:
        raise Refused(f"{arguments.suites} has no suite {', '.join(sorted(unknown))}")
    rows = [
        row
        for row in rows
        if (not arguments.suite or row.suite in arguments.suite)
        and (not arguments.layout or row.layout in arguments.layout)
        and (not arguments.dtype or row.dtype in arguments.dtype)
        and (not arguments.rows or arguments.rows.search(str(row)))
    ]
    if not rows:
        raise Refused("the arguments leave no row")
    return rows


def open_bench(arguments):
    """The device and its peers. `Refused` without torch, or without the device."""
    # Before torch is imported. Threads that wait must not spin: a parent that measures itself meanwhile would have less
    # of the machine, and on a machine that is not idle a spinning team waits out time slices of 10 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    try:
        import torch
    except Exception as error:  # a broken installation raises more than ImportError
        raise Refused(f"torch does not import: {type(error).__name__}: {error}".splitlines()[0]) from error
    from bench import Bench

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("torch sees no CUDA device")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return Bench(device, tuple(arguments.peer or PEERS), arguments.limit_bytes)


def run_server(arguments) -> None:
    lines = private_stdout()
    try:
        try:
            bench = open_bench(arguments)
        except Refused as error:
            write(lines, {"reason": str(error)})
            return
        from machine import greeting

        write(lines, greeting(bench))
        serve(bench, sys.stdin.buffer, lines)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone, and whatever is still to be flushed has no reader


def run_report(arguments) -> None:
    rows = selected(arguments)
    # Before the hours that it may take.
    if arguments.json and (arguments.json.is_dir() or not os.access(arguments.json.absolute().parent, os.W_OK)):
        raise Refused(f"{arguments.json} cannot be written")
    bench = open_bench(arguments)
    from report import report, write_whole

    document = report(bench, rows, arguments.operation or list(OPERATIONS), arguments.seconds)
    if arguments.json:
        write_whole(arguments.json, document)


def main() -> int:
    try:
        arguments = parser().parse_args()
        run_server(arguments) if arguments.serve else run_report(arguments)
    except Refused as error:
        print(f"peers.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

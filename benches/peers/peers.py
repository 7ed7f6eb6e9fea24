#!/usr/bin/env python3
"""Other libraries' part of `batchnorm bench`: a line of JSON in, a line of JSON out. See README.md beside this file."""

import argparse
import json
import os
import sys

# No __pycache__ among the sources, which are packaged as they lie here.
sys.dont_write_bytecode = True

from peer import PEERS, Unavailable, reason_of  # noqa: E402
from rows import row_of  # noqa: E402


def parser() -> argparse.ArgumentParser:
    # A refusal is one line without the usage.
    this = argparse.ArgumentParser("peers.py", usage=argparse.SUPPRESS, description=__doc__, allow_abbrev=False)
    this.add_argument("--device", choices=("cpu", "cuda"), required=True)
    this.add_argument("--threads", type=whole, metavar="N", help="of torch on the CPU; default: torch's own choice")
    this.add_argument("--peer", action="append", choices=PEERS, help="may be repeated; default: all")
    return this


def whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return value


def private_stdout():
    """stdout for the protocol alone: what libraries print goes to stderr, from C too."""
    sys.stdout.flush()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return lines


def open_bench(arguments):
    """The device and its peers. `Unavailable` without torch, or without the device."""
    # OpenMP reads this as torch is imported. Threads that wait must not spin: a parent that measures itself meanwhile would
    # have less of the machine, and a spinning team waits out time slices of 10 ms on a machine that is not idle.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    try:
        import torch
    except Exception as error:  # a broken installation raises more than ImportError
        raise Unavailable(f"torch does not import: {reason_of(error)}") from error
    from bench import Bench

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA device")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return Bench(arguments.device, tuple(arguments.peer or PEERS))


def serve(bench, requests, lines) -> None:
    """Answers until the end of the input, or {"request": "end"}."""
    for request in requests:
        if not request.strip():
            continue
        try:
            value = json.loads(request)
            if not isinstance(value, dict):
                raise ValueError("a request is an object")
            if value.get("request") == "end":
                return
            response = answer(bench, value)
        except Exception as error:  # a request may not end the loop, whatever it asks for
            response = {"reason": reason_of(error)}
        write(lines, response)


def answer(bench, value: dict) -> dict:
    kind = value.get("request")
    if kind == "row":
        reason = bench.open(row_of(value))
        return {"reason": reason} if reason else {"ok": True}
    if kind == "time":
        seconds = value.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3600:
            raise ValueError(f"seconds is a number from 0 to 3600, not {seconds!r}")
        return response_of(bench.measure(value.get("peer"), value.get("operation"), seconds))
    raise ValueError(f"a request is row, time or end, not {kind!r}")


def response_of(ways: dict) -> dict:
    """{"samples": [...]} for the CPU; for CUDA a list a way, empty where "reasons" says why."""
    if "reason" in ways:
        return ways
    if "call" in ways:
        return {"samples": ways["call"]}
    response = {way: samples if isinstance(samples, list) else [] for way, samples in ways.items()}
    reasons = {way: samples for way, samples in ways.items() if isinstance(samples, str)}
    return response | ({"reasons": reasons} if reasons else {})


def write(lines, value: dict) -> None:
    lines.write(json.dumps(value, allow_nan=False) + "\n")
    lines.flush()


def main() -> None:
    arguments = parser().parse_args()
    lines = private_stdout()
    try:
        try:
            bench = open_bench(arguments)
        except Unavailable as error:
            return write(lines, {"reason": str(error)})
        write(lines, bench.greeting())
        serve(bench, sys.stdin.buffer, lines)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone, and whatever is still to be flushed has no reader


if __name__ == "__main__":
    main()

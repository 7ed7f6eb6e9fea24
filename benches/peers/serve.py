"""The protocol for a parent process: a line of JSON in, a line of JSON out."""

import json
import os
import sys

from peer import reason_of
from rows import row_of


def private_stdout():
    """stdout for the protocol alone: what libraries print goes to stderr, from C too."""
    sys.stdout.flush()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return lines


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


"""All rows at once: progress on stderr, a table on stdout, everything in JSON."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench import Bench
from machine import clocks, device_name, versions
from rows import Row
from timing import summary

# The first of these that was measured is the table's time.
WAYS = ("call", "graph", "eager", "host")


def report(bench: Bench, rows: list[Row], operations: list[str], seconds: float) -> dict:
    """Measures, prints, and returns what the JSON file holds."""
    document = {
        "device": device_name(bench.device),
        "versions": versions(bench.device),
        "threads": torch.get_num_threads(),
        "command": sys.orig_argv,
        "seconds": seconds,
        "peers": bench.described(),
        "rows": [],
    }
    print_peers(document)
    started = time.monotonic()
    for number, row in enumerate(rows, 1):
        entry = measure_row(bench, row, operations, seconds)
        document["rows"].append(entry)
        print_row(row, entry, bench.missing)
        state = f"{entry.get('reason', 'done')} ({time.monotonic() - started:.0f} s)"
        print(f"[{number}/{len(rows)}] {row}: {state}", file=sys.stderr, flush=True)
    return document


def measure_row(bench: Bench, row: Row, operations: list[str], seconds: float) -> dict:
    entry = {
        "suite": row.suite,
        "name": row.name,
        "count": row.count,
        "n": row.n,
        "c": row.c,
        "spatial": list(row.spatial),
        "offset": row.offset,
        "layout": row.layout,
        "dtype": row.dtype,
        "clocks_before": clocks(bench.device),
    }
    reason = bench.open(row)
    if reason:
        return entry | {"reason": reason, "results": []}
    entry["sets"] = bench.sets
    entry["results"] = [
        {"operation": operation, "peer": name, "bytes": row.moved_bytes(operation)}
        | summarized(bench.measure(name, operation, seconds))
        for operation in operations
        for name in bench.names
    ]
    entry["clocks_after"] = clocks(bench.device)
    return entry


def summarized(ways: dict) -> dict:
    """Each way's samples with their middle and ends, or {"reason": ...} in their place."""
    if "reason" in ways:
        return ways
    return {way: summary(of) if isinstance(of, list) else {"reason": of} for way, of in ways.items()}


def print_peers(document: dict) -> None:
    found = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    print(f"{document['device']}, {document['threads']} threads; {found}")
    for peer in document["peers"]:
        print(f"  {peer['name']}: {peer.get('includes') or 'left out: ' + peer['reason']}")
    print(f"\n{'row':<44} {'operation':<18} {'peer':<14} {'microseconds':>13} {'GB/s':>8}  of", flush=True)


def print_row(row: Row, entry: dict, missing) -> None:
    if "reason" in entry:
        print(f"{row!s:<44} left out: {entry['reason']}", flush=True)
    for result in entry["results"]:
        if result["peer"] not in missing:  # said once, above the table
            print(f"{row!s:<44} {result['operation']:<18} {result['peer']:<14} {columns(result)}", flush=True)


def columns(result: dict) -> str:
    """The first way's time and rate, and the other ways' times."""
    times = {way: result[way]["median"] for way in WAYS if "median" in result.get(way, {})}
    reasons = [f"{way}: {result[way]['reason']}" for way in WAYS if "reason" in result.get(way, {})]
    if not times:
        reason = result.get("reason") or "; ".join(reasons)
        return f"{'-':>13} {'-':>8}  {reason[:100]}"  # the JSON has all of it
    first, *others = times
    rest = "".join(f", {way} {times[way] * 1e6:.2f}" for way in others)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return f"{times[first] * 1e6:13.2f} {result['bytes'] / times[first] / 1e9:8.1f}  {first}{rest}{why}"


def write_whole(path: Path, document: dict) -> None:
    """The file appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(temporary, 0o644)  # mkstemp's is the owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

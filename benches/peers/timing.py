"""Seconds per call, in samples. A way that cannot be measured is a reason in place of its samples."""

import gc
import statistics
import time
from contextlib import contextmanager
from math import ceil

import torch

from peer import Peer, reason_of

LEAST_SAMPLES = 5
MOST_SAMPLES = 1000
# Seconds of a call below which the clock's own time shows: a sample is then as many calls as take twice this.
SHORT_CALL = 50e-6
WARM_UP = 0.05
# The least length of a device sample: events resolve half a microsecond.
DEVICE_SAMPLE = 0.01
LEAST_LAUNCHES = 20
# Launches of a sample of the host's time, at most: more would make the host wait for the device's queue.
MOST_HOST_CALLS = 100


def taken(sample, seconds: float) -> list[float]:
    """At least five samples, and as many as fit into the time."""
    samples = []
    with no_collection():
        end = time.perf_counter() + seconds
        while len(samples) < LEAST_SAMPLES or (time.perf_counter() < end and len(samples) < MOST_SAMPLES):
            samples.append(sample())
    return samples


@contextmanager
def no_collection():
    """Python's garbage is not what is measured."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def host_ways(call, seconds: float) -> dict[str, list[float]]:
    """A call that returns when it is done, by the host's clock. What it returned is freed outside the time."""

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        elapsed = time.perf_counter() - start
        del result
        return elapsed / calls

    end = time.perf_counter() + min(WARM_UP, seconds)
    last = [timed(1) for _ in range(3)]
    while time.perf_counter() < end:
        last.append(timed(1))
    typical = statistics.median(last[-5:])
    calls = 1 if typical >= SHORT_CALL else ceil(2 * SHORT_CALL / max(typical, 1e-7))
    return {"call": taken(lambda: timed(calls), seconds)}


def device_ways(peer: Peer, calls: list, seconds: float) -> dict[str, list[float] | str]:
    """The calls of all sets in turn on the GPU, as a graph, back to back, and by the host's clock."""
    launches = len(calls) * ceil(LEAST_LAUNCHES / len(calls))
    # Outputs stay until their set comes again, so that they are as cold as the inputs.
    ring = [None] * len(calls)

    def run(count: int):
        for index in range(count):
            at = index % len(calls)
            ring[at] = calls[at]()

    def settle():
        if peer.own_stream:
            peer.wait(ring)
        torch.cuda.synchronize()

    peer.use_current_stream()
    run(launches)
    settle()
    ways: dict[str, list[float] | str] = {}
    if peer.own_stream:
        ways["graph"] = "it launches on a stream of its own"
        back_to_back = by_clock(run, settle, launches)
    else:
        back_to_back = by_events(calls[-1], lambda: run(launches), launches)
    warm(back_to_back)
    ways["eager"] = taken(back_to_back, seconds)

    host_calls = min(launches, MOST_HOST_CALLS)

    def host() -> float:
        settle()
        start = time.perf_counter()
        run(host_calls)
        return (time.perf_counter() - start) / host_calls

    ways["host"] = taken(host, seconds)
    settle()
    if "graph" not in ways:
        # Last: a capture that failed may leave the device in no state to be measured.
        ring[:] = [None] * len(calls)
        ways["graph"] = graph_samples(peer, run, launches, seconds)
        peer.use_current_stream()
    return ways


def graph_samples(peer: Peer, run, launches: int, seconds: float) -> list[float] | str:
    stream = torch.cuda.current_stream()
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            peer.use_current_stream()
            run(launches)
        once = by_events(graph.replay, graph.replay, launches)
        warm(once)
        replays = max(1, ceil(DEVICE_SAMPLE / (once() * launches)))

        def replay():
            for _ in range(replays):
                graph.replay()

        return taken(by_events(graph.replay, replay, replays * launches), seconds)
    except Exception as error:  # whatever the peer's library raises while it is captured
        # Ending a capture that broke raises too, and leaves its stream current: the first error is the reason.
        torch.cuda.set_stream(stream)
        return reason_of(error.__context__ or error)


def by_events(before, run, count: int):
    """A sample between two events, after `before`, so that the device has work while the host queues."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def sample() -> float:
        before()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / count

    return sample


def by_clock(run, settle, count: int):
    """A sample by the host's clock, to the end of the last call."""

    def sample() -> float:
        settle()
        start = time.perf_counter()
        run(count)
        settle()
        return (time.perf_counter() - start) / count

    return sample


def warm(sample):
    """Runs samples until the clocks had time to rise."""
    end = time.perf_counter() + WARM_UP
    sample()
    while time.perf_counter() < end:
        sample()

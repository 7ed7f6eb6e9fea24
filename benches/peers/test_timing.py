"""`python3 test_timing.py`: how calls are timed. Skipped without torch."""

import sys
import time
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    import torch

    from torch_peers import Torch
except ImportError:
    torch = None

needs_torch = unittest.skipIf(torch is None, "torch does not import")


class FakeEvent:
    def __init__(self, **_):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return max(end.at - self.at, 1e-9) * 1e3


class FakeGraph:
    def replay(self):
        time.sleep(1e-4)


@needs_torch
class Timing(unittest.TestCase):
    def test_as_many_samples_are_taken_as_fit(self):
        import timing

        self.assertEqual(len(timing.taken(lambda: 0.0, 0)), timing.LEAST_SAMPLES)
        self.assertEqual(len(timing.taken(lambda: 0.0, 10)), timing.MOST_SAMPLES)
        slow = timing.taken(lambda: time.sleep(0.01), 0.2)
        self.assertTrue(timing.LEAST_SAMPLES < len(slow) <= 20, len(slow))

    def test_short_calls_are_timed_together(self):
        from timing import host_ways

        calls = []
        samples = host_ways(lambda: calls.append(time.perf_counter()), 0)["call"]
        self.assertGreater(len(calls), 20 * len(samples))
        calls.clear()
        samples = host_ways(lambda: calls.append(time.sleep(2e-4)), 0)["call"]
        self.assertEqual(len(calls), 3 + len(samples))


@needs_torch
class OnDevice(unittest.TestCase):
    """The order of calls, with the device played by the host."""

    def ways(self, sets: int, capture=None):
        from timing import device_ways

        order, peer = [], Torch("cpu")
        calls = [lambda i=index: order.append(i) for index in range(sets)]
        fakes = {"Event": FakeEvent, "CUDAGraph": FakeGraph, "graph": capture or mock.MagicMock()}
        fakes |= {"current_stream": mock.Mock(return_value="before"), "set_stream": mock.Mock()}
        fakes["synchronize"] = mock.Mock()
        with mock.patch.multiple("torch.cuda", **fakes):
            return device_ways(peer, calls, 0), order, fakes

    def test_sets_are_taken_in_turn_and_at_least_20_launches_are_timed(self):
        for sets in (1, 3, 20, 33):
            ways, order, _ = self.ways(sets)
            launches = -(-20 // sets) * sets
            self.assertEqual(order[:launches], [index % sets for index in range(launches)])
            self.assertEqual(sorted(ways), ["eager", "graph", "host"])
            for way, samples in ways.items():
                self.assertTrue(isinstance(samples, list) and len(samples) >= 5, (way, samples))

    def test_a_capture_that_fails_is_a_reason_and_gives_the_stream_back(self):
        from peers import response_of

        def capture(_):
            raise RuntimeError("operation not permitted when stream is capturing")

        ways, _, fakes = self.ways(2, capture)
        fakes["set_stream"].assert_called_once_with("before")
        response = response_of(ways)
        self.assertIn("not permitted", response["reasons"]["graph"])
        self.assertEqual((response["graph"], len(response["eager"]) >= 5), ([], True))


if __name__ == "__main__":
    unittest.main()

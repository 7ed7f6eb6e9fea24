"""`python3 test_peers.py`. What needs torch is skipped without it."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import OPERATIONS, Bound, split  # noqa: E402
from rows import BYTES, LAYOUTS, BadRow, Row, row_of  # noqa: E402

try:
    import torch

    from bench import Bench
    from inputs import DTYPES, needed_bytes
    from reference import ALLOWED
    from torch_peers import Torch
except ImportError:
    torch = None

needs_torch = unittest.skipIf(torch is None, "torch does not import")


def row(n=4, c=6, spatial=(5, 3), layout="channels-first", dtype="f32", offset=0) -> Row:
    return Row(n, c, tuple(spatial), layout, dtype, offset)


def run(*arguments, text="", path=None):
    """peers.py in a process of its own, in another folder."""
    environment = {**os.environ, "PYTHONPATH": path} if path else None
    command = [sys.executable, str(HERE / "peers.py"), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd="/", env=environment, timeout=600)


class Rows(unittest.TestCase):
    def test_values_and_bytes_are_counted(self):
        x = 4 * 6 * 15
        self.assertEqual(row().m, 60)
        self.assertEqual(row(spatial=()).elements, 24)
        self.assertEqual([row(dtype=dtype).tensor_bytes for dtype in BYTES], [4 * x, 2 * x, 2 * x])

    def test_what_is_no_row_is_refused_by_name(self):
        good = {"n": 2, "c": 3, "spatial": [4], "layout": "channels-last", "dtype": "bf16"}
        self.assertEqual(row_of(good), Row(2, 3, (4,), "channels-last", "bf16"))
        bad = (("n", 0), ("n", True), ("c", "3"), ("spatial", 4), ("spatial", [0]))
        for field, value in (*bad, ("layout", "nchw"), ("dtype", ["f32"]), ("offset", -1)):
            with self.subTest(field, value=value), self.assertRaisesRegex(BadRow, f"{field}.*not "):
                row_of({**good, field: value})


@needs_torch
class Dtypes(unittest.TestCase):
    def test_every_dtype_has_torchs_and_a_tolerance(self):
        self.assertEqual((DTYPES.keys(), ALLOWED.keys()), (BYTES.keys(), BYTES.keys()))


class CommandLine(unittest.TestCase):
    def test_bad_arguments_are_one_line_and_exit_code_2(self):
        cpu = ("--device", "cpu")
        cases = ((*cpu, "--threads", "0"), (*cpu, "--peer", "no-such-peer"), (*cpu, "--unknown"))
        for arguments in ((), ("--device", "tpu"), *cases):
            with self.subTest(arguments):
                done = run(*arguments)
                self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)

    def test_without_torch_it_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "torch.py").write_text("raise ImportError('not\\nhere')", encoding="utf-8")
            done = run("--device", "cpu", path=folder)
            self.assertEqual(done.returncode, 0)
            self.assertEqual(json.loads(done.stdout)["reason"], "torch does not import: ImportError: not")

    @needs_torch
    def test_without_the_device_it_says_so(self):
        if torch.cuda.is_available():
            self.skipTest("a device is here")
        done = run("--device", "cuda")
        self.assertEqual((done.returncode, json.loads(done.stdout)), (0, {"reason": "torch sees no CUDA device"}))


@needs_torch
class Serving(unittest.TestCase):
    def test_requests_are_answered_a_line_each_and_mistakes_do_not_end_it(self):
        shape = {"n": 2, "c": 4, "spatial": [3, 3], "layout": "channels-last", "dtype": "f16", "offset": 1}
        shape["request"] = "row"
        timed = {"request": "time", "peer": "torch", "operation": "backward-add-relu", "seconds": 0}
        requests = [
            (json.dumps(timed), "reason"),  # no row yet
            ("{malformed", "reason"),
            ("[]", "reason"),
            (json.dumps({**shape, "n": "2"}), "reason"),
            (json.dumps(shape), "ok"),
            (json.dumps(timed), "samples"),
            (json.dumps({**timed, "operation": "forward"}), "reason"),
            (json.dumps({**timed, "peer": "torch-cudnn"}), "reason"),
            (json.dumps({**timed, "peer": ["torch"]}), "reason"),
            (json.dumps({**timed, "seconds": "1"}), "reason"),
            (json.dumps(timed), "samples"),
            ('{"request": "end"}', None),
            (json.dumps(timed), None),
        ]
        text = "\n".join(request for request, _ in requests) + "\n"
        peers = ("--peer", "torch", "--peer", "torch-cudnn")
        done = run("--device", "cpu", "--threads", "1", *peers, text=text)
        self.assertEqual(done.returncode, 0, done.stderr)
        first, *answers = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual((first["versions"]["torch"], first["threads"], first["device"]), (torch.__version__, 1, "cpu"))
        self.assertEqual([sorted(peer) for peer in first["peers"]], [["includes", "name"], ["name", "reason"]])
        self.assertEqual([next(iter(answer)) for answer in answers], [key for _, key in requests if key])
        samples = answers[5]["samples"]
        self.assertTrue(len(samples) >= 5 and all(0 < seconds < 10 for seconds in samples), samples)

    def test_the_same_row_again_keeps_its_buffers_and_another_does_not(self):
        bench = Bench("cpu", ("torch",))
        self.assertIsNone(bench.open(row()))
        first = bench.buffers
        self.assertIsNone(bench.open(row()))
        self.assertIs(bench.buffers, first)
        self.assertIsNone(bench.open(row(dtype="f16")))
        self.assertIsNot(bench.buffers, first)
        self.assertIn("free", bench.open(row(n=2**40)))
        self.assertIn("no row", bench.measure("torch", "train", 0)["reason"])

    def test_an_operation_that_does_not_fit_the_memory_is_refused(self):
        bench, shape = Bench("cpu", ("torch",)), row()
        enough = needed_bytes(shape, "infer", 1, shape.elements)
        with mock.patch("bench.free_bytes", return_value=enough):
            self.assertIsNone(bench.open(shape))
            self.assertGreaterEqual(len(bench.measure("torch", "infer", 0)["call"]), 5)
            reason = bench.measure("torch", "backward-add-relu", 0)["reason"]
        self.assertRegex(reason, rf"^backward-add-relu needs \d+ bytes, and {enough} are free$")

    def test_the_end_of_the_input_ends_it(self):
        self.assertEqual(run("--device", "cpu", "--peer", "torch").returncode, 0)

    def test_what_others_print_does_not_reach_the_protocol(self):
        code = "import os, peers; lines = peers.private_stdout(); os.system('echo noise'); peers.write(lines, {'a': 1})"
        done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd=HERE)
        self.assertEqual((done.stdout, done.stderr), ('{"a": 1}\n', "noise\n"))


@needs_torch
class Right(unittest.TestCase):
    def test_torch_is_right_in_every_operation_layout_and_dtype(self):
        bench = Bench("cpu", ("torch",))
        for spatial in ((), (5,), (5, 3), (2, 3, 4)):
            for layout in LAYOUTS:
                for dtype in BYTES:
                    for offset in (0, 1):
                        shape = row(spatial=spatial, layout=layout, dtype=dtype, offset=offset)
                        self.assertIsNone(bench.open(shape))
                        x = bench.buffers[0].x
                        self.assertEqual(x.data_ptr() % 16, offset * BYTES[dtype])
                        self.assertEqual(x.stride(1) == 1, layout == "channels-last" or not spatial)
                        for operation in OPERATIONS:
                            with self.subTest(str(shape), operation=operation):
                                self.assertIsNone(bench._wrong(bench.peers["torch"], operation))

    def refused(self, operation: str, wrong, shape=None) -> str:
        """The reason against a result that `wrong(result, buffers)` changed."""

        class Wrong(Torch):
            def bind(self, operation, buffers):
                bound = super().bind(operation, buffers)
                return Bound(lambda: wrong(list(bound.call()), buffers), bound.y)

        bench = Bench("cpu", ("torch",))
        bench.peers["torch"] = Wrong("cpu")
        self.assertIsNone(bench.open(shape or row()))
        reason = bench.measure("torch", operation, 0).get("reason")
        self.assertIsNotNone(reason, operation)
        return reason

    def test_every_wrong_output_is_refused_by_name(self):
        names = {"train": "y saved_mean saved_inv_std", "infer": "y", "backward": "dx dgamma dbeta"}
        for operation in OPERATIONS:
            outputs = names[split(operation)[0]].split() + (["dz"] if operation == "backward-add-relu" else [])
            for index, name in enumerate(outputs):
                for what, change in (("scaled", lambda t: t * 1.3 + 0.1), ("NaN", lambda t: t * torch.nan)):
                    with self.subTest(operation, name=name, what=what):
                        wrong = lambda result, _, i=index, f=change: result[:i] + [f(result[i])] + result[i + 1 :]
                        self.assertRegex(self.refused(operation, wrong), f"^{name} is wrong at .*expected")

    def test_the_other_layout_is_refused_in_every_dtype(self):
        def other(result, buffers):
            y = result[0]
            return [y.movedim(1, -1).reshape(y.shape)] + result[1:]

        for dtype in BYTES:
            for operation in OPERATIONS:
                with self.subTest(operation, dtype=dtype):
                    self.assertIn("is wrong at", self.refused(operation, other, row(n=8, c=16, dtype=dtype)))

    def test_a_mask_that_is_left_out_or_of_another_sign_is_refused(self):
        forward = torch.native_batch_norm
        statistics = lambda b: (b.running_mean.clone(), b.running_var.clone(), True, 0.1, 1e-5)

        def no_relu(result, b):
            return [forward(b.x, b.gamma, b.beta, *statistics(b))[0]] + result[1:]

        def no_mask(result, b):
            _, *saved = forward(b.x, b.gamma, b.beta, *statistics(b))
            return [*Torch.backward(b.dy, b.x, b.gamma, b.running_mean, b.running_var, *saved), b.dy]

        for dtype in BYTES:
            shape = row(n=8, c=16, dtype=dtype)
            self.assertRegex(self.refused("train-relu", no_relu, shape), "^y is wrong")
            for operation in ("backward-relu", "backward-add-relu"):
                self.assertRegex(self.refused(operation, no_mask, shape), "^dx is wrong")
            self.assertRegex(self.refused("backward-add-relu", lambda r, b: r[:3] + [b.dy], shape), "^dz is wrong")

    def test_running_statistics_and_the_counter_are_looked_at(self):
        def after(change):
            return lambda result, buffers: (change(buffers), result)[1]

        self.assertRegex(self.refused("train", after(lambda b: b.running_mean.mul_(0.99))), "^running_mean")
        self.assertRegex(self.refused("train", after(lambda b: b.running_var.mul_(0.99))), "^running_var")
        self.assertRegex(self.refused("train-relu", after(lambda b: b.counter.zero_())), "^the counter")

    def test_what_a_peer_raises_is_its_reason(self):
        def broken(result, _):
            raise RuntimeError("no such kernel\nand a trace")

        self.assertEqual(self.refused("train", broken), "RuntimeError: no such kernel")


if __name__ == "__main__":
    unittest.main()

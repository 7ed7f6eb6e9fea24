#!/usr/bin/env python3
"""evidence.py over stand-ins: programs that are well, hang, fault, overrun; calls that are ended. No GPU and no build is needed.

    python3 xtask/bundle/test_evidence.py
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent

# What a test says of the stand-ins' behaviour, in files of a folder: `hang` and `fault` name a word of the command that does so.
STAND_IN = """#!/bin/sh
# $STANDIN/calls counts what ran. A child that would outlive its parent is among what must be ended.
echo "$0 $*" >>"$STANDIN/calls"
for word in "$@"; do
    if [ -e "$STANDIN/hang-$word" ]; then sleep 1000 & echo $! >>"$STANDIN/children"; wait; fi
    if [ -e "$STANDIN/fault-$word" ]; then
        [ -z "$CUDA_COREDUMP_FILE" ] || echo core >"$(dirname "$CUDA_COREDUMP_FILE")/core.$$"
        echo "batchnorm: strategy cluster: CUDA driver error 700 in cuStreamSynchronize" >&2
        exit 2
    fi
done
[ "$1" = info ] && [ -e "$STANDIN/gone" ] && { echo "batchnorm: --device cuda:0: no CUDA device" >&2; exit 2; }
input= output= before=
for word in "$@"; do
    case $before in --input) input=$word;; --output) output=$word;; --json) echo '{}' >"$word";; esac
    before=$word
done
# Both devices give the input back: they agree, unless a test says otherwise.
if [ -n "$output" ]; then
    cp "$input" "$output"
    for word in "$@"; do [ -e "$STANDIN/wrong-$word" ] && cp in-scalar-rows.safetensors "$output"; done
fi
echo "test result: ok. 3 passed"
"""

CUDA_GDB = """#!/bin/sh
# Whom it looks at must be alive, and it says of whom it was asked.
before=
for word in "$@"; do
    [ "$before" = -p ] && [ "$(cut -d' ' -f3 "/proc/$word/stat")" != Z ] && echo "Kernel 0: train_held_kernel, grid (66,1,1), of process $word"
    case $word in "target cudacore "*) [ -s "${word#target cudacore }" ] && echo "Kernel 3: CUDA Exception: Illegal Address";; esac
    before=$word
done
"""


class Evidence(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = Path(folder.name)
        self.bundle, self.out, self.work, self.says = (self.top / name for name in ("bundle", "out", "work", "says"))
        for path in (self.bundle, self.says, self.top / "bin"):
            path.mkdir()
        for name in ("batchnorm", "cuda-tests"):
            program(self.bundle / name, STAND_IN)
        (self.bundle / "smoke.py").write_bytes((HERE / "smoke.py").read_bytes())
        (self.bundle / "watch.py").write_bytes((HERE / "watch.py").read_bytes())
        (self.bundle / "built.txt").write_text("stand-ins\n")
        program(self.top / "bin" / "cuda-gdb", CUDA_GDB)

    def say(self, *names: str) -> None:
        for name in names:
            (self.says / name).touch()

    def start(self, *args: str, seconds: int = 200, out: "str | None" = None, limit: "int | None" = None) -> subprocess.Popen:
        env = {**os.environ, "STANDIN": str(self.says), "PATH": f"{self.top / 'bin'}:{os.environ['PATH']}"}
        env |= {"SMOKE_LIMIT": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(HERE / "evidence.py"), str(seconds), "--bundle", str(self.bundle)]
        command += ["--out", out or str(self.out), "--work", str(self.work), "--pace", "0.5", *args]
        limited = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=limited)

    def call(self, *args: str, **options) -> "tuple[int, str]":
        process = self.start(*args, **options)
        text = process.communicate(timeout=100)[0].decode()
        return process.returncode, text

    def calls(self) -> list[str]:
        path = self.says / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def statuses(self) -> dict[str, str]:
        steps = json.loads((self.out / "summary.json").read_text())["steps"]
        return {name: facts["status"] for name, facts in steps.items()}

    def archived(self) -> set[str]:
        with tarfile.open(self.out / "evidence.tgz") as archive:
            return {Path(name).name for name in archive.getnames()}

    def assert_all_ended(self) -> None:
        children = self.says / "children"
        pids = [int(line) for line in children.read_text().split()] if children.exists() else []
        self.assertTrue(pids, "no stand-in hung")
        for _ in range(50):
            alive = [pid for pid in pids if is_alive(pid)]
            if not alive:
                return
            time.sleep(0.1)
        self.fail(f"processes {alive} outlive the call")

    def wait_for(self, what: str, is_so) -> None:
        for _ in range(300):
            if is_so():
                return
            time.sleep(0.1)
        self.fail(f"waited for {what}")

    def test_all_is_done_once_and_three_files_come_back(self) -> None:
        code, text = self.call()
        self.assertEqual(code, 0, text)
        self.assertEqual(sorted(os.listdir(self.out)), ["evidence.tgz", "summary.json", "summary.txt"])
        self.assertLessEqual({"info.log", "smoke.log", "verify-thin.log", "facts.txt", "steps.json", "summary.txt"}, self.archived())
        self.assertFalse([name for name in self.archived() if name.startswith(("in-", "got-", "want-"))])
        self.assertIn("smoke: 58 launches, 0 bad", text)
        self.assertEqual({name for name, status in self.statuses().items() if status == "passed"} & {"smoke", "tests-priorities"},
                         {"smoke", "tests-priorities"})
        self.assertNotIn("diagnosis-probes", self.statuses())
        made = len(self.calls())
        code, text = self.call()
        self.assertEqual((code, len(self.calls())), (0, made), text)
        code, text = self.call("--again", "tests-bits")
        self.assertEqual((code, len(self.calls())), (0, made + 1), text)
        self.assertTrue(self.calls()[-1].endswith("bits::"))
        # Another build knows nothing of this one, whose results stay.
        program(self.bundle / "cuda-tests", STAND_IN + "# corrected\n")
        self.assertEqual(self.call()[0], 0)
        self.assertEqual(len(self.calls()), 2 * made + 1)
        self.assertEqual(len([path for path in self.work.iterdir() if path.is_dir()]), 2)

    def test_a_hang_is_named_looked_into_and_ends_the_gate(self) -> None:
        self.say("hang-grid")
        code, text = self.call()
        self.assertEqual(code, 1)
        self.assertRegex(text, r"HANG +strategy grid: train identity f16 \[64, 4, 56, 56\] channels-first")
        self.assertRegex(text, r"HANG .*\| Kernel 0: train_held_kernel, grid \(66,1,1\)")
        self.assertIn("smoke: 58 launches, 10 bad", text)
        self.assertIn("the gate is closed", text)
        self.assertEqual(self.statuses()["diagnosis-probes"], "passed")
        self.assertNotIn("head-n256-channels-last-f16", self.statuses())
        self.assertNotIn("strategy cluster", [line for line in text.splitlines() if "HANG" in line])
        self.assert_all_ended()

    def test_a_wrong_value_is_named(self) -> None:
        self.say("wrong-two-read")
        code, text = self.call()
        self.assertEqual(code, 1)
        self.assertRegex(text, r"WRONG strategy two-read: train relu f32 .* x: expected 100352 values, got 7803")

    def test_a_fault_leaves_a_core_that_is_read(self) -> None:
        self.say("fault-litmus::")
        code, text = self.call("--only", "tests-litmus", "--only", "tests-bits")
        self.assertEqual(code, 1)
        self.assertRegex(text, r"tests-litmus +FAILED \(2\)")
        self.assertIn("CUDA driver error 700", text)
        self.assertIn("faulted: Kernel 3: CUDA Exception: Illegal Address", text)
        self.assertIn("tests-litmus.core.txt", self.archived())
        self.assertFalse(list(self.work.glob("*/cores/*")))
        # Of one process: the others go on.
        self.assertEqual(self.statuses()["tests-bits"], "passed")

    def test_no_test_at_all_is_no_pass(self) -> None:
        program(self.bundle / "cuda-tests", STAND_IN.replace("ok. 3 passed", "ok. 0 passed"))
        code, text = self.call("--only", "tests-bits")
        self.assertEqual(code, 1)
        self.assertRegex(text, r"tests-bits +FAILED \(4\)")

    def test_a_step_that_overruns_is_looked_into_and_ended(self) -> None:
        self.say("hang-special::")
        code, text = self.call("--pace", "0.15", "--only", "tests-rest", "--only", "verify-wide")
        self.assertEqual(code, 1)
        self.assertRegex(text, r"tests-rest +OUT OF TIME")
        self.assertIn("hangs: Kernel 0: train_held_kernel", text)
        self.assertIn("tests-rest.gdb.txt", self.archived())
        self.assertEqual(self.statuses()["verify-wide"], "passed")
        self.assert_all_ended()

    def ended_by(self, number: int) -> "tuple[int, str]":
        self.say("hang-graphs::")
        only = ["--only", "tests-litmus", "--only", "tests-graphs", "--only", "tests-rest"]
        process = self.start("--pace", "1", *only)
        self.wait_for("the hanging step", lambda: (self.says / "children").exists())
        process.send_signal(number)
        text = process.communicate(timeout=20)[0].decode()
        self.assert_all_ended()
        self.assertLessEqual({"info.log", "tests-litmus.log"}, self.archived())
        (self.says / "hang-graphs::").unlink()
        made = len(self.calls())
        code, after = self.call(*only)
        self.assertEqual(code, 0, after)
        again = self.calls()[made:]
        self.assertEqual([line.split()[-1] for line in again], ["graphs::", "probes::"], "not what was left")
        return process.returncode, text

    def test_a_call_that_is_terminated_keeps_what_it_has(self) -> None:
        code, text = self.ended_by(signal.SIGTERM)
        self.assertEqual(code, 128 + signal.SIGTERM)
        self.assertIn("ended by signal 15", text)

    def test_a_call_that_is_killed_keeps_what_it_has(self) -> None:
        self.assertEqual(self.ended_by(signal.SIGKILL)[0], -signal.SIGKILL)

    def test_what_there_is_no_time_for_is_postponed(self) -> None:
        only = ["--only", "head-n256-channels-last-f16", "--only", "tests-bits"]
        code, text = self.call("--pace", "1", *only, seconds=100)
        self.assertEqual(code, 3, text)
        self.assertIn("no time left for: head-n256-channels-last-f16", text)
        self.assertEqual(json.loads((self.out / "summary.json").read_text())["postponed"], ["head-n256-channels-last-f16"])
        # A shorter one further on had its turn.
        self.assertEqual(self.statuses()["tests-bits"], "passed")
        self.assertEqual(self.call(*only)[0], 0)

    def test_a_device_that_falls_off_ends_what_needs_it(self) -> None:
        self.say("fault-litmus::")
        program(self.bundle / "cuda-tests", STAND_IN.replace("exit 2", 'touch "$STANDIN/gone"; exit 2', 1))
        code, text = self.call("--only", "tests-litmus", "--only", "tests-bits")
        self.assertEqual(code, 1)
        self.assertIn("the device is gone: batchnorm: --device cuda:0: no CUDA device", text)
        self.assertEqual(self.statuses()["tests-bits"], "left out")
        made = len(self.calls())
        (self.says / "gone").unlink()
        self.call("--only", "tests-litmus", "--only", "tests-bits")
        self.assertGreater(len(self.calls()), made)

    def test_no_device_is_said_and_nothing_is_run(self) -> None:
        self.say("gone")
        code, text = self.call()
        self.assertEqual(code, 2)
        self.assertIn("no CUDA device", text)
        self.assertEqual(len(self.calls()), 1)

    def test_what_cannot_begin_is_one_line(self) -> None:
        for said, args, out in [
            ("out: Not a directory", [], str(self.top / "bin" / "cuda-gdb" / "out")),
            ("--again, --only: expected names of info smoke-input smoke", ["--only", "smok"], None),
        ]:
            code, text = self.call(*args, out=out)
            self.assertEqual((code, text.count("\n")), (2, 1), text)
            self.assertIn(said, text)
        (self.bundle / "cuda-tests").unlink()
        code, text = self.call()
        self.assertEqual((code, text.count("\n")), (2, 1), text)
        self.assertIn("cuda-tests: expected the bundle's executable, found none", text)
        self.assertEqual(self.calls(), [])

    def test_a_full_disk_costs_a_line_and_not_the_run(self) -> None:
        self.work.mkdir()
        (self.work / "large").write_bytes(os.urandom(20_000))
        code, text = self.call("--only", "tests-bits", limit=8_000)
        self.assertEqual(code, 1, text)
        self.assertEqual(text.count("!! evidence.tgz is not written: File too large"), 1, text)
        self.assertRegex(text, r"tests-bits +ok")
        self.assertFalse([name for name in os.listdir(self.out) if "partial" in name])


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def is_alive(pid: int) -> bool:
    try:
        # A zombie is as good as gone.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()

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
sys.path.insert(0, str(HERE))

import record  # noqa: E402
import steps  # noqa: E402

# The program that stands in for the bundle's. A test controls it by files of a folder: `hang-WORD` and `fault-WORD` are for
# commands with that word.
STAND_IN = """#!/bin/sh
# $STANDIN/calls counts what ran. A child that would outlive its parent is among what must be ended.
echo "$0 $*" >>"$STANDIN/calls"
for pid in $(cat "$STANDIN/children" 2>/dev/null); do
    grep -q ') [^Z]' "/proc/$pid/stat" 2>/dev/null && echo "$pid beside $*" >>"$STANDIN/alive"
done
for word in "$@"; do
    if [ -e "$STANDIN/hang-$word" ]; then
        sleep 1000 & echo $! >>"$STANDIN/children"
        setsid sleep 1000 & echo $! >>"$STANDIN/children"  # It leaves the group.
        wait
    fi
    [ -e "$STANDIN/slow-$word" ] && sleep 2
    [ -e "$STANDIN/partly-$word" ] && echo "NOT REACHED within the time: 326 cases"
    if [ -e "$STANDIN/fault-$word" ]; then
        [ -z "$CUDA_COREDUMP_FILE" ] || echo core >"$(dirname "$CUDA_COREDUMP_FILE")/core.$$"
        echo "the host's" >core.host
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
echo "3 cases on cuda:0: 0 failed"
"""

CUDA_GDB = """#!/bin/sh
# Whom it looks at must be alive, and it says of whom it was asked.
before=
[ -e "$STANDIN/silent-gdb" ] && sleep 1000
[ -e "$STANDIN/verbose-gdb" ] && head -c 20000 /dev/zero | tr '\\0' '\\n'
for word in "$@"; do
    [ "$before" = -p ] && [ "$(cut -d' ' -f3 "/proc/$word/stat")" != Z ] && echo "Kernel 0: train_fused_kernel, grid (66,1,1), of process $word"
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
        self.assertEqual((code, len(self.calls())), (0, made + 1), text)
        self.assertIn(" info ", self.calls()[-1])
        code, text = self.call("--again", "tests-bits")
        self.assertEqual((code, len(self.calls())), (0, made + 3), text)
        self.assertTrue(self.calls()[-1].endswith("bits::"))
        # Another build knows nothing of this one, whose results stay.
        program(self.bundle / "cuda-tests", STAND_IN + "# corrected\n")
        self.assertEqual(self.call()[0], 0)
        self.assertEqual(len(self.calls()), 2 * made + 3)
        self.assertEqual(len([path for path in self.work.iterdir() if path.is_dir()]), 2)

    def test_a_hang_is_named_looked_into_and_ends_the_gate(self) -> None:
        self.say("hang-grid")
        code, text = self.call()
        self.assertEqual(code, 1)
        self.assertRegex(text, r"HANG +strategy grid: train silu f16 \[64, 4, 56, 56\] channels-first")
        self.assertRegex(text, r"HANG .*\| Kernel 0: train_fused_kernel, grid \(66,1,1\)")
        self.assertIn("smoke: 58 launches, 10 bad", text)
        self.assertIn("the gate is closed", text)
        self.assertEqual(self.statuses()["diagnosis-probes"], "passed")
        self.assertNotIn("head-n256-channels-last-f16", self.statuses())
        self.assertFalse([line for line in text.splitlines() if line.startswith("HANG") and "strategy cluster" in line])
        # One of them is looked into, and those that come after some are not waited for.
        lines = next(self.work.glob("*/smoke.log")).read_text().splitlines()
        self.assertEqual(len([line for line in lines if "| Kernel 0" in line]), 1, lines)
        self.assertTrue([line for line in lines if line.startswith("LEFT  strategy grid")], lines)
        self.assert_all_ended()

    def test_a_wrong_value_is_named(self) -> None:
        self.say("wrong-two-read")
        code, text = self.call()
        self.assertEqual(code, 1)
        self.assertRegex(text, r"WRONG strategy two-read: train relu6 f32 .* x: expected 100352 values, got 7803")

    def test_a_fault_leaves_a_core_that_is_read(self) -> None:
        self.say("fault-litmus::")
        code, text = self.call("--only", "tests-litmus", "--only", "tests-bits")
        self.assertEqual(code, 1)
        self.assertRegex(text, r"tests-litmus +FAILED \(2\)")
        self.assertIn("CUDA driver error 700", text)
        self.assertIn("faulted: Kernel 3: CUDA Exception: Illegal Address", text)
        self.assertIn("tests-litmus.core.txt", self.archived())
        self.assertFalse(list(self.work.glob("*/cores/*")))
        # The host's are not ours to keep.
        self.assertFalse([name for name in self.archived() if name.startswith("core.")])
        # The fault is of one process: the others go on.
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
        self.assertIn("hangs: Kernel 0: train_fused_kernel", text)
        self.assertIn("tests-rest.gdb.txt", self.archived())
        self.assertFalse((self.says / "alive").exists(), "what a step started was there beside the next")
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
        again = [line for line in self.calls()[made:] if " info " not in line]
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
        # It is asked for anew.
        (self.says / "gone").unlink()
        self.assertEqual(self.call("--only", "tests-bits")[0], 0)
        code, text = self.call("--only", "tests-bits", seconds=10)
        self.assertEqual(code, 3, text)
        self.assertIn("no time to ask for the device", text)

    def test_a_step_that_did_not_reach_all_is_told_apart(self) -> None:
        self.say("partly-bits::")
        code, text = self.call("--only", "tests-bits")
        self.assertEqual((code, self.statuses()["tests-bits"]), (0, "in part"), text)
        self.assertIn("in part, as far as their own time went: tests-bits", text)
        # Its own time is what it had: a later call does not do it again. Nothing at all is no part.
        made = len(self.calls())
        self.assertEqual(self.call("--only", "tests-bits")[0], 0)
        self.assertEqual(len(self.calls()), made + 1)
        program(self.bundle / "batchnorm", STAND_IN.replace("3 cases", "0 cases"))
        code, text = self.call("--only", "verify-thin")
        self.assertEqual((code, self.statuses()["verify-thin"]), (1, "failed"), text)

    def test_what_the_end_of_the_call_cuts_short_is_done_again(self) -> None:
        # The step has 11 to 18 of its 18 seconds in the first call.
        for says in ("partly-bits::", "hang-bits::"):
            self.say(says)
            code, text = self.call("--pace", "0.15", "--only", "tests-bits", "--again", "tests-bits", seconds=26)
            self.assertEqual((code, self.statuses()["tests-bits"]), (3, "cut short"), text)
            (self.says / says).unlink()
            code, text = self.call("--only", "tests-bits")
            self.assertEqual((code, self.statuses()["tests-bits"]), (0, "passed"), text)

    def test_a_call_ends_in_its_time(self) -> None:
        # A step that hangs, a debugger that does not answer, a device that takes its time: nothing is known of it.
        self.say("hang-bits::", "silent-gdb", "slow-info")
        begin = time.monotonic()
        code, text = self.call("--only", "tests-bits", "--pace", "0.1", seconds=24)
        self.assertLess(time.monotonic() - begin, 24, text)
        self.assertEqual(code, 1, text)
        self.assertRegex(text, r"tests-bits +OUT OF TIME")
        self.assertNotIn("is gone", text)
        self.assert_all_ended()

    def test_marks_that_nobody_can_read_are_set_aside(self) -> None:
        self.assertEqual(self.call("--only", "tests-bits")[0], 0)
        marks = next(self.work.glob("*/steps.json"))
        for unreadable in (marks.read_text()[:40], "", "[]", '{"info": 3}'):
            marks.write_text(unreadable)
            made = len(self.calls())
            code, text = self.call("--only", "tests-bits")
            self.assertEqual((code, len(self.calls())), (0, made + 2), text)
            self.assertEqual(text.count("set aside, and all is done anew"), 1, text)

    def test_whoever_stops_reading_ends_nothing(self) -> None:
        process = self.start("--only", "tests-bits", "--only", "tests-rest")
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual({self.statuses()[name] for name in ("tests-bits", "tests-rest")}, {"passed"})

    def test_what_a_step_stands_on_comes_with_it(self) -> None:
        code, text = self.call("--only", "smoke")
        self.assertEqual(code, 0, text)
        self.assertEqual({name: status for name, status in self.statuses().items()},
                         {"info": "passed", "smoke-input": "passed", "smoke": "passed"})

    def test_what_is_found_by_a_variable_stays_found(self) -> None:
        before = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = "/where/libcuda/is"
        try:
            step = steps.Step("any", 1, ["true"], env={"LD_LIBRARY_PATH": "/cudnn", "OTHER": "1"})
            self.assertEqual(step.env, {"LD_LIBRARY_PATH": "/cudnn:/where/libcuda/is", "OTHER": "1"})
        finally:
            os.environ.pop("LD_LIBRARY_PATH")
            os.environ.update({"LD_LIBRARY_PATH": before} if before else {})

    def test_a_long_log_and_a_large_file_cost_the_archive_little(self) -> None:
        path = self.top / "long.log"
        path.write_bytes(b"a" * 3_000_000 + b"end")
        large = self.top / "large.bin"
        large.write_bytes(b"b" * (record.FILE_BYTES + 1))
        with tarfile.open(self.top / "made.tar", "w") as archive:
            record.add(archive, path, Path("long.log"))
            record.add(archive, large, Path("large.bin"))
        with tarfile.open(self.top / "made.tar") as archive:
            text = archive.extractfile("long.log").read()
            self.assertTrue(text.startswith(b"aaa") and text.endswith(b"end") and len(text) < 2_100_000)
            self.assertEqual(archive.extractfile("large.bin.left-out").read(), b"10000001 bytes\n")

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
        self.assertIn("cuda-tests: expected a file of the bundle, found none", text)
        self.assertEqual(self.calls(), [])

    def test_a_full_disk_costs_a_line_and_not_the_run(self) -> None:
        self.work.mkdir()
        (self.work / "large").write_bytes(os.urandom(20_000))
        code, text = self.call("--only", "tests-bits", limit=8_000)
        self.assertEqual(code, 1, text)
        self.assertEqual(text.count("!! evidence.tgz is not written: File too large"), 1, text)
        self.assertRegex(text, r"tests-bits +ok")
        self.assertFalse([name for name in os.listdir(self.out) if "partial" in name])
        # A debugger's long output has no room either.
        self.say("hang-graphs::", "verbose-gdb")
        code, text = self.call("--pace", "0.1", "--only", "tests-graphs", "--only", "tests-rest", limit=8_000)
        self.assertIn("hangs: Kernel 0", text)
        self.assertRegex(text, r"tests-rest +ok")


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

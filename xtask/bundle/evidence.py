#!/usr/bin/env python3
"""Turns seconds on a machine with a GPU into evidence, in the order of its worth.

    python3 evidence.py [SECONDS] [--out FOLDER] [--work FOLDER] [--again STEP]... [--only STEP]...

Facts, smoke (one launch of each kernel family, strategy and epilogue), gate (small tests, a thin table), headline speed beside the
peers, PyTorch, litmus, breadth, sanitizers, counters, rows for the cost model. Nothing is timed where smoke or gate fails: why it
fails is looked into instead. SECONDS (default 500) bound the call; a later call goes on where this one ended, and does again what its
end cut short; `--again STEP` does a step once more, with twice the time. Another build begins anew.

The machine needs an NVIDIA driver and this interpreter. Run with the one that has PyTorch, it tests and measures the Python package and
PyTorch's own batch norm too; cuDNN is found in its packages. What else is missing is said, and the rest runs.

FOLDER (`--out`, else $OUT, else results/) gets evidence.tgz, summary.txt and summary.json, made anew after each step. Exit code: 0 where
all was done and passed, as far as each step's own time went, which is said; 3 where the call's time was short and nothing failed, 1 where
something failed, 2 where nothing could be begun.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import steps
import watch
from machine import Machine
from record import CUT_SHORT, DONE, FAILED, GOOD, IN_PART, LEFT_OUT, OUT_OF_TIME, PASSED, RUNNING, Record, ends

HERE = Path(__file__).resolve().parent
# Seconds that the end of a call is kept free for: a look at what hangs, killing it, making the archive. The last of them are the
# archive's alone.
RESERVE, PACKING = 12, 3
# A step begins where at least this share of its seconds is left: else a later, shorter one does.
LEAST = 0.6
# The exit code of a step that says it passed and did nothing, such as tests whose filter names none.
NOTHING_DONE = 4
# Words of a step that ended by itself before it had done all.
NOT_ALL = re.compile("NOT REACHED within the time|not reached --within")
# Seconds that the device has to answer before it is given up.
ANSWER = 15


class Ended(BaseException):
    """A signal ends the call."""


class Call:
    """One call: the deadline that its steps share."""

    def __init__(self, options: argparse.Namespace, record: Record, machine: Machine) -> None:
        self.options, self.record, self.machine, self.env = options, record, machine, machine.environment()
        self.guard = watch.Guard(os.environ[watch.MARK], record.partials())
        self.postponed: list[str] = []
        self.gone = ""
        self.driver_words = set(self.xids())

    def left(self) -> float:
        return self.options.deadline - time.monotonic()

    def spare(self, most: float) -> float:
        """Seconds for what is not a step: `most`, or what the call has before its archive."""
        return max(0, min(most, self.left() - PACKING))

    def step(self, step: steps.Step) -> bool:
        """Runs a step unless it was done. Whether it may be built upon: it passed, now or before."""
        record = self.record
        is_again = step.name in self.options.again
        if record.status(step.name) in DONE and not is_again:
            return record.status(step.name) in GOOD
        before = record.status(step.after)
        reason = step.lacks or self.gone or (f"{step.after} did not pass" if before in (FAILED, OUT_OF_TIME, LEFT_OUT) else "")
        if reason:
            record.mark(step.name, status=LEFT_OUT, reason=reason)
            return False
        seconds = step.seconds * self.machine.pace * (2 if is_again else 1)
        limit = min(seconds, self.left() - RESERVE)
        if limit < LEAST * seconds or (step.after and before not in GOOD):
            self.postponed.append(step.name)
            return False
        record.mark(step.name, status=RUNNING)
        outcome = self.run(step, limit)
        text = self.text(step)
        status = judged(step, outcome, text, is_short=limit < seconds)
        if status == FAILED and outcome.code == 0:
            outcome.code = NOTHING_DONE
        if status == CUT_SHORT:
            self.postponed.append(step.name)
        command = " ".join(self.filled(step, limit))
        record.mark(step.name, status=status, code=outcome.code, seconds=round(outcome.seconds, 1), command=command)
        word = {PASSED: "ok", FAILED: f"FAILED ({outcome.code})"}.get(status, status.upper())
        record.say(f"{step.name:<26} {word:<12} {outcome.seconds:5.0f} s, {self.left():.0f} left")
        for line in [line for line in text.splitlines() if step.shows and line.startswith(step.shows)][:12]:
            record.say(f"    {line[:300]}")
        if status in (FAILED, OUT_OF_TIME) or outcome.ran_out:
            self.explain(step, outcome, text)
        self.pack()
        return status in GOOD

    def filled(self, step: steps.Step, limit: float) -> list[str]:
        # A command that ends by itself keeps its results; a row or group that is begun takes some seconds.
        within = str(max(5, int(limit - min(25, limit / 4))))
        return [word.replace("{within}", within) for word in step.command]

    def log(self, step: steps.Step) -> Path:
        return self.record.folder / f"{step.name}.log"

    def run(self, step: steps.Step, limit: float) -> watch.Outcome:
        env = {**self.env, **step.env}
        if step.cores:
            # A core of a fault names the kernel, the CTA and the instruction, without a second run. Of the device's state alone,
            # and without an abort: the program is still to say what it launched.
            env["CUDA_ENABLE_COREDUMP_ON_EXCEPTION"] = env["CUDA_ENABLE_LIGHTWEIGHT_COREDUMP"] = "1"
            env["CUDA_ENABLE_CPU_COREDUMP_ON_EXCEPTION"] = "0"
            skipped = ["nonrelocated_elf_images", "global_memory", "shared_memory", "local_memory", "abort"]
            env["CUDA_COREDUMP_GENERATION_FLAGS"] = ",".join(f"skip_{what}" for what in skipped)
            env["CUDA_COREDUMP_FILE"] = str(self.record.folder / "cores" / "core.%p")
        until = self.options.deadline - PACKING
        return watch.run(self.filled(step, limit), limit, self.log(step), env, self.guard, until)

    def explain(self, step: steps.Step, outcome: watch.Outcome, text: str) -> None:
        """Why a step failed: the end of its output, what hung or faulted and where, the driver's words."""
        shown = [f"    {line[:300]}" for line in text.splitlines()[-12:]]
        shown += [f"    hangs: {line}" for line in outcome.look]
        cores = watch.look_at_cores(self.record.folder / "cores", self.log(step), self.spare(watch.LOOK))
        shown += [f"    faulted: {line}" for line in cores]
        new = [line for line in self.xids() if line not in self.driver_words]
        self.driver_words.update(new)
        shown += [f"    driver: {line[:200]}" for line in new[-3:]]
        for line in shown:
            self.record.say(line)
        if step.name != "info" and step.stage != "diagnosis":
            self.check_device()

    def xids(self) -> list[str]:
        """The driver's reports of faults, of whatever process and time."""
        kernel_log, _ = watch.answer(["dmesg"], self.spare(5))
        return [line for line in (kernel_log or "").splitlines() if "Xid" in line]

    def check_device(self) -> None:
        """Whether the device is still there: what falls off the bus fails everything that follows. It is given up where it says
        so, or is silent twice; where there is no time to wait for an answer nothing is known."""
        command = steps.info(self.machine).command
        for _ in range(2):
            seconds = self.spare(ANSWER)
            said, code = watch.answer(command, seconds)
            if code == 0 or (code == watch.OUT_OF_TIME and seconds < ANSWER):
                return
            if code != watch.OUT_OF_TIME:
                break
        self.gone = f"the device is gone: {' '.join((said or 'no answer').split())[-200:]}"
        self.record.say(f"!! {self.gone}")

    def text(self, step: steps.Step) -> str:
        """A step's output; of a long one its two ends."""
        try:
            return ends(self.log(step)).decode(errors="replace")
        except OSError:
            return ""

    def pack(self) -> None:
        self.record.pack(postponed=self.postponed, device_is_gone=bool(self.gone))

    def all(self) -> int:
        """Every step that there is time for. The exit code."""
        first, *others = steps.steps(self.machine)
        wanted = set(self.options.only) or {step.name for step in others}
        for step in reversed(others):
            wanted |= {step.after} if step.name in wanted else set()
        chosen = [step for step in others if step.name in wanted]
        # Asked anew in each call: a device may have come or gone.
        self.record.steps.pop(first.name, None)
        if not self.step(first):
            built = (self.machine.bundle / "built.txt").read_text().split("\n")[0]
            if self.postponed:
                self.record.say("!! no time to ask for the device: nothing is run")
                return 3
            self.record.say(f"!! {first.name} did not pass: nothing else is run ({built})")
            return 2
        gate = [self.step(step) for step in chosen if step.stage == "gate"]
        stage = "evidence" if all(gate) else "diagnosis"
        if stage == "diagnosis" and not self.postponed:
            self.record.say("!! the gate is closed: diagnosis, and no timing of what is wrong")
        for step in chosen:
            if step.stage == stage and (stage == "evidence" or not self.postponed):
                self.step(step)
        left_out = {name: facts["reason"] for name, facts in self.record.steps.items() if facts["status"] == LEFT_OUT}
        if left_out:
            self.record.say("left out: " + "; ".join(f"{name} ({reason})" for name, reason in left_out.items()))
        if self.postponed:
            self.record.say("no time left for: " + " ".join(self.postponed))
        in_part = [name for name, facts in self.record.steps.items() if facts["status"] == IN_PART]
        if in_part:
            self.record.say("in part, as far as their own time went: " + " ".join(in_part))
        if self.record.failed():
            self.record.say("failed: " + " ".join(self.record.failed()))
        if self.record.failed() or self.gone or self.record.troubles:
            return 1
        return 3 if self.postponed else 0


def judged(step: steps.Step, outcome: watch.Outcome, text: str, is_short: bool) -> str:
    """The status of a step that ended. `is_short`: the end of the call took some of its time."""
    if outcome.ran_out:
        return CUT_SHORT if is_short else OUT_OF_TIME
    if outcome.code != 0:
        return FAILED
    is_all = not NOT_ALL.search(text)
    if not is_all and is_short:
        return CUT_SHORT
    if step.proof and not re.search(step.proof, text):
        return FAILED
    return PASSED if is_all else IN_PART


def tell_facts(record: Record, machine: Machine) -> None:
    """The machine's facts, once a build."""
    path = record.folder / "facts.txt"
    if not path.exists():
        record.attempt("facts.txt", lambda: path.write_text(machine.facts()))
        for text in machine.notes():
            record.say(f"-- {text}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=int, default=500, metavar="SECONDS")
    parser.add_argument("--bundle", type=Path, default=HERE, help="the folder of the executables, if not this file's")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "results"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "batchnorm-evidence")
    parser.add_argument("--again", action="append", default=[], metavar="STEP")
    parser.add_argument("--only", action="append", default=[], metavar="STEP")
    parser.add_argument("--small", action="store_true", help="a rehearsal on the emulated device: few cases, small rows")
    parser.add_argument("--pace", type=float, default=1, help="the share of its seconds that each step has, in a rehearsal")
    options = parser.parse_args()
    options.deadline = time.monotonic() + options.seconds
    return options


def begin(options: argparse.Namespace) -> "tuple[Record, Machine]":
    """The record and the machine of a call; an OSError or ValueError says what is wrong before a second is spent."""
    bundle = options.bundle.resolve()
    for name in ("batchnorm", "cuda-tests", "smoke.py", "built.txt"):
        if not (bundle / name).exists():
            raise ValueError(f"{bundle / name}: expected a file of the bundle, found none")
    for name in ("batchnorm", "cuda-tests"):
        if not os.access(bundle / name, os.X_OK):
            (bundle / name).chmod(0o755)  # A transfer may lose the bit.
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.out):
        pass
    options.work.mkdir(parents=True, exist_ok=True)
    uuid, code = watch.answer(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], 20)
    record = Record(bundle, options.work.resolve(), options.out.resolve(), uuid if uuid and code == 0 else "")
    machine = Machine(bundle, record.folder, options.small, options.pace)
    known = [step.name for step in steps.steps(machine)]
    for name in options.again + options.only:
        if name not in known:
            raise ValueError(f'--again, --only: expected names of {" ".join(known)}, got "{name}"')
    os.chdir(record.folder)
    return record, machine


def on_signal(number: int, _frame: object) -> None:
    raise Ended(number)


def main() -> int:
    options = parse()
    sys.stdout.reconfigure(errors="backslashreplace")
    os.environ[watch.MARK] = f"{os.getpid()}-{time.time_ns()}"
    try:
        record, machine = begin(options)
    except (OSError, ValueError) as error:
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"evidence: {where}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    call = Call(options, record, machine)
    try:
        tell_facts(record, machine)
        return call.all()
    except Ended as ended:
        record.say(f"!! ended by signal {ended.args[0]}")
        return 128 + ended.args[0]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # The archive is whole, whatever else comes.
        call.pack()


if __name__ == "__main__":
    sys.exit(main())

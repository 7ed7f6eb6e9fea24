#!/usr/bin/env python3
"""Turns seconds on a machine with a GPU into evidence, in the order of its worth.

    python3 evidence.py [SECONDS] [--out FOLDER] [--work FOLDER] [--again STEP]... [--only STEP]...

Facts, smoke (one launch of each kernel family, strategy and epilogue), gate (small tests, a thin table), headline speed beside the
peers, PyTorch, litmus, breadth, sanitizers, counters, rows for the cost model. Nothing is timed where smoke or gate fails: why it
fails is looked into instead. SECONDS (default 500) bound the call; a later call goes on where this one ended, and `--again STEP` does a
step once more. Another build begins anew.

The machine needs an NVIDIA driver and this interpreter. Run with the one that has PyTorch, it tests and measures the Python package and
PyTorch's own batch norm too; cuDNN is found in its packages. What else is missing is said, and the rest runs.

FOLDER (`--out`, else $OUT, else results/) gets evidence.tgz, summary.txt and summary.json, made anew after each step. Exit code: 0 where
all was done and passed, 3 where the time was short and nothing failed, 1 where something failed, 2 where nothing could be begun.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import steps
import watch
from record import Record

HERE = Path(__file__).resolve().parent
# Seconds that the end of a call is kept free for: killing a step, making the archive.
RESERVE = 8
# A step begins where at least this share of its seconds is left: else a later, shorter one does.
LEAST = 0.6
# The exit code of a step that says it passed and did nothing, such as tests whose filter names none.
NOTHING_DONE = 4
PASSED, FAILED, OUT_OF_TIME, RUNNING, LEFT_OUT = "passed", "failed", "out of time", "running", "left out"


class Ended(BaseException):
    """A signal ends the call."""


class Call:
    """One call: the deadline that its steps share."""

    def __init__(self, options: argparse.Namespace, record: Record, machine: steps.Machine, env: dict[str, str]) -> None:
        self.options, self.record, self.machine, self.env = options, record, machine, env
        self.guard = watch.Guard()
        self.postponed: list[str] = []
        self.gone = ""

    def left(self) -> float:
        return self.options.deadline - time.monotonic()

    def step(self, step: steps.Step) -> bool:
        """Runs a step unless it was done. Whether it may be built upon: it passed, now or before."""
        record = self.record
        if step.name in self.options.again:
            record.steps.pop(step.name, None)
        if record.status(step.name) in (PASSED, FAILED, OUT_OF_TIME):
            return record.status(step.name) == PASSED
        reason = step.lacks or self.gone
        if step.after and record.status(step.after) not in (PASSED, ""):
            reason = reason or f"{step.after} did not pass"
        if reason:
            record.mark(step.name, status=LEFT_OUT, reason=reason)
            return False
        seconds = step.seconds * self.machine.pace
        limit = min(seconds, self.left() - RESERVE)
        if limit < LEAST * seconds:
            self.postponed.append(step.name)
            return False
        record.mark(step.name, status=RUNNING)
        outcome = self.run(step, limit)
        if outcome.code == 0 and step.proof and not re.search(step.proof, "\n".join(self.lines(step))):
            outcome.code = NOTHING_DONE
        status = PASSED if outcome.code == 0 else OUT_OF_TIME if outcome.ran_out else FAILED
        command = " ".join(self.filled(step, limit))
        record.mark(step.name, status=status, code=outcome.code, seconds=round(outcome.seconds, 1), command=command)
        word = {PASSED: "ok", FAILED: f"FAILED ({outcome.code})", OUT_OF_TIME: "OUT OF TIME"}[status]
        record.say(f"{step.name:<26} {word:<12} {outcome.seconds:5.0f} s, {self.left():.0f} left")
        self.show(step, outcome)
        if status != PASSED:
            self.explain(step, outcome)
        self.pack()
        return status == PASSED

    def filled(self, step: steps.Step, limit: float) -> list[str]:
        # What ends by itself keeps what it has; a row or group that is begun takes some seconds.
        within = str(max(5, int(limit - min(25, limit / 4))))
        return [word.replace("{within}", within) for word in step.command]

    def log(self, step: steps.Step) -> Path:
        return self.record.folder / f"{step.name}.log"

    def run(self, step: steps.Step, limit: float) -> watch.Outcome:
        env = {**self.env, **step.env}
        if step.cores:
            # A core of a fault names the kernel, the CTA and the instruction, without a second run.
            env["CUDA_ENABLE_COREDUMP_ON_EXCEPTION"] = env["CUDA_ENABLE_LIGHTWEIGHT_COREDUMP"] = "1"
            env["CUDA_COREDUMP_FILE"] = str(self.record.folder / "cores" / "core.%p")
        return watch.run(self.filled(step, limit), limit, self.log(step), env, self.guard)

    def show(self, step: steps.Step, outcome: watch.Outcome) -> None:
        """The lines of a step's output that people are to see."""
        lines = [line for line in self.lines(step) if line.startswith(step.shows)] if step.shows else []
        for line in lines[:12]:
            self.record.say(f"    {line[:300]}")

    def explain(self, step: steps.Step, outcome: watch.Outcome) -> None:
        """Why a step failed: the end of its output, what hung or faulted and where, the driver's words."""
        shown = [f"    {line[:300]}" for line in self.lines(step)[-12:]]
        shown += [f"    hangs: {line}" for line in outcome.look]
        shown += [f"    faulted: {line}" for line in watch.look_at_cores(self.record.folder / "cores", self.log(step))]
        kernel_log, _ = watch.answer(["dmesg"], 5)
        shown += [f"    driver: {line[:200]}" for line in (kernel_log or "").splitlines() if "Xid" in line][-3:]
        for line in shown:
            self.record.say(line)
        self.check_device(step)

    def check_device(self, step: steps.Step) -> None:
        """Whether the device is still there: what falls off the bus fails everything that follows."""
        if step.name == "info" or step.stage == "diagnosis":
            return
        info = steps.info(self.machine)
        said, code = watch.answer(info.command, min(15, max(2, self.left())))
        if code != 0:
            self.gone = f"the device is gone: {' '.join((said or 'no answer').split())[-200:]}"
            self.record.say(f"!! {self.gone}")

    def lines(self, step: steps.Step) -> list[str]:
        try:
            return self.log(step).read_text(errors="replace").splitlines()
        except OSError:
            return []

    def pack(self) -> None:
        self.record.pack(postponed=self.postponed, device_is_gone=bool(self.gone))

    def all(self) -> int:
        """Every step that there is time for. The exit code."""
        first, *others = steps.steps(self.machine)
        chosen = [step for step in others if not self.options.only or step.name in self.options.only]
        if not self.step(first):
            built = (self.machine.bundle / "built.txt").read_text().split("\n")[0]
            self.record.say(f"!! no device that this bundle can use ({built}): nothing else is run")
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
        if self.record.failed():
            self.record.say("failed: " + " ".join(self.record.failed()))
        if self.record.failed() or self.gone or self.record.troubles:
            return 1
        return 3 if self.postponed else 0


def facts(record: Record, machine: steps.Machine) -> None:
    """What the machine is, once a build."""
    path = record.folder / "facts.txt"
    if path.exists():
        return
    of = "name,uuid,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
    of += ",ecc.mode.current,mig.mode.current,persistence_mode"
    said = [(machine.bundle / "built.txt").read_text()]
    for command in (["nvidia-smi", f"--query-gpu={of}", "--format=csv"], ["uname", "-a"], ["ldd", "--version"]):
        text, _ = watch.answer(command, 10)
        said.append(f"$ {' '.join(command[:1])}\n{text or 'not here'}")
    said.append(f"python {sys.version}\ncuDNN in {machine.cudnn or 'no package'}\n")
    said += [f"{name}: {shutil.which(name)}\n" for name in ("compute-sanitizer", "ncu", "cuda-gdb")]
    record.attempt("facts.txt", lambda: path.write_text("\n".join(said)))
    for text in machine.notes():
        record.say(f"-- {text}")


def environment(machine: steps.Machine) -> dict[str, str]:
    env = {**os.environ, "BATCHNORM_DATA": str(machine.bundle), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env["RUST_BACKTRACE"] = "0"
    env.setdefault("BATCHNORM_REQUIRE_GPU", "1")  # A test that skips itself is no evidence.
    return env


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


def begin(options: argparse.Namespace) -> "tuple[Record, steps.Machine]":
    """Where everything lies; an OSError or ValueError says what is wrong before a second is spent."""
    bundle = options.bundle.resolve()
    for name in ("batchnorm", "cuda-tests"):
        if not (bundle / name).exists():
            raise ValueError(f"{bundle / name}: expected the bundle's executable, found none")
        if not os.access(bundle / name, os.X_OK):
            (bundle / name).chmod(0o755)  # A transfer may lose the bit.
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.out):
        pass
    options.work.mkdir(parents=True, exist_ok=True)
    uuid, _ = watch.answer(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], 10)
    record = Record(bundle, options.work.resolve(), options.out.resolve(), uuid or "")
    machine = steps.Machine(bundle, record.folder, options.small, options.pace)
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
    try:
        record, machine = begin(options)
    except (OSError, ValueError) as error:
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"evidence: {where}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    call = Call(options, record, machine, environment(machine))
    try:
        facts(record, machine)
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

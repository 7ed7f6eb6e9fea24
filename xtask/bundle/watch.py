"""One command under a watchdog: it ends in time, whatever it does, and what it was doing is known.

A command is a process group of its own, and whatever it starts has a mark in its environment, by which those are found that leave
the group. What hangs is looked at with cuda-gdb before it is killed; a fault's GPU core is read. A guard, another process, kills
what is marked where this one is killed itself, so that no step outlives the call.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# Seconds that cuda-gdb may take to look into a process or a core, and those below which it is not asked.
LOOK, LEAST_LOOK = 20, 3
# Seconds that a killed process is waited for. One that the driver holds (state D) may never end.
DEATH = 8
# Exit code of a command that ran out of time, as timeout(1) gives it.
OUT_OF_TIME = 124
# The variable that marks what a call has started.
MARK = "BATCHNORM_EVIDENCE_CALL"


@dataclass
class Outcome:
    """The end of a command."""

    code: int
    seconds: float
    # cuda-gdb's lines about a process that hung.
    look: list[str] = field(default_factory=list)

    @property
    def ran_out(self) -> bool:
        return self.code == OUT_OF_TIME


class Guard:
    """Kills what is marked when this process ends, however it ends. Half-written files go."""

    def __init__(self, mark: str, partials: "list[Path]") -> None:
        command = [sys.executable, "-S", __file__, mark, *map(str, partials)]
        env = {name: value for name, value in os.environ.items() if name != MARK}
        # A group of its own: what is sent to this process's group must not end the guard first.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, preexec_fn=os.setpgrp)
        self.mark = mark


def guard(mark: str, *partials: str) -> None:
    """The guard: waits until the pipe closes, which it does when the other end dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(mark)
    for partial in partials:
        Path(partial).unlink(missing_ok=True)


def sweep(mark: str) -> None:
    """Kills every process that has the mark, its own aside. What starts another meanwhile is found by the next look."""
    wanted = f"{MARK}={mark}".encode()
    for _ in range(20):
        found = [pid for pid, variables in environments() if wanted in variables and pid != os.getpid()]
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        time.sleep(0.05)


def environments():
    """Every process that may be asked, with the variables that it was started with."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield int(entry.name), (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue


def kill(group: int, number: int) -> None:
    """Sends a signal to a whole group, if it is there still."""
    try:
        if group > 0:
            os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def left(until: float, most: float) -> float:
    """Seconds up to a moment, `most` at most."""
    return max(0.0, min(most, until - time.monotonic()))


def run(command: list[str], limit: float, log: Path, env: dict[str, str], guard: Guard, until: float) -> Outcome:
    """Runs a command with its output in `log`, for `limit` seconds at most. What comes behind, too, is over by `until`."""
    begin = time.monotonic()
    with opened(log) as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, preexec_fn=os.setpgrp
            )
        except OSError as error:
            try:
                output.write(f"{command[0]}: {error.strerror}\n".encode())
                output.flush()
            except OSError:
                pass  # The exit code says it too.
            return Outcome(127 if isinstance(error, FileNotFoundError) else 126, 0)
    look = []
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        code = OUT_OF_TIME
        look = look_at_hang(process.pid, log, left(until, LOOK))
    finally:
        # The group is ended also where a signal to this process is the reason.
        if not end(process, left(until, DEATH)):
            look.append(f"process {process.pid} does not die: left behind")
        sweep(guard.mark)
    return Outcome(code, time.monotonic() - begin, look)


def opened(log: Path):
    """A log; where the disk is full a command is worth running without."""
    try:
        return open(log, "wb")
    except OSError:
        return open(os.devnull, "wb")


def end(process: subprocess.Popen, patience: float) -> bool:
    """Ends a command and its group, and waits so long for its death. Whether it died: one that the driver holds may not."""
    if process.poll() is None:
        kill(process.pid, signal.SIGTERM)
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            pass
    kill(process.pid, signal.SIGKILL)
    try:
        process.wait(max(0.5, patience))
        return True
    except subprocess.TimeoutExpired:
        return False


def members(group: int) -> list[tuple[int, str]]:
    """The processes of a group, with their names, youngest last."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # State, parent and group stand behind the name, which may have anything in it.
            name, rest = (entry / "stat").read_text().rsplit(")", 1)
            if int(rest.split()[2]) == group:
                found.append((int(entry.name), name.split("(", 1)[1]))
        except (OSError, ValueError, IndexError):
            continue  # It has ended meanwhile.
    return sorted(found)


def look_at_hang(group: int, log: Path, limit: float) -> list[str]:
    """The kernel that a group's process runs, and where: all of it in a file next to the log, the telling lines returned."""
    candidates = members(group)
    ours = [pid for pid, name in candidates if name.startswith(("batchnorm", "cuda-tests"))]
    others = [pid for pid, name in candidates if name.startswith("python")]
    pids = ours or others or [pid for pid, _ in candidates]
    return look_at(pids[-1], log, limit) if pids else []


def look_at(pid: int, log: Path, limit: float) -> list[str]:
    """Looks into a running process."""
    asked = ["-p", str(pid), "-ex", "info cuda kernels", "-ex", "info cuda sms", "-ex", "bt 5"]
    telling = ("Kernel", "kernel", "Running", "(*", "* ", "#0")
    return cuda_gdb(asked, log.with_suffix(".gdb.txt"), telling, limit)


def look_at_cores(folder: Path, log: Path, limit: float) -> list[str]:
    """The kernel, CTA, thread and instruction of the first fault, from the core that the driver left. Cores are large: they go."""
    found, cores = [], sorted((path for path in folder.glob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    for core in cores[:1]:
        asked = ["-ex", f"target cudacore {core}", "-ex", "info cuda kernels", "-ex", "info cuda threads", "-ex", "x/3i $pc"]
        found = cuda_gdb(asked, log.with_suffix(".core.txt"), ("Kernel", "kernel", "CUDA Exception", "error PC", "=>", "* "), limit)
    for core in cores:
        core.unlink(missing_ok=True)
    return found


def cuda_gdb(asked: list[str], to: Path, telling: tuple[str, ...], limit: float) -> list[str]:
    """Asks cuda-gdb, where there is one and time for it."""
    if limit < LEAST_LOOK:
        return ["no time left to look into it"]
    text, _ = answer(["cuda-gdb", "--batch", *asked], limit)
    if text is None:
        return ["no cuda-gdb to look into it with"]
    try:
        to.write_text(text)
    except OSError:
        pass  # A disk that is full: the telling lines are in the summary.
    lines = [line.strip()[:200] for line in text.splitlines()]
    return [line for line in lines if any(word in line for word in telling)][:10]


def answer(command: list[str], limit: float) -> tuple["str | None", int]:
    """The output of a command within `limit` seconds, and its exit code; None where it cannot be run."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=os.setpgrp
        )
    except OSError:
        return None, 127
    try:
        text, _ = process.communicate(timeout=limit)
        return text.decode(errors="replace"), process.returncode
    except subprocess.TimeoutExpired as late:
        return (late.output or b"").decode(errors="replace") + f"\n(no answer in {limit:.0f} s)\n", OUT_OF_TIME
    finally:
        end(process, 1)


if __name__ == "__main__":
    guard(*sys.argv[1:])

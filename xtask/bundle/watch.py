"""One command under a watchdog: it ends in time, whatever it does, and what it was doing is known.

A command is a process group of its own. What hangs is looked at with cuda-gdb before it is killed; a fault's GPU core is read.
A guard, another process, kills the group where this one is killed itself, so that no step outlives the call.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# Seconds that cuda-gdb may take to look into a process or a core.
LOOK = 20
# Seconds that a killed process is waited for. One that the driver holds (state D) may never end.
DEATH = 8
# Exit code of a command that ran out of time, as timeout(1) gives it.
OUT_OF_TIME = 124


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    seconds: float
    # What cuda-gdb said of a process that hung.
    look: list[str] = field(default_factory=list)

    @property
    def ran_out(self) -> bool:
        return self.code == OUT_OF_TIME


class Guard:
    """Kills the group that it was told of last when this process ends, however it ends."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", __file__]
        # A group of its own: what is sent to this process's group must not end the guard first.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=os.setpgrp)

    def watch(self, group: int) -> None:
        """Watches this group, and no other any more; 0 is none."""
        try:
            self.process.stdin.write(f"{group}\n".encode())
            self.process.stdin.flush()
        except OSError:
            pass  # Without a guard a step is as safe as this process is.


def guard() -> None:
    """The guard: reads groups until the pipe closes, which it does when the other end dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    group = 0
    for line in sys.stdin.buffer:
        group = int(line)
    kill(group, signal.SIGKILL)


def kill(group: int, number: int) -> None:
    """Sends a signal to a whole group, if it is there still."""
    try:
        if group > 0:
            os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def run(command: list[str], limit: float, log: Path, env: dict[str, str], guard: Guard) -> Outcome:
    """Runs a command with its output in `log`, for `limit` seconds at most."""
    begin = time.monotonic()
    with opened(log) as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, preexec_fn=os.setpgrp
            )
        except OSError as error:
            output.write(f"{command[0]}: {error.strerror}\n".encode())
            output.flush()
            return Outcome(127 if isinstance(error, FileNotFoundError) else 126, 0)
    guard.watch(process.pid)
    look = []
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        code = OUT_OF_TIME
        look = look_at_hang(process.pid, log)
    finally:
        end(process)  # Also where a signal to this process is the reason.
        guard.watch(0)
    return Outcome(code, time.monotonic() - begin, look)


def opened(log: Path):
    """A log; where the disk is full a command is worth running without."""
    try:
        return open(log, "wb")
    except OSError:
        return open(os.devnull, "wb")


def end(process: subprocess.Popen) -> None:
    """Ends a command and all that it started."""
    if process.poll() is None:
        kill(process.pid, signal.SIGTERM)
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            pass
    kill(process.pid, signal.SIGKILL)
    try:
        process.wait(DEATH)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} does not die: left behind", flush=True)


def members(group: int) -> list[tuple[int, str]]:
    """The processes of a group, with their names, youngest last."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # Behind the name, which may hold anything: state, parent, group.
            name, rest = (entry / "stat").read_text().rsplit(")", 1)
            if int(rest.split()[2]) == group:
                found.append((int(entry.name), name.split("(", 1)[1]))
        except (OSError, ValueError, IndexError):
            continue  # It has ended meanwhile.
    return sorted(found)


def look_at_hang(group: int, log: Path) -> list[str]:
    """Which kernel a group's process runs, and where: all of it beside the log, the telling lines returned."""
    candidates = members(group)
    ours = [pid for pid, name in candidates if name.startswith(("batchnorm", "cuda-tests"))]
    others = [pid for pid, name in candidates if name.startswith("python")]
    pids = ours or others or [pid for pid, _ in candidates]
    return look_at(pids[-1], log) if pids else []


def look_at(pid: int, log: Path) -> list[str]:
    """Looks into a running process."""
    asked = ["-p", str(pid), "-ex", "info cuda kernels", "-ex", "info cuda sms", "-ex", "bt 5"]
    telling = ("Kernel", "kernel", "Running", "(*", "* ", "#0")
    return cuda_gdb(asked, log.with_suffix(".gdb.txt"), telling)


def look_at_cores(folder: Path, log: Path) -> list[str]:
    """The kernel, CTA, thread and instruction of a fault, from the core that the driver left. Cores are large: they go."""
    found = []
    for core in sorted(folder.glob("*"))[:1]:
        asked = ["-ex", f"target cudacore {core}", "-ex", "info cuda kernels", "-ex", "info cuda threads", "-ex", "x/3i $pc"]
        found = cuda_gdb(asked, log.with_suffix(".core.txt"), ("Kernel", "kernel", "CUDA Exception", "error PC", "=>", "* "))
    for core in folder.glob("*"):
        core.unlink()
    return found


def cuda_gdb(asked: list[str], to: Path, telling: tuple[str, ...]) -> list[str]:
    """Asks cuda-gdb, where there is one."""
    text, _ = answer(["cuda-gdb", "--batch", *asked], LOOK)
    if text is None:
        return ["no cuda-gdb to look into it with"]
    to.write_text(text)
    lines = [line.strip()[:200] for line in text.splitlines()]
    return [line for line in lines if any(word in line for word in telling)][:10]


def answer(command: list[str], limit: float) -> tuple["str | None", int]:
    """What a command says within `limit` seconds, and its exit code; None where it cannot be run."""
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
        return (late.output or b"").decode(errors="replace") + f"\n(no answer in {limit} s)\n", OUT_OF_TIME
    finally:
        end(process)


if __name__ == "__main__":
    guard()

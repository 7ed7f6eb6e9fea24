"""The record of the steps and their results: marks that a later call goes on from, lines for people, one archive.

Results lie in a folder of the build that gave them, so that a corrected build begins anew and the old one's are kept. `$OUT` gets
three files, each whole or not at all, made anew after each step: `evidence.tgz`, `summary.txt`, `summary.json`.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

# An archive must come back within what a transfer takes: a log gives its first and last bytes, and no other file is larger.
LOG_BYTES = 1_000_000
FILE_BYTES = 10_000_000
# Inputs, cores and installed packages: large, and nothing that was found out.
FILES_LEFT_OUT = ("in-", "want-", "got-", "core", "hung-")
FOLDERS_LEFT_OUT = ("cores", "site", "stub")
PASSED, FAILED, OUT_OF_TIME, RUNNING, LEFT_OUT = "passed", "failed", "out of time", "running", "left out"
# Passed as far as its own time went; and what the end of the call took the time of, which the next call does again.
IN_PART, CUT_SHORT = "in part", "cut short"
# Statuses that a later call does not change, and those that other steps may stand on.
DONE, GOOD = (PASSED, IN_PART, FAILED, OUT_OF_TIME), (PASSED, IN_PART)


class Record:
    """The steps of one build of the bundle, in a folder of their own below `work`."""

    def __init__(self, bundle: Path, work: Path, out: Path, device: str) -> None:
        build = hashlib.sha256(device.encode())
        for name in ["built.txt", "batchnorm", "cuda-tests"]:
            build.update((bundle / name).read_bytes())
        self.work, self.out = work, out
        self.folder = work / build.hexdigest()[:12]
        (self.folder / "cores").mkdir(parents=True, exist_ok=True)
        self.marks = self.folder / "steps.json"
        self.summary = work / "summary.txt"
        self.steps: dict[str, dict] = {}
        self.troubles: set[str] = set()
        # A process that was killed while it wrote has left the old marks: they are replaced whole.
        if self.marks.exists():
            self.steps = self.marked()

    def marked(self) -> dict[str, dict]:
        """The marks of the calls before. Those that nobody can read are set aside, and all is done anew."""
        try:
            steps = json.loads(self.marks.read_text())
            if not all("status" in facts for facts in steps.values()):
                raise ValueError("a step without a status")
            return steps
        except (OSError, ValueError, AttributeError, TypeError) as error:
            aside = self.marks.with_name("steps.json.unreadable")
            self.attempt(aside.name, lambda: os.replace(self.marks, aside))
            self.say(f"!! {self.marks}: {error}: set aside, and all is done anew")
            return {}

    def say(self, text: str) -> None:
        """A line for people: on stdout at once, and in the summary."""
        tell(text)
        self.attempt("summary.txt", lambda: self.append(text))

    def append(self, text: str) -> None:
        with open(self.summary, "a") as file:
            file.write(text + "\n")

    def mark(self, name: str, **facts: object) -> None:
        """Marks the status of a step. A step that is marked as running when a call begins was interrupted."""
        self.steps[name] = facts
        self.attempt("steps.json", lambda: write_whole(self.marks, json.dumps(self.steps, indent=1)))

    def status(self, name: str) -> str:
        return str(self.steps.get(name, {}).get("status", ""))

    def failed(self) -> list[str]:
        return [name for name, facts in self.steps.items() if facts["status"] in (FAILED, OUT_OF_TIME)]

    def partials(self) -> list[Path]:
        """The files that a process that is killed may leave in `$OUT`."""
        return [partial_of(self.out / name) for name in ("evidence.tgz", "summary.txt", "summary.json")]

    def pack(self, **facts: object) -> None:
        """Makes the files of `$OUT` anew."""
        summary = {"failed": self.failed(), **facts, "steps": self.steps}
        self.attempt("summary.json", lambda: write_whole(self.out / "summary.json", json.dumps(summary, indent=1)))
        if self.summary.exists():
            self.attempt("summary.txt", lambda: write_whole(self.out / "summary.txt", self.summary.read_text()))
        self.attempt("evidence.tgz", self.archive)

    def archive(self) -> None:
        partial = partial_of(self.out / "evidence.tgz")
        try:
            with tarfile.open(partial, "w:gz", compresslevel=6) as archive:
                for path in sorted(self.work.rglob("*")):
                    below = path.relative_to(self.work)
                    wanted = path.is_file() and not path.name.startswith(FILES_LEFT_OUT) and self.out not in path.parents
                    if wanted and not set(below.parts) & set(FOLDERS_LEFT_OUT):
                        add(archive, path, Path("evidence") / below)
            os.replace(partial, self.out / "evidence.tgz")
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def attempt(self, what: str, write) -> None:
        """Writes; a disk that is full or gone costs one line and not the run."""
        try:
            write()
        except OSError as error:
            if what not in self.troubles:
                tell(f"!! {what} is not written: {error.strerror or error}")
            self.troubles.add(what)


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or as it was."""
    partial = partial_of(path)
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def tell(text: str) -> None:
    """A line on stdout. One that nobody reads any more ends nothing."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")


def ends(path: Path) -> bytes:
    """A file, or where it is long its two ends."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= 2 * LOG_BYTES:
            return file.read(2 * LOG_BYTES)
        first = file.read(LOG_BYTES)
        file.seek(size - LOG_BYTES)
        return first + b"\n... left out ...\n" + file.read(LOG_BYTES)


def add(archive: tarfile.TarFile, path: Path, name: Path) -> None:
    """A file; a long log by its two ends; of what is larger than anything that was found out, its size."""
    size = path.stat().st_size
    if path.suffix in (".log", ".journal") and size > 2 * LOG_BYTES:
        text = ends(path)
    elif size > FILE_BYTES:
        name, text = name.with_name(name.name + ".left-out"), f"{size} bytes\n".encode()
    else:
        archive.add(path, name)
        return
    member = archive.gettarinfo(path, str(name))
    member.size = len(text)
    archive.addfile(member, io.BytesIO(text))

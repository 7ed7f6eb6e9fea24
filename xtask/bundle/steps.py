"""The steps that find out about a GPU, in the order of their worth.

A step that a machine lacks something for is left out with the reason. `{within}` in a command is the time that it has, less what
it needs to come to an end by itself.
"""

import importlib.util
import os
import shutil
from dataclasses import dataclass, field

from machine import Machine

TABLE = "table::the_table_holds_under_every_strategy"
# Sanitizers make kernels some hundred times slower. One group in this many has all four forms, with grids of several CTAs.
SANITIZED_EVERY = "172"
# Tests that take the emulated device minutes.
LONG = ["tests-unaligned", "tests-bits", "tests-properties"]
SANITIZERS = ["memcheck", "racecheck", "synccheck"]
# The line of libtest that ran a test.
TESTED = r"ok\. [1-9]\d* passed"
# Sections of Nsight Compute that say what a kernel waits for.
SECTIONS = ["SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats", "SchedulerStats"]


@dataclass
class Step:
    """One command, and what it is for."""

    name: str
    # Seconds that it may take.
    seconds: int
    command: list[str]
    # "gate": nothing is timed where one of these fails. "diagnosis": done then, and only then. "evidence": all others.
    stage: str = "evidence"
    env: dict[str, str] = field(default_factory=dict)
    # The reason why it cannot be done on this machine.
    lacks: str = ""
    # The step that makes what it takes.
    after: str = ""
    # Whether a fault is to leave a GPU core: not where something is timed.
    cores: bool = True
    # First words of the lines of its output that belong in the summary.
    shows: tuple[str, ...] = ()
    # A word without which nothing was done, whatever the exit code says.
    proof: str = ""

    def __post_init__(self) -> None:
        # Paths that the caller's variables name stay in them.
        paths = {name: self.env[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if name in self.env}
        self.env = {**self.env, **{name: ":".join(filter(None, [path, os.environ.get(name)])) for name, path in paths.items()}}


def steps(machine: Machine) -> list[Step]:
    """Every step, most telling first."""
    every = {"thin": "9", "wide": "2"} if not machine.small else {"thin": "400", "wide": "300"}
    return [
        info(machine),
        *smoke(machine),
        tests(machine, "tests-api", 60, "api::", "workspace::", stage="gate"),
        verify(machine, "verify-thin", 75, every["thin"], stage="gate"),
        *diagnosis(machine),
        *headline(machine, "channels-last"),
        *pytorch(machine),
        tests(machine, "tests-litmus", 90, "litmus::", "residency::", "exchange::"),
        tests(machine, "tests-graphs", 45, "graphs::"),
        tests(machine, "tests-rest", 60, "references::", "special::", "thresholds::", "probes::"),
        verify(machine, "verify-wide", 120, every["wide"]),
        *headline(machine, "channels-first"),
        train_step(machine, "train-step-graph", 40, "--mode", "graph", "--dtype", "f16"),
        tests(machine, "tests-unaligned", 60, "--exact", "table::pointers_need_no_alignment"),
        *[sanitizer(machine, f"{tool}", tool, "--exact", TABLE, "thresholds::the_length_of_a_chunk") for tool in SANITIZERS],
        *counters(machine),
        *cost_rows(machine),
        # A compiler takes longer than what it compiles.
        train_step(machine, "train-step-compiled", 150, "--mode", "compiled", "--dtype", "f16"),
        tests(machine, "tests-bits", 60, "bits::"),
        tests(machine, "tests-properties", 60, "properties::", env={"PROPTEST_CASES": "300"}),
        digits(machine),
        # Last, since two grids on streams of different priority may wait for each other for ever.
        tests(machine, "tests-priorities", 30, "priorities::"),
    ]


def info(machine: Machine) -> Step:
    """The device and its limits: without it there is nothing to do."""
    return Step("info", 30, [machine.program("batchnorm"), "info", "--device", "cuda", "--json"], "gate")


def smoke(machine: Machine) -> list[Step]:
    """One launch of each kernel family, strategy and epilogue, each in a process and under a watchdog of its own."""
    script = [machine.python, str(machine.bundle / "smoke.py")]
    program = machine.program("batchnorm")
    jobs = "2" if machine.small else "6"
    return [
        Step("smoke-input", 60, [*script, "make", ".", program], "gate"),
        Step("smoke", 90, [*script, "run", ".", program, jobs], "gate", after="smoke-input",
             shows=("HANG", "FAIL", "WRONG", "smoke:")),
    ]


def tests(machine: Machine, name: str, seconds: int, *filters: str, stage: str = "evidence", env: "dict | None" = None) -> Step:
    """Tests of the device, one after the other, so that the log's last line names what hangs."""
    command = [machine.program("cuda-tests"), "--nocapture", "--test-threads", "1", *filters]
    if machine.small and filters[0].endswith("::"):
        # The suite runs them all: here each group's executable and log count.
        command += ["--skip", "many_launches", "--skip", "exchange", "--skip", "frameworks", "--skip", "thresholds", "--skip", "special"]
    env = {"BATCHNORM_JOURNAL": f"{name}.journal", **(env or {})}
    lacks = "left to the test suite" if machine.small and name in LONG else ""
    return Step(name, seconds, command, stage, env, lacks, shows=("test result",), proof=TESTED)


def verify(machine: Machine, name: str, seconds: int, every: str, stage: str = "evidence") -> Step:
    """THE table of cases, every strategy, against the f64 oracle."""
    command = [machine.program("batchnorm"), "verify", "--device", "cuda", "--every", every, "--within", "{within}"]
    command += ["--journal", f"{name}.journal", "--json", f"{name}.json"]
    return Step(name, seconds, command, stage, shows=("FAILED", "NOT REACHED", "the device was lost"), proof=r"\b[1-9]\d* cases on ")


def bench(machine: Machine, name: str, seconds: int, *args: str, stage: str = "evidence", strategy: str = "auto") -> Step:
    """Rows of the suites, with the floor and the peers that this machine has."""
    command = [machine.program("batchnorm"), "bench", "--device", "cuda", "--seconds", "0.1", "--within", "{within}"]
    command += ["--json", f"{name}.json", "--journal", f"{name}.journal", *args]
    if strategy:
        command += ["--strategy", strategy]
    env = {"LD_LIBRARY_PATH": machine.cudnn} if machine.cudnn else {}
    return Step(name, seconds, command, stage, env, cores=False, shows=("ResNet-50 step", "failed:", "the device was lost"))


def headline(machine: Machine, layout: str) -> list[Step]:
    """ResNet-50's 53 layers in the configurations that users have first: a whole configuration, or there is no total."""
    if machine.small:
        rows = ["--suite", "edge", "--operation", "train", "--filter", "odd-everything f32 channels-last"]
        return [bench(machine, "head-small", 120, "--no-python", *rows)] if layout == "channels-last" else []
    def of(n: int, seconds: int) -> Step:
        rows = ["--suite", "resnet50", "--operation", "train", "--operation", "backward", "--filter", f"n={n} {layout} f16"]
        peers = ["--peer", "torch", "--peer", "torch-cudnn", "--peer", "cudnn"]
        # Once is enough, and the rows for the cost model have them too.
        probes = [] if n == 256 and layout == "channels-last" else ["--no-probes"]
        return bench(machine, f"head-n{n}-{layout}-f16", seconds, *rows, *peers, *machine.peers, *probes)
    return [of(256, 170), of(32, 110)]


def lacks_pytorch(machine: Machine) -> str:
    """The reason why steps of the Python package cannot be done, if there is one."""
    return "" if machine.has_torch and machine.wheels else "no PyTorch or no wheel"


def in_pytorch(machine: Machine, name: str, seconds: int, *command: str, lacks: str = "", cores: bool = True) -> Step:
    """A step of the Python package, which is installed before."""
    env = {"PYTHONPATH": machine.site}
    lacks = lacks_pytorch(machine) or lacks
    return Step(name, seconds, [machine.python, *command], env=env, lacks=lacks, after="torch-install", cores=cores)


def pytorch(machine: Machine) -> list[Step]:
    """The package in PyTorch: its CUDA tests, a training step, and what a call costs the host."""
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile", "--no-cache-dir", "--upgrade"]
    install += ["--target", machine.site, *machine.wheels]
    test = ["-m", "pytest", "-v", "-p", "no:cacheprovider", str(machine.bundle / "python/tests/test_cuda.py")]
    has = importlib.util.find_spec
    host = [str(machine.bundle / "python/benches/host_cost.py"), "--device", "cuda", "--rounds", "20", "--json", "host-cost.json"]
    if has("pytest_timeout"):
        test.append("--timeout=45")
    return [
        Step("torch-install", 40, [machine.python, *install], lacks=lacks_pytorch(machine)),
        in_pytorch(machine, "torch-tests", 90, *test, lacks="" if has("pytest") else "no pytest"),
        train_step(machine, "train-step", 70, "--dtype", "f16", "--dtype", "f32"),
        in_pytorch(machine, "host-cost", 40, *host, cores=False),
    ]


def train_step(machine: Machine, name: str, seconds: int, *options: str) -> Step:
    """A training step of ResNet-50's blocks, torch.nn's batch norms beside ours."""
    script = str(machine.bundle / "python/benches/train_step.py")
    command = [script, "--device", "cuda", "--rounds", "20", *options, "--json", f"{name}.json"]
    return in_pytorch(machine, name, seconds, *command, cores=False)


def digits(machine: Machine) -> Step:
    """A network that learns: what a user would try first."""
    script = str(machine.bundle / "python/examples/train_digits.py")
    return in_pytorch(machine, "digits", 60, script, "--device", "cuda", "--out", "digits.safetensors")


def sanitizer(machine: Machine, name: str, tool: str, *filters: str, stage: str = "evidence") -> Step:
    """A few tests under compute-sanitizer."""
    found = shutil.which("compute-sanitizer")
    command = [found or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
    command += [machine.program("cuda-tests"), "--nocapture", "--test-threads", "1", *filters]
    env = {"BATCHNORM_TABLE_EVERY": SANITIZED_EVERY}
    return Step(name, 75, command, stage, env, lacks="" if found else "no compute-sanitizer", cores=False, shows=("========= ERROR",), proof=TESTED)


def diagnosis(machine: Machine) -> list[Step]:
    """Why the gate is closed: what a sanitizer says of small launches, and whether the device itself is well."""
    small = ["--exact", "api::every_strategy_gives_the_reference"]
    rows = ["--no-python", "--suite", "edge", "--operation", "infer", "--filter", "odd-everything f32 channels-first"]
    return [
        *[sanitizer(machine, f"diagnosis-{tool}", tool, *small, stage="diagnosis") for tool in SANITIZERS],
        bench(machine, "diagnosis-probes", 60, *rows, stage="diagnosis"),
    ]


def counters(machine: Machine) -> list[Step]:
    """The stalls of the kernels of the largest channels-first row, by Nsight Compute."""
    found = shutil.which("ncu")
    lacks = "" if found else "no ncu"
    make = [machine.python, str(machine.bundle / "smoke.py"), "large", "."]
    sections = [word for section in SECTIONS for word in ("--section", section)]
    ncu = [found or "ncu", "--clock-control", "none", "--csv", "--page", "details", *sections]
    def of(strategy: str, op: str) -> Step:
        run = [machine.program("batchnorm"), "run", "--device", "cuda", "--strategy", strategy, "--op", op]
        run += ["--layout", "channels-first", "--input", "in-large.safetensors", "--output", "got-large.safetensors"]
        return Step(f"ncu-{strategy}-{op}", 30, [*ncu, *run], lacks=lacks, after="ncu-input", cores=False)
    kernels = [of(strategy, op) for strategy in ("cluster", "grid", "two-read") for op in ("train", "backward")]
    return [Step("ncu-input", 60, make, lacks=lacks), *kernels]


def cost_rows(machine: Machine) -> list[Step]:
    """Rows by every strategy, for the constants of the planner's cost model."""
    if machine.small:
        return []
    both = ["--operation", "train", "--operation", "backward", "--no-python"]
    rows = {
        "n64-f16": ["--suite", "resnet50", "--filter", "n=64 f16"],
        "n32-f32": ["--suite", "resnet50", "--filter", "n=32 channels-first f32"],
        "edge": ["--suite", "edge"],
        "mlp": ["--suite", "mlp"],
    }
    return [bench(machine, f"cost-{name}", 120, *both, *args, strategy="") for name, args in rows.items()]

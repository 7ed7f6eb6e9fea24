"""The machine that evidence is made on: the bundle on it, the interpreter's packages, the programs on PATH."""

import importlib.util
import os
import shutil
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import watch


@dataclass
class Machine:
    """The machine that the steps depend on: the bundle, the interpreter's packages, the programs on PATH."""

    bundle: Path
    # The folder of the steps' files.
    folder: Path
    # A rehearsal on the emulated device: few cases, small rows.
    small: bool = False
    # The share of its seconds that each step has in a rehearsal.
    pace: float = 1
    python: str = sys.executable

    def __post_init__(self) -> None:
        self.cudnn = libraries()
        self.has_torch = importlib.util.find_spec("torch") is not None
        self.wheels = sorted(map(str, (self.bundle / "python").glob("*.whl")))
        self.site = str(self.folder / "site")
        # `batchnorm bench` starts this interpreter for its peers.
        self.peers = ["--python", self.python] if self.has_torch else ["--no-python"]

    def program(self, name: str) -> str:
        return str(self.bundle / name)

    def notes(self) -> list[str]:
        """The programs and packages that are missing, in a line each."""
        missing = [
            (not self.has_torch, f"no PyTorch in {self.python}: no peers in Python, and the package is not tested"),
            (not self.cudnn, "no cuDNN beside PyTorch: it is no peer unless the loader finds it"),
            (not self.wheels, "no wheel in this bundle: the PyTorch package is not tested"),
            (shutil.which("compute-sanitizer") is None, "no compute-sanitizer"),
            (shutil.which("ncu") is None, "no ncu"),
            (shutil.which("cuda-gdb") is None, "no cuda-gdb: a hang or fault is not looked into"),
        ]
        return [text for is_missing, text in missing if is_missing]

    def facts(self) -> str:
        """The build, the device, the system, the interpreter."""
        of = "name,uuid,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
        of += ",ecc.mode.current,mig.mode.current,persistence_mode"
        said = [(self.bundle / "built.txt").read_text()]
        for command in (["nvidia-smi", f"--query-gpu={of}", "--format=csv"], ["uname", "-a"], ["ldd", "--version"]):
            text, _ = watch.answer(command, 10)
            said.append(f"$ {' '.join(command[:1])}\n{text or 'not here'}")
        said.append(f"python {sys.version}\ncuDNN in {self.cudnn or 'no package'}\n")
        said += [f"{name}: {shutil.which(name)}\n" for name in ("compute-sanitizer", "ncu", "cuda-gdb")]
        return "\n".join(said)

    def environment(self) -> dict[str, str]:
        """The variables of every step."""
        env = {**os.environ, "BATCHNORM_DATA": str(self.bundle), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        env["RUST_BACKTRACE"] = "0"
        env.setdefault("BATCHNORM_REQUIRE_GPU", "1")  # A test that skips itself is no evidence.
        return env


def libraries() -> str:
    """The folders of cuDNN and cuBLAS as pip installs them, where no loader looks for them."""
    tops = dict.fromkeys([sysconfig.get_paths()["purelib"], *site.getsitepackages(), *sys.path])
    found = [
        folder
        for top in tops if top
        for name in ("cudnn", "cu13", "cublas")
        for folder in [Path(top) / "nvidia" / name / "lib"]
        if folder.is_dir()
    ]
    has_cudnn = any(list(folder.glob("libcudnn.so*")) for folder in found)
    return ":".join(map(str, found)) if has_cudnn else ""

"""maturin's build backend, with the kernels where BATCHNORM_CUDA asks for them, and with no folder of the building machine in what is built.

Panic messages name source files. rustc takes a file by where it lies, in a home folder or a temporary one; here each such folder gets
a name that is the same everywhere.
"""

import json
import os
import pathlib
import shlex
import subprocess


def folders():
    """Folders that source files lie in, with what they are called instead. Of several that a file is in the last counts."""
    # The crate is next to pyproject.toml in an archive, and one folder up in the repository.
    package = pathlib.Path(__file__).resolve().parent.parent
    root = package if (package / "kernels").is_dir() else package.parent
    yield root, "batchnorm"
    if "CARGO_TARGET_DIR" in os.environ:
        yield pathlib.Path(os.environ["CARGO_TARGET_DIR"]).absolute(), "target"
    yield pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo").absolute(), "cargo"
    try:
        sysroot = [os.environ.get("RUSTC", "rustc"), "--print", "sysroot"]
        yield pathlib.Path(subprocess.run(sysroot, capture_output=True, check=True, text=True).stdout.strip()), "rust"
    except (OSError, subprocess.CalledProcessError):
        pass  # maturin says that there is no Rust, or fetches one.


def add_arguments(*arguments):
    """Adds to what maturin is called with."""
    os.environ["MATURIN_PEP517_ARGS"] = f"{os.environ.get('MATURIN_PEP517_ARGS', '')} {shlex.join(arguments)}".strip()


def rename_folders():
    """Has rustc call the folders by their other names, in addition to flags of the environment and of cargo's files."""
    flags = [f"--remap-path-prefix={folder}={name}" for folder, name in folders()]
    if "CARGO_ENCODED_RUSTFLAGS" in os.environ or "RUSTFLAGS" in os.environ:
        before = os.environ.get("CARGO_ENCODED_RUSTFLAGS", "\x1f".join(os.environ.get("RUSTFLAGS", "").split()))
        os.environ["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join([*filter(None, [before]), *flags])
    else:
        add_arguments("--config", f"build.rustflags={json.dumps(flags, ensure_ascii=False)}")


rename_folders()
if os.environ.get("BATCHNORM_CUDA", "0") not in ("", "0"):
    add_arguments("--features", "cuda")

from maturin import *  # noqa: E402,F401,F403
from maturin import (  # noqa: E402,F401
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

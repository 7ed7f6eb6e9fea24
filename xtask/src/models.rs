//! Whole networks of torchvision and timm with the Python package, in several versions of PyTorch.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::ci::step;

/// An installer that unpacks PyTorch's five gigabytes in less than a minute.
const UV: &str = "uv==0.13.9";
/// The folder that it is installed in, with its version in the name.
const TOOLS: &str = "target/tools/uv-0.13.9";
/// Packages in addition to those of the package's README, for the PyTorch of that.
const REQUIREMENTS: &str = "python/tests/models/requirements.txt";

/// A version of PyTorch that the package supports, with the torchvision of it, and what is tested there.
struct Version {
    torch: &'static str,
    torchvision: &'static str,
    tests: &'static [&'static str],
}

/// One whose operations are registered from Rust, but called through the dispatcher; and one that gets them from Python.
const OTHERS: [Version; 2] = [
    Version {
        torch: "2.11.0",
        torchvision: "0.26.0",
        tests: &[
            "tests/models/test_distributed.py",
            "tests/models/test_networks.py",
            "tests/test_convert.py",
            "tests/test_converted_classes.py",
            "tests/test_backend.py",
            "tests/test_memory_orders.py",
            "-k",
            "not (mobilenet or resnet26 or resnet50 or another_order or inductor)",
        ],
    },
    Version {
        torch: "2.9.1",
        torchvision: "0.24.1",
        tests: &[
            "tests/models/test_networks.py",
            "tests/test_convert.py",
            "tests/test_converted_classes.py",
            "tests/test_modules.py",
            "tests/test_refusals.py",
            "-k",
            "not (mobilenet or resnet26 or resnet50 or regnety)",
        ],
    },
];

/// Trains and exports whole networks, with the package's wheel, in the environment that its README makes and in those of other
/// versions of PyTorch, which go again.
pub(crate) fn run(python: &Path, wheel: &Path) -> Result<(), Box<dyn Error>> {
    if !Path::new(TOOLS).is_dir() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", TOOLS, UV]);
        step("models: an installer", &mut pip)?;
    }
    let uv = fs::canonicalize(TOOLS)?.join("bin/uv");
    let install = |python: &Path| {
        let mut install = Command::new(&uv);
        install.args(["pip", "install", "--quiet", "--no-cache", "--python"]).arg(python);
        install
    };
    let tests = |python: &Path, tests: &[&str]| {
        let mut pytest = Command::new(python);
        pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).args(tests).current_dir("python");
        pytest.env("PYTHONDONTWRITEBYTECODE", "1");
        pytest
    };
    step("models: torchvision, timm, ONNX", install(python).args(["--requirement", REQUIREMENTS]))?;
    step("models: whole networks", &mut tests(python, &["tests/models"]))?;
    for version in OTHERS {
        let folder = fs::canonicalize("target")?.join(format!("python-venv-{}", version.torch));
        step("models: another environment", Command::new(&uv).args(["venv", "--quiet", "--clear"]).arg(&folder))?;
        let python = folder.join("bin/python");
        let (torch, torchvision) =
            (format!("torch=={}", version.torch), format!("torchvision=={}", version.torchvision));
        let mut packages = install(&python);
        packages.args([&torch, &torchvision]).args(["timm==1.0.31", "numpy", "pytest", "expecttest"]).arg(wheel);
        step(&format!("models: PyTorch {}", version.torch), &mut packages)?;
        step(&format!("models: tests with PyTorch {}", version.torch), &mut tests(&python, version.tests))?;
        fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

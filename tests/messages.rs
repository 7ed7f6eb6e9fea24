//! The compiler's words about usual mistakes: of each the sentence that is this crate's own, since the rest changes with rustc.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::SystemTime;
use std::{env, fs};

/// The folder in which this test lies, with the libraries that it was linked with.
static DEPS: LazyLock<PathBuf> = LazyLock::new(|| env::current_exe().unwrap().parent().unwrap().into());

/// Compiles a program against a library of this crate.
fn compile(library: &Path, program: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program.rs");
    fs::write(&source, program).unwrap();
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--out-dir"]).arg(folder.path());
    rustc.arg("--extern").arg(format!("batchnorm={}", library.display()));
    rustc.arg("-L").arg(format!("dependency={}", DEPS.display()));
    rustc.arg(source).output().expect("rustc")
}

/// The newest library of this crate that a program compiles with, which tells features apart: cargo keeps several.
fn library(program: &str) -> PathBuf {
    let built = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libbatchnorm-") && name.ends_with(".rlib")
    };
    let mut libraries: Vec<_> =
        fs::read_dir(&*DEPS).unwrap().map(|entry| entry.unwrap().path()).filter(is_ours).collect();
    libraries.sort_by_key(built);
    let mut newest_first = libraries.into_iter().rev();
    newest_first.find(|library| compile(library, program).status.success()).expect("a library of this crate")
}

/// Compiles a program that must be refused with this text.
fn assert_refused(library: &Path, program: &str, text: &str) {
    let output = compile(library, program);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "expected a refusal of: {program}");
    assert!(words.contains(text), "expected \"{text}\" of: {program}\ngot: {words}");
}

#[test]
fn usual_mistakes_have_words_of_their_own() {
    let library = library("pub use batchnorm::half::f16;");
    for (program, text) in [
        (
            "pub fn layer(_: batchnorm::BatchNorm<batchnorm::Cpu, batchnorm::half::f16>) {}",
            "parameters are f32 (f64 for f64 data), also of a layer for f16 and bf16 data",
        ),
        (
            "pub fn bytes() -> usize { fn of<T: batchnorm::Element>() -> usize { size_of::<T>() } of::<i32>() }",
            "data is f32, f16 or bf16, and on the CPU f64; f16 and bf16 are those of `batchnorm::half`",
        ),
        (
            "pub fn layer() { let _ = batchnorm::BatchNorm::new(0, 64, batchnorm::Options::default()); }",
            "expected `Cpu`, or `Cuda` with the feature `cuda`",
        ),
        (
            "pub fn infer<B: batchnorm::Backend>(backend: B, x: B::In<'_, f32>, y: B::Out<'_, f32>) {
                 let layer = batchnorm::BatchNorm::new(backend, 1, batchnorm::Options::default()).unwrap();
                 layer.infer::<f32>(batchnorm::Shape::nc(1, 1).unwrap(), x, batchnorm::Epilogue::RELU, y).unwrap();
             }",
            "does not compute data of `f32`",
        ),
    ] {
        assert_refused(&library, program, text);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn f64_on_a_device_has_words_of_its_own() {
    let library = library("pub use batchnorm::Cuda; pub use batchnorm::cudarc::driver::CudaStream;");
    let program = "pub fn run(cuda: &batchnorm::Cuda, moments: batchnorm::op::Moments<'_, batchnorm::Cuda, f64>) {
                       batchnorm::Compute::run(cuda, moments).unwrap();
                   }";
    assert_refused(&library, program, "`Cpu` computes f32, f16, bf16 and f64, `Cuda` f32, f16 and bf16");
}

/// No text of this crate's: rustc says so of what a feature leaves out.
#[cfg(not(feature = "cuda"))]
#[test]
fn the_missing_feature_is_named() {
    // Were there a `Cuda` in the crate, the name would have two meanings.
    let library = library("mod own { pub struct Cuda; } use batchnorm::*; use own::*; pub fn takes(_: Cuda) {}");
    assert_refused(&library, "pub use batchnorm::Cuda;", "the item is gated behind the `cuda` feature");
}

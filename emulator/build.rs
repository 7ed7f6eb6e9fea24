//! Builds libcuda.so.1 and the glue with g++, and tells dependents how to compile their kernels.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

/// Flags by which g++ compiles a .cu file so that its accesses are seen as nvcc would issue them: nothing is contracted or
/// reassociated, no loads or stores are merged, split or made up, and the hooks are called for accesses alone.
const KERNEL_FLAGS: &[&str] = &[
    "-x",
    "c++",
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-D__CUDA_EMULATOR__",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-exceptions",
    "-fno-gnu-unique",
    "-fno-strict-aliasing",
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fno-tree-vectorize",
    "-fno-tree-sra",
    "-fno-store-merging",
    "-fno-tree-loop-distribute-patterns",
    "-Wno-unknown-pragmas",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for folder in ["src/device", "src/glue", "include"] {
        println!("cargo::rerun-if-changed={folder}");
    }

    let library = build_device(&root, &out)?;
    let alias = build_alias(&out, &library)?;
    build_glue(&root, &library, &alias)?;

    println!("cargo::metadata=include={}", root.join("include").display());
    println!("cargo::metadata=flags={}", KERNEL_FLAGS.join(" "));
    Ok(())
}

/// Optimized in every profile: each access of a kernel passes through this code.
fn compiler(root: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .pic(true)
        .include(root.join("include"))
        .include(root.join("src/device"))
        .flag_if_supported("-fno-exceptions")
        .flag_if_supported("-Wno-missing-field-initializers")
        .flag_if_supported("-Wno-unused-parameter");
    build
}

fn build_device(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(root.join("src/device"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            sources.push(path);
        }
    }
    sources.sort();
    let mut build = compiler(root);
    let objects = build.files(&sources).flag("-fvisibility=hidden").try_compile_intermediates()?;
    let library = out.join("libcuda.so.1");
    link_shared(&library, "libcuda.so.1", &objects)?;
    Ok(library)
}

/// `dlopen` finds a loaded library by its SONAME only. Some ask for libcuda.so, some for libcuda.so.1: an empty library
/// with the other name leads to the same device.
fn build_alias(out: &Path, library: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let alias = out.join("libcuda.so");
    link_shared(&alias, "libcuda.so", &[library.to_path_buf()])?;
    Ok(alias)
}

fn link_shared(to: &Path, soname: &str, inputs: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let status = cc::Build::new()
        .cpp(true)
        .opt_level(2)
        .debug(false)
        .get_compiler()
        .to_command()
        .arg("-shared")
        .arg("-o")
        .arg(to)
        .arg("-Wl,--no-as-needed")
        .args(inputs)
        .arg(format!("-Wl,-soname,{soname}"))
        .args(["-pthread", "-ldl"])
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("linking {soname} failed").into()) }
}

/// Linked whole, so that the hooks are there for kernels that come later on the linker's command line.
fn build_glue(root: &Path, library: &Path, alias: &Path) -> Result<(), Box<dyn Error>> {
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    compiler(root)
        .file(root.join("src/glue/glue.cpp"))
        .define("__CUDA_EMULATOR__", None)
        .define("CUDA_EMULATOR_LIBRARY", quoted(library).as_str())
        .define("CUDA_EMULATOR_ALIAS", quoted(alias).as_str())
        .cargo_metadata(false)
        .try_compile("cuda_emulator_glue")?;
    println!("cargo::rustc-link-search=native={}", env::var("OUT_DIR")?);
    println!("cargo::rustc-link-lib=static:+whole-archive=cuda_emulator_glue");
    println!("cargo::rustc-link-lib=stdc++");
    println!("cargo::rustc-link-lib=dl");
    Ok(())
}

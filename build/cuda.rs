// The build with the feature `cuda`.

use std::env;
use std::error::Error;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

#[cfg(feature = "bindgen")]
mod bindings;
mod cache;
mod choice;
mod flags;
mod hash;
mod nvcc;
mod sources;
mod toolkit;

use cache::Cache;
use choice::Kernels;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One source file's compiler, set up for it alone: more than one .cu in a `cc::Build` turns on relocatable device code.
type Compiler<'a> = dyn Fn() -> cc::Build + Sync + 'a;

/// Compiles and links the kernels, or says in one message what is missing.
pub(crate) fn build() -> Result<()> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    for path in ["build", "kernels", "src/cuda/ffi.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let ours = ["ARCHS", "CACHE", "COMPRESS", "LINEINFO"].map(|name| format!("BATCHNORM_CUDA_{name}"));
    let others = [choice::SKIP, choice::EMULATE_RELEASE, "DOCS_RS", "NVCC", "CUDA_HOME", "CUDA_PATH"];
    for name in ours.iter().map(String::as_str).chain(others) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    bind(&root)?;
    // Tables of measured plans are of these kernels alone.
    println!("cargo::rustc-env=BATCHNORM_KERNELS_HASH={}", hash::sources(&root.join("kernels"))?);
    match choice::choose(cfg!(feature = "emulate"), |name| env::var_os(name))? {
        Kernels::Skipped => {
            println!("cargo::rustc-link-lib={}", choice::NO_KERNELS);
            Ok(())
        }
        Kernels::Emulated => emulated(&root),
        Kernels::Native => native(&root),
    }
}

/// The bindings as they are made from kernels/abi.h now.
#[cfg(feature = "bindgen")]
fn bind(root: &Path) -> Result<()> {
    let header = root.join("kernels/abi.h");
    let header = header.to_str().ok_or("the path of kernels/abi.h is not UTF-8")?;
    let builder = bindings::builder(header)?.formatter(bindgen::Formatter::None);
    Ok(builder.generate()?.write_to_file(Path::new(&variable("OUT_DIR")?).join("ffi.rs"))?)
}

/// The checked-in bindings are those of kernels/abi.h.
#[cfg(not(feature = "bindgen"))]
fn bind(root: &Path) -> Result<()> {
    let line = hash::line(&fs::read(root.join("kernels/abi.h")).map_err(|e| format!("kernels/abi.h: {e}"))?);
    let bindings = fs::read_to_string(root.join("src/cuda/ffi.rs")).map_err(|e| format!("src/cuda/ffi.rs: {e}"))?;
    if bindings.lines().any(|found| found == line) {
        Ok(())
    } else {
        Err("kernels/abi.h changed since src/cuda/ffi.rs was made of it: run `cargo xtask bindings`".into())
    }
}

/// Compiles the kernels for a GPU, by nvcc, with the CUDA runtime linked statically.
fn native(root: &Path) -> Result<()> {
    let architectures = env::var("BATCHNORM_CUDA_ARCHS").unwrap_or_else(|_| flags::ARCHITECTURES.into());
    let gencode = flags::gencode(&architectures).map_err(|e| format!("BATCHNORM_CUDA_ARCHS: {e}"))?;
    let compress = env::var("BATCHNORM_CUDA_COMPRESS").ok();
    let compress = flags::compression(compress.as_deref()).map_err(|e| format!("BATCHNORM_CUDA_COMPRESS: {e}"))?;
    let lines = env::var("BATCHNORM_CUDA_LINEINFO").is_ok_and(|value| value == "1");
    // Packages come without xtask.
    let strict = root.join("xtask").is_dir();
    let nvcc = nvcc::find(root)?;
    // SAFETY: the build script has one thread here. cc takes nvcc from the environment alone.
    unsafe { env::set_var("NVCC", &nvcc) };

    let mut flags: Vec<String> = flags::FLAGS.map(String::from).into_iter().chain(gencode).collect();
    flags.extend(compress.map(String::from));
    // An object has the names of nvcc's intermediate files in it, which have the process's number in them elsewhere.
    flags.push("--objdir-as-tempdir".into());
    flags.extend(lines.then(|| "-lineinfo".into()));
    let cache = env::var_os("BATCHNORM_CUDA_CACHE").filter(|folder| !folder.is_empty());
    let cache =
        cache.map(|folder| Cache::open(Path::new(&folder), &root.join("kernels"), &nvcc, &flags)).transpose()?;
    // Not part of the cache's key: what stops at a warning makes the same objects.
    flags.extend(strict.then(|| flags::STRICT.into()));
    let compiler = || {
        let mut build = cc::Build::new();
        // No defaults: they bring the profile's -O, and with debug information -G, which is unoptimized device code.
        build.cuda(true).cudart("none").no_default_flags(true).debug(false).flags(&flags);
        build
    };
    compile(root, &compiler, cache.as_ref())?;
    println!("cargo::rustc-link-search=native={}", nvcc::runtime(&nvcc)?.display());
    println!("cargo::rustc-link-lib=static=cudart_static");
    for library in ["dl", "rt", "pthread"] {
        println!("cargo::rustc-link-lib={library}");
    }
    Ok(())
}

/// Compiles the kernels for the emulated device, by the C++ compiler, with the headers and flags of the emulator. Its
/// files of launches have the hash of the sources.
fn emulated(root: &Path) -> Result<()> {
    let include = variable("DEP_CUDA_EMULATOR_INCLUDE")?;
    let flags = variable("DEP_CUDA_EMULATOR_FLAGS")?;
    let sources = format!("\"{}\"", hash::sources(&root.join("kernels"))?);
    let compiler = || {
        let mut build = cc::Build::new();
        build.cpp(true).no_default_flags(true).debug(false).include(&include).flags(flags.split_whitespace());
        build.define("CUDA_EMULATOR_BUILD", sources.as_str());
        build.flag("-Werror=switch"); // No activation, strategy or dtype is forgotten: nvcc does not say so.
        build
    };
    compile(root, &compiler, None)
}

/// Compiles every .cu below kernels/ that the cache has no object of, several at a time, into one static library.
fn compile(root: &Path, compiler: &Compiler<'_>, cache: Option<&Cache>) -> Result<()> {
    let mut sources = sources::compiled(&root.join("kernels"))?;
    // Measuring a device is no part of using it.
    sources.retain(|file| cfg!(feature = "bench") || !file.ends_with("probes.cu"));
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).map_or(1, NonZero::<usize>::get);
    let (waiting, objects) = (Mutex::new(sources.iter()), Mutex::new(Vec::new()));
    let work = || -> std::result::Result<(), String> {
        loop {
            let Some(source) = waiting.lock().map_err(|e| e.to_string())?.next() else { return Ok(()) };
            let object = match cache.and_then(|cache| cache.find(source)) {
                Some(kept) => vec![kept],
                None => {
                    let mut build = compiler();
                    let made = build.cargo_metadata(false).file(source).try_compile_intermediates();
                    let made = made.map_err(|e| format!("{} does not compile: {e}", source.display()))?;
                    cache.map_or(Ok(()), |cache| made.iter().try_for_each(|made| cache.keep(source, made)))?;
                    made
                }
            };
            objects.lock().map_err(|e| e.to_string())?.push((source, object));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(sources.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a compiling thread panicked".to_string())?)
    })?;
    let mut objects = objects.into_inner().map_err(|e| e.to_string())?;
    objects.sort(); // The same archive however the threads took turns.
    let mut archive = cc::Build::new();
    archive.cpp(true).objects(objects.into_iter().flat_map(|(_, object)| object));
    Ok(archive.try_compile("batchnorm_kernels")?)
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|e| format!("{name}: {e}").into())
}

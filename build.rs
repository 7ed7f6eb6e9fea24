//! Compiles the .cu files of kernels/ into the crate: with nvcc for a GPU, or with the C++ compiler and the headers of the emulated
//! device. Without the feature `cuda` there is nothing to do.

#[cfg(feature = "cuda")]
#[path = "build/cuda.rs"]
mod cuda;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(error) = cuda::build() {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

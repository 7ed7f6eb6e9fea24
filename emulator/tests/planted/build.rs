//! Compiles the planted kernels for the emulated device, as any user of `cuda-emulator` does.

fn main() {
    let flags = std::env::var("DEP_CUDA_EMULATOR_FLAGS").expect("cuda-emulator gives its flags");
    let include = std::env::var("DEP_CUDA_EMULATOR_INCLUDE").expect("cuda-emulator gives its headers");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed={include}");
    let mut build = cc::Build::new();
    build.cpp(true).opt_level(2).debug(false).include(include).flags(flags.split(' '));
    for entry in std::fs::read_dir("kernels").expect("there are kernels") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            build.file(path);
        }
    }
    build.compile("planted");
}

// nvcc's command line. Shared by build.rs and `cargo xtask kernels`, so that what is reported is what is built.

/// For every file. Without `-fmad=false` a GPU and the emulated device would not agree bit for bit; `--compress-mode`
/// makes the fat binary 18 times smaller (13.6 to 0.77 MB on a sample). Never here: `--use_fast_math`,
/// `--default-stream per-thread`.
pub(crate) const FLAGS: [&str; 5] = ["-std=c++17", "-O3", "-fmad=false", "--compress-mode=size", "-Xcompiler=-fPIC"];

/// In this workspace; a user's newer compiler must not stop at a warning that ours does not know.
pub(crate) const STRICT: &str = "-Werror=all-warnings";

/// Real code for these compute capabilities, and PTX of the newest.
pub(crate) const ARCHITECTURES: &str = "80,90,100,120";

/// The `-gencode` flags for compute capabilities separated by commas, such as "90" or "80,90a".
///
/// PTX is that of the newest without its suffix: PTX for 90a would load on no other GPU.
pub(crate) fn gencode(list: &str) -> Result<Vec<String>, String> {
    let mut flags = Vec::new();
    let mut newest = 0;
    for name in list.split(',').map(str::trim) {
        let number = name.strip_suffix(['a', 'f']).unwrap_or(name);
        let capability = number.parse::<u32>().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(capability) = capability.filter(|capability| (80..1000).contains(capability)) else {
            return Err(format!(
                "\"{list}\" names no GPU architectures: give compute capabilities from 80 on, such as \
                                \"90\" or \"80,90a\" (at \"{name}\")"
            ));
        };
        newest = newest.max(capability);
        let flag = format!("-gencode=arch=compute_{name},code=sm_{name}");
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    flags.push(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    Ok(flags)
}

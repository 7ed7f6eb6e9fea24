// nvcc's command line. Shared by build.rs and `cargo xtask kernels`, so that what is reported is what is built.

use std::collections::BTreeMap;

/// Flags of every file. Without `-fmad=false` a GPU and the emulated device would not agree bit for bit. Never here:
/// `--use_fast_math`, `--default-stream per-thread`.
pub(crate) const FLAGS: [&str; 4] = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC"];

/// A flag of every file too, unless it is switched off: makes the fat binary 18 times smaller (13.6 to 0.77 MB on a sample).
/// Drivers before CUDA 12.4 (R550) cannot read such a binary (nvcc's documentation); nvcc 12.8 and 12.9 can build for them.
pub(crate) const COMPRESS: &str = "--compress-mode=size";

/// The flag for BATCHNORM_CUDA_COMPRESS: "0" leaves it out.
pub(crate) fn compression(setting: Option<&str>) -> Result<Option<&'static str>, String> {
    match setting {
        None | Some("" | "1") => Ok(Some(COMPRESS)),
        Some("0") => Ok(None),
        Some(other) => Err(format!("expected 0 or 1, got \"{other}\"")),
    }
}

/// A flag in this workspace alone: a user's newer compiler must not stop at a warning that ours does not know.
pub(crate) const STRICT: &str = "-Werror=all-warnings";

/// Machine code for these compute capabilities, and PTX for those between and after them.
pub(crate) const ARCHITECTURES: &str = "80,90,100,120";

/// The first compute capability with thread-block clusters. On its devices and newer ones clusters are launched, and code
/// made for an older one exchanges nothing in a cluster.
const CLUSTERS: u32 = 90;

/// The `-gencode` flags for compute capabilities separated by commas, such as "90" or "80,90a".
///
/// No device from the oldest of them on is left without code. Machine code runs on the rest of its major version ("86" on
/// 8.9), with a suffix on its own capability alone; PTX runs on whatever is newer. So there is PTX wherever devices may lie
/// between one capability and the next, and of the newest: "80,90,100,120" has that of 100, for 11.0, and that of 120.
/// PTX has no suffix, since that for 90a would load on no other GPU, and knows clusters: that for 80 is made for 90.
pub(crate) fn gencode(list: &str) -> Result<Vec<String>, String> {
    let mut flags = Vec::new();
    let mut listed = BTreeMap::new(); // with the first capability that the machine code does not run on
    for name in list.split(',').map(str::trim) {
        let number = name.strip_suffix(['a', 'f']).unwrap_or(name);
        let capability = number.parse::<u32>().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(capability) = capability.filter(|capability| (80..1000).contains(capability)) else {
            return Err(format!(
                "\"{list}\" names no GPU architectures: give compute capabilities from 80 on, such as \
                                \"90\" or \"80,90a\" (at \"{name}\")"
            ));
        };
        let end = if name == number { (capability / 10 + 1) * 10 } else { capability + 1 };
        let known = listed.entry(capability).or_insert(end);
        *known = end.max(*known);
        let flag = format!("-gencode=arch=compute_{name},code=sm_{name}");
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    let mut covered = 0;
    let mut following = listed.keys().skip(1);
    for (&capability, &end) in &listed {
        covered = end.max(covered);
        if following.next().is_none_or(|&next| next > covered) {
            let ptx = capability.max(CLUSTERS);
            flags.push(format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
        }
    }
    Ok(flags)
}

//! `--device`: where to compute.

use core::fmt;
use core::str::FromStr;

use crate::failure::Failure;

/// A device as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// The CPU reference, on all threads.
    Cpu,
    /// A CUDA device by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some("0"),
            _ => text.strip_prefix("cuda:"),
        };
        // `parse` alone would take a sign.
        let digits = number.filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|n| n.parse().ok()).map(Self::Cuda).ok_or_else(|| "expected cpu, cuda or cuda:N".into())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
impl Device {
    /// The failure of a device that this build has no code for.
    pub(crate) fn not_built(self) -> Failure {
        Failure::new(format!("--device {self}: this build has no CUDA support; expected cpu"))
    }
}

/// The CUDA device of this number.
#[cfg(feature = "cuda")]
pub(crate) fn cuda(number: usize) -> Result<batchnorm::Cuda, Failure> {
    batchnorm::Cuda::new(number).map_err(|error| Failure::new(format!("--device cuda:{number}: {error}")))
}

/// Whether a CUDA device of this name is an emulated one, which is slow.
#[cfg(feature = "cuda")]
pub(crate) fn is_emulated(name: &str) -> bool {
    name.starts_with("emulated")
}

/// Every limit of a device by its name.
#[cfg(feature = "cuda")]
pub(crate) fn limits_json(limits: &batchnorm::DeviceLimits) -> serde_json::Value {
    let (major, minor) = limits.compute_capability;
    let clusters = |of_share: [u32; 4]| serde_json::json!({ "2": of_share[0], "4": of_share[1], "8": of_share[2], "16": of_share[3] });
    serde_json::json!({
        "compute_capability": [major, minor],
        "sms": limits.sms,
        "shared_per_sm": limits.shared_per_sm,
        "shared_per_cta": limits.shared_per_cta,
        "shared_reserved": limits.shared_reserved,
        "threads_per_sm": limits.threads_per_sm,
        "ctas_per_sm": limits.ctas_per_sm,
        "l2_bytes": limits.l2_bytes,
        "memory_gb_per_s": limits.memory_gb_per_s,
        "cooperative": limits.cooperative,
        "clusters": {
            "one_cta_per_sm": clusters(limits.clusters[0]),
            "two_ctas_per_sm": clusters(limits.clusters[1]),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        for text in ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999999999999"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}

//! `--device`: where to compute.

use core::fmt;
use core::str::FromStr;

use batchnorm::plan::DeviceLimits;
use serde_json::{Value, json};

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

/// The CUDA device of this number, whose memory pool this program's repeated allocations have for themselves.
#[cfg(feature = "cuda")]
pub(crate) fn cuda(number: usize) -> Result<batchnorm::Cuda, Failure> {
    let device = batchnorm::Cuda::new(number).and_then(|cuda| cuda.keep_memory().map(|()| cuda));
    device.map_err(|error| Failure::new(format!("--device cuda:{number}: {error}")))
}

/// The limits of a CUDA device, each under its name.
pub(crate) fn limits_json(limits: &DeviceLimits) -> Value {
    let DeviceLimits {
        compute_capability: (major, minor),
        sms,
        shared_per_sm,
        shared_per_cta,
        shared_reserved,
        threads_per_sm,
        ctas_per_sm,
        l2_bytes,
        memory_gb_per_s,
        cooperative,
        clusters: [one_cta_per_sm, two_ctas_per_sm],
    } = *limits;
    let by_size = |[of_2, of_4, of_8, of_16]: [u32; 4]| json!({ "2": of_2, "4": of_4, "8": of_8, "16": of_16 });
    json!({
        "compute_capability": [major, minor],
        "sms": sms,
        "shared_per_sm": shared_per_sm,
        "shared_per_cta": shared_per_cta,
        "shared_reserved": shared_reserved,
        "threads_per_sm": threads_per_sm,
        "ctas_per_sm": ctas_per_sm,
        "l2_bytes": l2_bytes,
        "memory_gb_per_s": memory_gb_per_s,
        "cooperative": cooperative,
        "clusters": {
            "one_cta_per_sm": by_size(one_cta_per_sm),
            "two_ctas_per_sm": by_size(two_ctas_per_sm),
        },
    })
}

/// Whether a CUDA device of this name is an emulated one, which is slow.
#[cfg(feature = "cuda")]
pub(crate) fn is_emulated(name: &str) -> bool {
    name.starts_with("emulated")
}

/// Bytes that the threads of an emulated device moved for this thread since the last call. `None` of a GPU, which does not tell.
#[cfg(feature = "cuda")]
pub(crate) fn counted_bytes() -> Option<u64> {
    #[cfg(feature = "emulate")]
    {
        let cuda_emulator::Traffic { loaded, stored } = cuda_emulator::traffic();
        cuda_emulator::reset_traffic();
        Some(loaded + stored)
    }
    #[cfg(not(feature = "emulate"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_their_names() {
        let (_, known) = DeviceLimits::KNOWN[1];
        let limits = DeviceLimits { sms: 132, clusters: [[66, 32, 15, 7], [132, 64, 30, 14]], ..known };
        let json = limits_json(&limits);
        // `Debug` has all of them, so that none is left out.
        let named = format!("{limits:?}").matches(": ").count();
        assert_eq!(json.as_object().unwrap().len(), named);
        assert_eq!((&json["compute_capability"], &json["sms"]), (&json!([9, 0]), &json!(132)));
        assert_eq!(json["clusters"]["one_cta_per_sm"], json!({ "2": 66, "4": 32, "8": 15, "16": 7 }));
        assert_eq!(json["clusters"]["two_ctas_per_sm"], json!({ "2": 132, "4": 64, "8": 30, "16": 14 }));
    }

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

//! `batchnorm info`: the version, the features built in and the devices with their limits; or, with `--plan`, how a problem could be run.

mod plan;

use batchnorm::plan::DeviceLimits;
use batchnorm::{Cpu, Dtype};
use serde_json::json;

use crate::device::{Device, limits_json};
use crate::failure::Failure;
use crate::output;

/// Options of `batchnorm info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this device alone, and fail where it cannot be used: cpu, cuda or cuda:N
    #[arg(long, conflicts_with = "plan")]
    device: Option<Device>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plan: plan::Options,
}

/// Every feature of this package, and whether it is built in.
const FEATURES: [(&str, bool); 2] = [("cuda", cfg!(feature = "cuda")), ("emulate", cfg!(feature = "emulate"))];

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(answer) = plan::answer(&args.plan, args.json)? {
        return output::print(&answer);
    }
    let found = Found::new(args.device)?;
    output::print(&if args.json { to_json(&found) } else { to_text(&found) })
}

/// The devices that were asked for.
struct Found {
    has_cpu: bool,
    cuda: CudaDevices,
    /// The reason why there are none, if they were asked for.
    no_cuda: Option<String>,
}

/// CUDA devices by their numbers, each with why it cannot be used where that is so.
type CudaDevices = Vec<(usize, Result<CudaDevice, String>)>;

/// The facts of a CUDA device that can be used.
struct CudaDevice {
    name: String,
    limits: DeviceLimits,
}

impl Found {
    /// This device, or an error; without one all of them.
    fn new(device: Option<Device>) -> Result<Self, Failure> {
        match device {
            None => Ok(match cuda_devices() {
                Ok(cuda) if cuda.is_empty() => {
                    Self { has_cpu: true, cuda, no_cuda: Some("none in this machine".into()) }
                }
                Ok(cuda) => Self { has_cpu: true, cuda, no_cuda: None },
                Err(reason) => Self { has_cpu: true, cuda: Vec::new(), no_cuda: Some(reason) },
            }),
            Some(Device::Cpu) => Ok(Self { has_cpu: true, cuda: Vec::new(), no_cuda: None }),
            Some(Device::Cuda(number)) => {
                let cuda = vec![(number, Ok(cuda_device(number)?))];
                Ok(Self { has_cpu: false, cuda, no_cuda: None })
            }
        }
    }
}

fn features() -> Vec<&'static str> {
    FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect()
}

fn to_json(found: &Found) -> String {
    let (threads, arch) = (Cpu::threads(), std::env::consts::ARCH);
    let cpu = found.has_cpu.then(|| json!({ "name": "cpu", "threads": threads, "arch": arch }));
    let cuda = found.cuda.iter().map(|(number, device)| match device {
        Ok(CudaDevice { name, limits }) => json!({
            "name": format!("cuda:{number}"),
            "model": name,
            "compute_capability": capability(limits),
            "multiprocessors": limits.sms,
            "limits": limits_json(limits),
        }),
        Err(error) => json!({ "name": format!("cuda:{number}"), "error": error }),
    });
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "features": features(),
        "devices": cpu.into_iter().chain(cuda).collect::<Vec<_>>(),
        "no_cuda_because": found.no_cuda,
        "dtypes": Dtype::ALL.iter().map(|dtype| dtype.name()).collect::<Vec<_>>(),
    });
    format!("{info:#}\n")
}

fn to_text(found: &Found) -> String {
    let features = features();
    let features = if features.is_empty() { "none".into() } else { features.join(", ") };
    let mut lines = vec![format!("batchnorm {}", env!("CARGO_PKG_VERSION")), format!("features: {features}")];
    if found.has_cpu {
        let (threads, arch) = (Cpu::threads(), std::env::consts::ARCH);
        lines.push(format!("device cpu: {threads} threads, {arch}, f64 arithmetic"));
    }
    for (number, device) in &found.cuda {
        match device {
            Ok(CudaDevice { name, limits }) => {
                let (capability, sms) = (capability(limits), limits.sms);
                lines.push(format!(
                    "device cuda:{number}: {name}, compute capability {capability}, {sms} multiprocessors, f32 arithmetic"
                ));
                lines.extend(limits_text(limits));
            }
            Err(error) => lines.push(format!("device cuda:{number}: {error}")),
        }
    }
    lines.extend(found.no_cuda.iter().map(|reason| format!("device cuda: {reason}")));
    lines.push(format!("dtypes: {}", Dtype::ALL.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", ")));
    lines.join("\n") + "\n"
}

fn capability(limits: &DeviceLimits) -> String {
    let (major, minor) = limits.compute_capability;
    format!("{major}.{minor}")
}

/// The limits that plans must fit, in lines that belong under a device's own.
fn limits_text(limits: &DeviceLimits) -> [String; 2] {
    let DeviceLimits { shared_per_sm, shared_per_cta, shared_reserved, threads_per_sm, ctas_per_sm, .. } = *limits;
    let DeviceLimits { l2_bytes, memory_gb_per_s, cooperative, clusters, .. } = *limits;
    let launches = if cooperative { "cooperative launches" } else { "no cooperative launches" };
    let list = |of_share: [u32; 4]| of_share.map(|clusters| clusters.to_string()).join(", ");
    [
        format!(
            "  each with {shared_per_sm} bytes of shared memory ({shared_per_cta} for a CTA, {shared_reserved} reserved), \
             {threads_per_sm} threads, {ctas_per_sm} CTAs; L2 of {l2_bytes} bytes, {memory_gb_per_s} GB/s, {launches}"
        ),
        match clusters {
            [[0, 0, 0, 0], [0, 0, 0, 0]] => "  no clusters".into(),
            [one, two] => format!(
                "  clusters of 2, 4, 8 and 16 CTAs at once: {}; with two CTAs on a multiprocessor: {}",
                list(one),
                list(two)
            ),
        },
    ]
}

#[cfg(feature = "cuda")]
fn describe(cuda: &batchnorm::Cuda) -> batchnorm::Result<CudaDevice> {
    Ok(CudaDevice { name: cuda.name()?, limits: cuda.limits() })
}

/// The CUDA devices, or why there are none.
#[cfg(feature = "cuda")]
fn cuda_devices() -> Result<CudaDevices, String> {
    let told = |error: batchnorm::Error| error.to_string();
    let of_number = |number| batchnorm::Cuda::new(number).and_then(|cuda| describe(&cuda)).map_err(told);
    let count = batchnorm::Cuda::count().map_err(told)?;
    Ok((0..count).map(|number| (number, of_number(number))).collect())
}

/// The CUDA device of this number.
#[cfg(feature = "cuda")]
fn cuda_device(number: usize) -> Result<CudaDevice, Failure> {
    Ok(describe(&crate::device::cuda(number)?)?)
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Result<CudaDevices, String> {
    Err("not in this build".into())
}

#[cfg(not(feature = "cuda"))]
fn cuda_device(number: usize) -> Result<CudaDevice, Failure> {
    Err(Device::Cuda(number).not_built())
}

//! `batchnorm info`: the version, the features built in and the devices; or, with `--plan`, how a problem could be run.

mod plan;

use batchnorm::Dtype;
use serde_json::json;

use crate::failure::Failure;
use crate::output;

/// Options of `batchnorm info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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
    let version = env!("CARGO_PKG_VERSION");
    let arch = std::env::consts::ARCH;
    let threads = rayon::current_num_threads();
    let features: Vec<_> = FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
    let dtypes = Dtype::ALL.map(|dtype| dtype.to_string());
    let (cuda, no_cuda) = match cuda_devices() {
        Ok(devices) if devices.is_empty() => (devices, Some("none in this machine".to_owned())),
        Ok(devices) => (devices, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let text = if args.json {
        let mut devices = vec![json!({ "name": "cpu", "threads": threads, "arch": arch })];
        devices.extend(cuda.iter().enumerate().map(|(number, device)| match device {
            Ok(CudaDevice { name, compute_capability, multiprocessors }) => json!({
                "name": format!("cuda:{number}"),
                "model": name,
                "compute_capability": compute_capability,
                "multiprocessors": multiprocessors,
            }),
            Err(error) => json!({ "name": format!("cuda:{number}"), "error": error }),
        }));
        let info = json!({
            "version": version,
            "features": features,
            "devices": devices,
            "no_cuda_because": no_cuda,
            "dtypes": dtypes,
        });
        format!("{info:#}\n")
    } else {
        let features = if features.is_empty() { "none".into() } else { features.join(", ") };
        let dtypes = dtypes.join(", ");
        let mut lines = vec![
            format!("batchnorm {version}"),
            format!("features: {features}"),
            format!("device cpu: {threads} threads, {arch}, f64 arithmetic"),
        ];
        lines.extend(cuda.iter().enumerate().map(|(number, device)| match device {
            Ok(CudaDevice { name, compute_capability, multiprocessors }) => format!(
                "device cuda:{number}: {name}, compute capability {compute_capability}, {multiprocessors} \
                 multiprocessors, f32 arithmetic"
            ),
            Err(error) => format!("device cuda:{number}: {error}"),
        }));
        lines.extend(no_cuda.map(|reason| format!("device cuda: {reason}")));
        lines.push(format!("dtypes: {dtypes}"));
        lines.join("\n") + "\n"
    };
    output::print(&text)
}

/// What there is to say about a CUDA device that can be used.
struct CudaDevice {
    name: String,
    compute_capability: String,
    multiprocessors: u32,
}

/// The CUDA devices, each with why it cannot be used where that is so; or why there are none.
#[cfg(feature = "cuda")]
fn cuda_devices() -> Result<Vec<Result<CudaDevice, String>>, String> {
    let describe = |number| {
        let cuda = batchnorm::Cuda::new(number)?;
        let (major, minor) = cuda.limits().compute_capability;
        let compute_capability = format!("{major}.{minor}");
        Ok(CudaDevice { name: cuda.name()?, compute_capability, multiprocessors: cuda.limits().sms })
    };
    let told = |error: batchnorm::Error| error.to_string();
    let count = batchnorm::Cuda::count().map_err(told)?;
    Ok((0..count).map(|number| describe(number).map_err(told)).collect())
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Result<Vec<Result<CudaDevice, String>>, String> {
    Err("not in this build".into())
}

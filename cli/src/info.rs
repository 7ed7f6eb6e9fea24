//! `batchnorm info`: the version, the features built in and the devices.

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
}

/// Every feature of this package, and whether it is built in.
const FEATURES: [(&str, bool); 1] = [("emulate", cfg!(feature = "emulate"))];

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let arch = std::env::consts::ARCH;
    let threads = rayon::current_num_threads();
    let features: Vec<_> = FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
    let dtypes = Dtype::ALL.map(|dtype| dtype.to_string());
    let text = if args.json {
        let info = json!({
            "version": version,
            "features": features,
            "devices": [{ "name": "cpu", "threads": threads, "arch": arch }],
            "dtypes": dtypes,
        });
        format!("{info:#}\n")
    } else {
        let features = if features.is_empty() { "none".into() } else { features.join(", ") };
        let dtypes = dtypes.join(", ");
        format!(
            "batchnorm {version}\n\
             features: {features}\n\
             device cpu: {threads} threads, {arch}, f64 arithmetic\n\
             device cuda: not in this build\n\
             dtypes: {dtypes}\n"
        )
    };
    output::print(&text)
}

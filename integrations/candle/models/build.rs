//! Models out of the source of candle-transformers, as they are and with lines changed, into OUT_DIR.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Text, what takes its place, and how often it is to be found.
type Change = (&'static str, &'static str, usize);

/// A file of candle-transformers.
struct Model {
    name: &'static str,
    /// Changes that make its batch norm ours.
    ours: &'static [Change],
    /// Changes that let it train, with either batch norm: every layer of these models is written for inference.
    training: &'static [Change],
}

const MODELS: [Model; 2] = [
    Model {
        name: "resnet",
        ours: &[(
            "use candle_nn::{batch_norm, Conv2d, Func, VarBuilder};",
            "use {candle_batchnorm::batch_norm, candle_nn::{Conv2d, Func, VarBuilder}};",
            1,
        )],
        training: &[
            (", false)", ", true)", 8),
            // Candle has no gradient of windows that overlap.
            (".max_pool2d_with_stride(3, 2)?", ".max_pool2d(2)?", 2),
        ],
    },
    Model {
        name: "efficientnet",
        ours: &[
            ("bn2d: nn::BatchNorm,", "bn2d: candle_batchnorm::BatchNorm,", 1),
            ("= nn::batch_norm(", "= candle_batchnorm::batch_norm(", 1),
        ],
        training: &[(".apply_t(&self.bn2d, false)", ".apply_t(&self.bn2d, true)", 1)],
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let models = source_of("candle-transformers")?.join("src/models");
    let mut modules = String::new();
    for Model { name, ours, training } in MODELS {
        let path = models.join(name).with_extension("rs");
        let theirs = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let ours = changed(name, &theirs, ours)?;
        let variants = [
            ("theirs", theirs.clone()),
            ("ours", ours.clone()),
            ("theirs_in_training", changed(name, &theirs, training)?),
            ("ours_in_training", changed(name, &ours, training)?),
        ];
        writeln!(modules, "/// `{name}.rs` of candle-transformers.\npub mod {name} {{")?;
        for (variant, text) in variants {
            let path = out.join(format!("{name}_{variant}.rs"));
            fs::write(&path, text)?;
            writeln!(
                modules,
                "    #[allow(warnings)] // another's code\n    #[path = {path:?}]\n    pub mod {variant};"
            )?;
        }
        modules.push_str("}\n");
    }
    fs::write(out.join("models.rs"), modules)?;
    Ok(())
}

/// The text with each change made, as often as it is said to be found.
fn changed(name: &str, text: &str, changes: &[Change]) -> Result<String, String> {
    changes.iter().try_fold(text.to_owned(), |text, &(from, to, expected)| match text.matches(from).count() {
        actual if actual == expected => Ok(text.replace(from, to)),
        actual => Err(format!("{name}.rs of candle-transformers: expected {from:?} {expected} times, got {actual}")),
    })
}

/// The folder of a package that this one depends on.
fn source_of(package: &str) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    let output = cargo.current_dir(env::var("CARGO_MANIFEST_DIR")?).output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages.filter(|found| found["name"] == package).find_map(|found| found["manifest_path"].as_str());
    let folder = manifest.and_then(|manifest| Path::new(manifest).parent());
    Ok(folder.ok_or_else(|| format!("cargo metadata: expected the package {package}, found none"))?.to_owned())
}

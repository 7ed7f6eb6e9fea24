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
    variants: &'static [Variant],
}

/// A model with lines changed.
struct Variant {
    name: &'static str,
    /// Changes that make its batch norm ours, or none.
    changes: &'static [Change],
    /// Changes that then let it train: every layer of these models is written for inference.
    training: &'static [Change],
}

const RESNET_IN_TRAINING: &[Change] = &[
    (", false)", ", true)", 8),
    // Candle has no gradient of windows that overlap.
    (".max_pool2d_with_stride(3, 2)?", ".max_pool2d(2)?", 2),
];
const EFFICIENTNET_IN_TRAINING: &[Change] = &[(".apply_t(&self.bn2d, false)", ".apply_t(&self.bn2d, true)", 1)];

const TYPE: Change = ("bn2d: nn::BatchNorm,", "bn2d: candle_batchnorm::BatchNorm,", 1);
const CONSTRUCTOR: Change = ("= nn::batch_norm(", "= candle_batchnorm::batch_norm(", 1);

const MODELS: [Model; 2] = [
    Model {
        name: "resnet",
        variants: &[
            Variant { name: "theirs", changes: &[], training: RESNET_IN_TRAINING },
            Variant {
                name: "ours",
                changes: &[(
                    "use candle_nn::{batch_norm, Conv2d, Func, VarBuilder};",
                    "use {candle_batchnorm::batch_norm, candle_nn::{Conv2d, Func, VarBuilder}};",
                    1,
                )],
                training: RESNET_IN_TRAINING,
            },
        ],
    },
    Model {
        name: "efficientnet",
        variants: &[
            Variant { name: "theirs", changes: &[], training: EFFICIENTNET_IN_TRAINING },
            Variant { name: "ours", changes: &[TYPE, CONSTRUCTOR], training: EFFICIENTNET_IN_TRAINING },
            Variant {
                name: "fused",
                changes: &[
                    TYPE,
                    CONSTRUCTOR,
                    (
                        "        let xs = self.conv2d.forward(xs)?.apply_t(&self.bn2d, false)?;
        if self.activation {
            swish(&xs)
        } else {
            Ok(xs)
        }
",
                        "        let xs = self.conv2d.forward(xs)?;
        if self.activation {
            self.bn2d.activate(&xs, candle_batchnorm::Activation::Silu, false)
        } else {
            xs.apply_t(&self.bn2d, false)
        }
",
                        1,
                    ),
                ],
                training: &[
                    ("Silu, false)", "Silu, true)", 1),
                    (".apply_t(&self.bn2d, false)", ".apply_t(&self.bn2d, true)", 1),
                ],
            },
        ],
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let models = source_of("candle-transformers")?.join("src/models");
    let mut modules = String::new();
    for Model { name: model, variants } in MODELS {
        let path = models.join(model).with_extension("rs");
        let source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        writeln!(modules, "/// `{model}.rs` of candle-transformers.\npub mod {model} {{")?;
        let mut add = |name: &str, text: &str| -> Result<(), Box<dyn Error>> {
            let path = out.join(format!("{model}_{name}.rs"));
            fs::write(&path, text)?;
            writeln!(modules, "    #[allow(warnings)] // another's code\n    #[path = {path:?}]\n    pub mod {name};")?;
            Ok(())
        };
        for Variant { name, changes, training } in variants {
            let text = changed(model, &source, changes)?;
            add(name, &text)?;
            add(&format!("{name}_in_training"), &changed(model, &text, training)?)?;
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

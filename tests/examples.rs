//! Runs the examples that `cargo test` has built with the tests, and looks for what each has to say.

use std::env;
use std::path::Path;
use std::process::Command;

/// What an example says at its end, where there is a device for it.
const EXAMPLES: [(&str, &[&str]); 6] = [
    ("01_layer", &["step 60: loss 0.0000", "gamma Some([2.000, 0.500]), beta Some([1.000, 0.750])", "inference: y"]),
    ("02_cuda", &["loss 2.5988 at first, 2.2148 after 20 steps", "batches counted: Some(21)"]),
    ("03_own_buffers", &["mean [2.5, 0.0], biased variance [1.25, 100.0]", "trained: y", "inferred: y"]),
    ("04_graph", &["batches counted: Some(10)"]),
    (
        "05_state",
        &[
            "one layer: the same after loading: true",
            "bn2: the same after loading: true",
            "bn1.weight: expected dimensions [5], got [3]; gamma is still Some([7.0, 7.0, 7.0, 7.0, 7.0])",
        ],
    ),
    ("06_fold", &["folded:"]),
];

#[test]
fn every_example_runs() {
    let built = env::current_exe().unwrap();
    let folder = built.ancestors().nth(2).unwrap().join("examples");
    let on_device = ["02_cuda", "04_graph"];
    for (name, said) in EXAMPLES {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs")).is_file(), "{name}");
        if on_device.contains(&name) && !cfg!(feature = "cuda") {
            continue;
        }
        let ran = Command::new(folder.join(name)).output();
        let ran = ran.unwrap_or_else(|error| panic!("{name}: expected it built by `cargo test`, got {error}"));
        let text = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{name}\n{text}{}", String::from_utf8_lossy(&ran.stderr));
        println!("{name}\n{text}");
        if on_device.contains(&name) && text.starts_with("skipped: ") {
            continue;
        }
        for said in said {
            assert!(text.contains(said), "{name}: expected \"{said}\" in\n{text}");
        }
    }
}

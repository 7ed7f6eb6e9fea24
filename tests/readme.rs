//! Runs every shell command of README.md, word for word. The Rust in it is a doctest (src/lib.rs).

use std::path::Path;
use std::process::Command;

/// This very suite: CI takes the line out of README.md and runs it.
const TEST_COMMAND: &str = "cargo test --features emulate";

#[test]
fn every_command_of_the_readme_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let commands: Vec<&str> =
        readme.split("```sh\n").skip(1).flat_map(|block| block.split("```").next().unwrap().lines()).collect();
    assert_eq!(commands.iter().filter(|command| **command == TEST_COMMAND).count(), 1, "{commands:?}");
    assert!(commands.len() >= 2, "{commands:?}");

    let output = root.join("target/normalized.safetensors");
    drop(std::fs::remove_file(&output));
    for command in commands.into_iter().filter(|command| *command != TEST_COMMAND) {
        let ran = Command::new("sh").args(["-c", command]).current_dir(root).output().unwrap();
        let text = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{command}\n{text}{}", String::from_utf8_lossy(&ran.stderr));
        assert!(!text.is_empty(), "{command} says nothing");
        println!("$ {command}\n{text}");
    }
    let bytes = std::fs::read(&output).unwrap();
    let tensors = batchnorm::tensors::Tensors::parse(&bytes).unwrap();
    let y = tensors.data::<f32>("y", &[1797, 64]).unwrap();
    let mean_of_a_pixel = (0..1797).map(|i| f64::from(y[64 * i + 36])).sum::<f64>() / 1797.0;
    assert!(mean_of_a_pixel.abs() < 1e-6, "{mean_of_a_pixel}");
    assert_eq!(tensors.count("num_batches_tracked").unwrap(), 1);
}

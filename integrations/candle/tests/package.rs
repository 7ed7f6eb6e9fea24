//! The package as it would be published.

use std::process::Command;

#[test]
fn it_has_the_licences_and_the_page() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--list", "--allow-dirty", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).unwrap();
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "src/lib.rs"] {
        assert!(files.lines().any(|found| found == file), "expected {file}, got {files}");
    }
}

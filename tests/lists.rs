//! Lists of epilogues and dtypes in Python programs and pages that have no crate to ask: they are the crate's.

use batchnorm::{Dtype, Epilogue};

const SMOKE: &str = "xtask/bundle/smoke.py";

/// Line of a program that begins a variable.
fn line_of(program: &str, variable: &str) -> String {
    let text = text_of(program);
    let line = text.lines().find(|line| line.starts_with(&format!("{variable} = ")));
    line.unwrap_or_else(|| panic!("{variable} in {program}")).into()
}

fn text_of(program: &str) -> String {
    std::fs::read_to_string(format!("{}/{program}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_smoke_test_launches_every_epilogue() {
    let names = Epilogue::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>();
    assert_eq!(line_of(SMOKE, "EPILOGUES"), format!("EPILOGUES = {names:?}"));
}

#[test]
fn the_smoke_test_launches_every_dtype() {
    let (text, tolerances) = (text_of(SMOKE), line_of(SMOKE, "TOLERANCE"));
    for &dtype in Dtype::ON_CUDA {
        let name = match dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::F64 => "F64",
        };
        // A shape of it is a tuple that ends in the dtype.
        assert!(text.contains(&format!("\", \"{name}\"),\n")), "a shape of {dtype}");
        assert!(tolerances.contains(&format!("\"{name}\": ")), "a tolerance of {dtype}: {tolerances}");
    }
}

#[test]
fn the_peers_know_the_size_of_every_dtype() {
    let sizes =
        Dtype::ON_CUDA.iter().copied().map(|dtype| format!("\"{dtype}\": {}", dtype.bytes())).collect::<Vec<_>>();
    assert_eq!(line_of("benches/peers/rows.py", "BYTES"), format!("BYTES = {{{}}}", sizes.join(", ")));
}

#[test]
fn the_page_of_the_command_line_has_every_epilogue() {
    let names = Epilogue::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>();
    let choice = format!("[--epilogue {}]", names.join("|"));
    assert!(text_of("cli/README.md").contains(&choice), "{choice}");
}

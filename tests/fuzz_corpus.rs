//! Replays the fuzz targets' corpus.

use std::fs;
use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files >= 10, "{} holds {files} files: the corpus is gone", folder.display());
}

#[test]
fn input_files() {
    replay("input", targets::input);
}

#[test]
fn state_files() {
    replay("state", targets::state);
}

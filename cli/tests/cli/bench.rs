//! `bench` and `info --plan`: what they print and write, and what they refuse.

use serde_json::Value;

use crate::harness::{batchnorm, printed, refused};

/// The smallest row there is, for as short as possible.
const SMALL: [&str; 7] = ["bench", "--suite", "edge", "--filter", "two-values f32", "--seconds", "0.001"];

#[test]
fn a_bench_gives_a_table_a_file_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (json, plot) = (folder.path().join("bench.json"), folder.path().join("bench.svg"));
    let files = ["--no-python", "--json", json.to_str().unwrap(), "--plot", plot.to_str().unwrap()];
    let text = printed(&batchnorm(&[&SMALL[..], &files].concat()));
    for operation in ["train", "backward", "train-relu", "backward-add-relu", "infer"] {
        let row = format!("edge/two-values n=2 c=4096 s=1 channels-first f32 {operation} ");
        // The row is printed as it comes, and in the table at the end.
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&row)).collect();
        assert_eq!(lines.len(), 2, "{row} in {text}");
        for line in lines {
            let cells: Vec<&str> = line[row.len()..].split_whitespace().collect();
            assert!(cells[0] == "call" && cells[1].parse::<f64>().unwrap() > 0.0 && cells[3].ends_with('%'), "{line}");
        }
    }
    assert!(text.contains("no peers in Python: --no-python"), "{text}");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&report["timed"], &report["complete"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!((&report["limits"], &report["probes"], &report["lost"]), (&Value::Null, &Value::Null, &Value::Null));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), batchnorm::bench::Pass::ALL.len());
    assert_eq!(rows[0]["least_bytes"], 2 * 2 * 4096 * 4);
    assert_eq!(rows[0]["operation"], "train");
    for subject in ["batchnorm", "floor"] {
        let subjects = rows[0]["subjects"].as_array().unwrap();
        let found = subjects.iter().find(|it| it["name"] == subject).unwrap();
        let spread = &found["seconds"]["call"];
        let [min, median, max] = ["min", "median", "max"].map(|key| spread[key].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{found}");
        let samples: Vec<f64> = spread["samples"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
        assert!(samples.len() >= 4 && samples.iter().all(|sample| (min..=max).contains(sample)), "{found}");
        assert!(samples.contains(&min) && samples.contains(&max), "{found}");
    }
    let picture = std::fs::read_to_string(plot).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("training forward, channels-first"), "{picture}");
}

/// A program that is no Python leaves the peers' columns empty, and says why.
#[test]
fn a_missing_python_is_a_reason() {
    let text = printed(&batchnorm(&[&SMALL[..], &["--python", "no-such-python"]].concat()));
    assert!(text.contains("no peers in Python: no-such-python"), "{text}");
    // A process that ends at once.
    let text = printed(&batchnorm(&[&SMALL[..], &["--python", "true"]].concat()));
    assert!(text.contains("no peers in Python: the process of the peers: it ended"), "{text}");
}

/// A shell script instead of Python.
#[cfg(unix)]
fn program(path: &std::path::Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{script}")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The process is asked for what is asked for, and told by its name where it dies.
#[cfg(unix)]
#[test]
fn the_peers_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python");
    program(&python, "shift\necho \"asked for $*\" >&2\nexit 1\n");
    let python = ["--python", python.to_str().unwrap()];
    let text = printed(&batchnorm(&[&SMALL[..], &python, &["--peer", "jax", "--peer", "torch"]].concat()));
    assert!(text.contains("asked for --device cpu --threads "), "{text}");
    assert!(text.contains("--peer torch --peer jax\n"), "{text}");
    let text = printed(&batchnorm(&[&SMALL[..], &python, &["--peer", "cudnn"]].concat()));
    assert!(text.contains("cudnn: not measured: it needs a CUDA device"), "{text}");
    assert!(text.contains("no peers in Python: not asked for by --peer"), "{text}");
}

/// Peers that do not come up leave most of the time to what is measured here.
#[cfg(unix)]
#[test]
fn silent_peers_have_a_third_of_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python");
    program(&python, "exec sleep 100\n");
    let python = ["--python", python.to_str().unwrap(), "--within", "15"];
    let text = printed(&batchnorm(&[&SMALL[..], &python].concat()));
    assert!(
        text.contains("no peers in Python: the process of the peers: expected an answer within 5 seconds"),
        "{text}"
    );
    assert!(text.lines().any(|line| line.contains(" infer ") && line.contains(" call ")), "{text}");
}

/// Peers that start and then do not answer are waited for as long as there is time. The journal names the work.
#[cfg(unix)]
#[test]
fn peers_that_fall_silent_have_the_rest_of_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let (python, journal) = (folder.path().join("python"), folder.path().join("journal"));
    program(&python, "echo '{\"peers\":[{\"name\":\"torch\",\"includes\":\"all\"}]}'\nexec sleep 100\n");
    let begin = std::time::Instant::now();
    let python = ["--python", python.to_str().unwrap(), "--within", "6", "--journal", journal.to_str().unwrap()];
    let text = printed(&batchnorm(&[&SMALL[..], &python].concat()));
    assert!(begin.elapsed().as_secs() < 40, "{:?}", begin.elapsed());
    assert!(text.contains("torch: not measured: the process of the peers: expected an answer within "), "{text}");
    let text = std::fs::read_to_string(journal).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.ends_with(" begin peers no plan: edge/two-values n=2 c=4096 s=1 channels-first f32 train"), "{text}");
}

/// The journal of an earlier run is left by a command that is refused.
#[test]
fn a_journal_is_empty_only_where_all_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (journal, same) = (path("journal"), path("./journal"));
    std::fs::write(&journal, "of an earlier run").unwrap();
    let nowhere = path("no/such/folder");
    let two = "--json: expected another file than that of --journal";
    for (args, words) in [
        (&["verify", "--json", &nowhere][..], "no/such/folder"),
        (&["verify", "--json", &same], two),
        (&["verify", "--strategy", "grid"], "expected auto on the CPU"),
        (&["bench", "--json", &same], two),
        (&["bench", "--plot", &same], "--plot: expected another file than that of --journal"),
        (&["bench", "--plot", folder.path().to_str().unwrap()], "expected a regular file or a new one, got a folder"),
        (&["bench", "--strategy", "grid"], "expected auto on the CPU"),
        (&["bench", "--device", "cuda:99"], "cuda:99"),
    ] {
        refused(&batchnorm(&[args, &["--journal", &journal]].concat()), &[words]);
        assert_eq!(std::fs::read_to_string(&journal).unwrap(), "of an earlier run", "{args:?}");
    }
}

#[test]
fn what_a_row_has_too_much_is_left_out() {
    let text = printed(&batchnorm(&[&SMALL[..], &["--no-python", "--limit-bytes", "100"]].concat()));
    assert!(text.contains("left out: edge/two-values") && text.contains("more than --limit-bytes 100"), "{text}");
    let text = printed(&batchnorm(&[&SMALL[..], &["--no-python", "--within", "0"]].concat()));
    assert!(text.contains("not reached --within 0 seconds"), "{text}");
}

#[test]
fn what_bench_refuses() {
    for (args, words) in [
        (&["--suite", "vgg"][..], &["--suite", "expected one of", "resnet50", "got \"vgg\""][..]),
        (&["--operation", "train-gelu"], &["--operation", "expected one of train, backward", "got \"train-gelu\""]),
        (&["--filter", "stage9"], &["--filter", "got \"stage9\""]),
        (&["--peer", "caffe"], &["--peer", "expected one of torch, torch-cudnn", "cudnn, got \"caffe\""]),
        (&["--strategy", "grid"], &["--strategy", "expected auto on the CPU, got grid"]),
        (&["--strategy", "ring"], &["--strategy", "two-read"]),
        (&["--journal", "no/such/folder/journal"], &["--journal", "No such file"]),
        (&["--seconds", "-1"], &["--seconds", "expected seconds from 0.001 to 60"]),
        (&["--json", "no/such/folder/bench.json"], &["no/such/folder/bench.json"]),
        (&["--plot", "no/such/folder/bench.svg"], &["no/such/folder/bench.svg"]),
        (&["--device", "tpu"], &["--device", "expected cpu, cuda or cuda:N"]),
    ] {
        refused(&batchnorm(&[&["bench"], args].concat()), words);
    }
}

#[test]
fn candidates_of_a_plan() {
    let text = printed(&batchnorm(&["info", "--plan", "256x64x56x56", "--gpu", "h100"]));
    for strategy in ["cluster", "grid", "two-read"] {
        assert!(text.lines().any(|line| line.starts_with(strategy)), "{strategy} in {text}");
    }
    let chosen = text.lines().filter(|line| line.split_whitespace().nth(1) == Some("*"));
    assert_eq!(chosen.count(), 1, "{text}");
    assert!(text.contains("nothing was measured"), "{text}");
    let args = ["info", "--json", "--plan", "32x56x56x64", "--layout", "nhwc", "--dtype", "f32", "--op", "backward"];
    let plan: Value = serde_json::from_str(&printed(&batchnorm(&[&args[..], &["--gpu", "a100"]].concat()))).unwrap();
    let candidates = plan["candidates"].as_array().unwrap();
    assert!(candidates.iter().all(|candidate| candidate["strategy"] != "cluster"), "{plan}");
    let chosen: Vec<&Value> = candidates.iter().filter(|candidate| candidate["chosen"] == true).collect();
    assert_eq!(chosen.len(), 1);
    let times = candidates.iter().map(|candidate| candidate["predicted_ns"].as_f64().unwrap());
    assert_eq!(times.fold(f64::INFINITY, f64::min), chosen[0]["predicted_ns"].as_f64().unwrap());
}

#[test]
fn what_a_plan_refuses() {
    for (args, words) in [
        (&["--plan", "8"][..], &["shape", "expected"][..]),
        (&["--plan", "axb"], &["--plan", "expected dimensions such as"]),
        (&["--plan", "8x4", "--gpu", "gtx"], &["--gpu", "expected cuda:N or one of a100", "got \"gtx\""]),
        (&["--plan", "8x4", "--op", "moments", "--epilogue", "relu"], &["no epilogue", "got relu"]),
        (&["--op", "train"], &["--plan"]),
    ] {
        refused(&batchnorm(&[&["info"], args].concat()), words);
    }
}

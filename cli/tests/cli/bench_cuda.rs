//! `bench` on a CUDA device: the emulated one goes the way of a GPU, over little data, and is never timed.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{EXE, batchnorm, printed};

/// One row, forward and backward.
const ONE_ROW: [&str; 10] = [
    "bench",
    "--device",
    "cuda",
    "--suite",
    "edge",
    "--filter",
    "two-values f16",
    "--operation",
    "train",
    "--no-python",
];

fn parsed(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|it| it[key].as_str().unwrap().to_owned()).collect()
}

/// Every number of seconds, or of what follows from them, that is anywhere in it.
fn times(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) => {
            let named = ["median", "min", "max"];
            let own = fields.iter().filter(|(name, _)| named.contains(&name.as_str())).map(|(_, value)| value);
            let samples = fields.get("samples").and_then(Value::as_array).into_iter().flatten();
            own.chain(samples).chain(fields.values().flat_map(times)).collect()
        }
        Value::Array(list) => list.iter().flat_map(times).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_device_is_measured_from_probes_to_plot() {
    let folder = tempfile::tempdir().unwrap();
    let [json, plot, journal] = ["bench.json", "bench.svg", "journal"].map(|name| folder.path().join(name));
    let files = ["--json", json.to_str().unwrap(), "--plot", plot.to_str().unwrap()];
    let more = ["--operation", "backward-add-relu", "--operation", "infer", "--journal", journal.to_str().unwrap()];
    let text = printed(&batchnorm(&[&ONE_ROW[..], &files, &more].concat()));
    assert!(text.contains("cuda:0 (emulated (hopper4)) is never timed"), "{text}");
    assert!(!text.contains("WRONG") && !text.contains("failed:") && !text.contains("left out"), "{text}");
    assert!(!text.contains("ResNet-50 step"), "{text}");

    let report = parsed(&json);
    assert_eq!(report["timed"], false);
    assert_eq!(report["complete"], true);
    assert_eq!(report["lost"], Value::Null);
    assert_eq!(times(&report), Vec::<&Value>::new());
    assert_eq!(report["resnet50_step_ms"], json!([]));
    assert_eq!(report["limits"]["sms"], 4);
    assert_eq!(report["limits"]["compute_capability"], json!([9, 0]));
    assert!(report["limits"]["clusters"]["one_cta_per_sm"]["4"].as_u64().unwrap() > 0, "{}", report["limits"]);

    let probes = &report["probes"]["measured"];
    for word in ["empty", "copy", "two-read-one-write", "strided", "grid-exchange", "cluster-exchange"] {
        assert!(probes.as_array().unwrap().iter().any(|it| it["probe"]["kind"] == word), "{word} in {probes}");
    }
    let ran =
        |it: &&Value| it["seconds"]["eager"]["samples"] == json!([]) && it["seconds"]["host"]["samples"] == json!([]);
    assert!(probes.as_array().unwrap().iter().filter(ran).count() >= 10, "{probes}");
    for probe in probes.as_array().unwrap().iter().filter(|probe| !ran(probe)) {
        assert!(probe["reason"].as_str().unwrap().starts_with("probe: expected "), "{probe}");
    }

    let rows = report["rows"].as_array().unwrap();
    assert_eq!(names(&report["rows"], "operation"), ["train", "backward-add-relu", "infer"]);
    for row in rows {
        let subjects = row["subjects"].as_array().unwrap();
        let forced = if row["operation"] == "infer" { &[][..] } else { &["block", "cluster", "grid", "two-read"][..] };
        let forced = forced.iter().map(|strategy| format!("batchnorm, {strategy}"));
        let wanted: Vec<String> = ["batchnorm".into()].into_iter().chain(forced).chain(["floor".into()]).collect();
        // The others are peers that this machine may or may not have.
        assert_eq!(names(&row["subjects"], "name")[..wanted.len()], wanted);
        for subject in &subjects[..wanted.len()] {
            let name = subject["name"].as_str().unwrap();
            assert!(ran(&subject), "{subject}");
            let plan = &subject["plan"];
            assert_eq!(plan.is_object(), name != "floor", "{subject}");
            if let Some(strategy) = name.strip_prefix("batchnorm, ") {
                assert_eq!(plan["strategy"], strategy);
            }
            for number in ["threads", "strips", "splits", "teams", "held_steps", "shared_bytes", "predicted_ns"] {
                assert_eq!(plan[number].is_number(), name != "floor", "{number} of {subject}");
            }
        }
    }
    let picture = std::fs::read_to_string(plot).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("not measured"), "{picture}");

    let journal = std::fs::read_to_string(journal).unwrap();
    let events = |event: &str| -> Vec<&str> {
        let lines = journal.lines().map(|line| line.split_once(' ').unwrap().1);
        lines.filter_map(|line| line.strip_prefix(event)).collect()
    };
    assert_eq!(events("begin "), events("end "));
    let strategies: BTreeSet<&str> = events("begin ").iter().map(|text| text.split(' ').next().unwrap()).collect();
    for strategy in ["probe", "auto", "block", "cluster", "grid", "two-read", "floor"] {
        assert!(strategies.contains(strategy), "{strategy} in {strategies:?}");
    }
}

#[test]
fn strategies_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let more = ["--strategy", "cluster", "--strategy", "auto", "--peer", "cudnn", "--json", json.to_str().unwrap()];
    printed(&batchnorm(&[&ONE_ROW[..], &more].concat()));
    let found = names(&parsed(&json)["rows"][0]["subjects"], "name");
    assert_eq!(found[..3], ["batchnorm", "batchnorm, cluster", "floor"]);
    assert!(found[3..].iter().all(|name| name.starts_with("cudnn")) && found.len() > 3, "{found:?}");
}

/// Rows that the emulated device would take long for are left out, unless they are asked for by their size.
#[test]
fn large_rows_are_left_out() {
    let large = ["bench", "--device", "cuda", "--no-python", "--filter", "stem n=32 f16", "--operation", "train"];
    let text = printed(&batchnorm(&large));
    assert!(text.contains("left out: resnet50/stem") && text.contains("more than --limit-bytes 65536"), "{text}");
}

/// The JSON and the exit code of a bench whose device is lost say by whose turn, and nobody is asked after it.
#[test]
fn a_lost_device_ends_a_bench() {
    let folder = tempfile::tempdir().unwrap();
    let [json, journal] = ["bench.json", "journal"].map(|name| folder.path().join(name));
    let files = ["--json", json.to_str().unwrap(), "--journal", journal.to_str().unwrap()];
    // A run without a fault says how many calls there are until the turn of the cluster; here all before it are tried.
    let mut lost_in_turns = BTreeSet::new();
    for call in [2_000, 4_000, 6_000, 8_000, 12_000, 16_000, 24_000] {
        let mut command = Command::new(EXE);
        command.args(ONE_ROW).args(["--operation", "backward"]).args(files);
        let output = command.env("CUDA_EMULATOR_LOSE_AT", call.to_string()).output().unwrap();
        let (text, report) = (String::from_utf8_lossy(&output.stdout).into_owned(), parsed(&json));
        if output.status.code() == Some(0) {
            assert_eq!(report["lost"], Value::Null);
            break;
        }
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(report["complete"], true);
        let lost = &report["lost"];
        let [strategy, plan, what, why] = ["strategy", "plan", "what", "why"].map(|key| lost[key].as_str().unwrap());
        assert!(why.contains("700"), "{lost}");
        let line = format!("the device was lost, first by strategy {strategy}, {plan}: {what}: {why}");
        assert!(text.contains(&line), "{line} in {text}");
        let journal = std::fs::read_to_string(&journal).unwrap();
        let last: Vec<&str> = journal.lines().rev().take_while(|line| !line.contains(" lost ")).collect();
        assert!(last.len() == 2 || last.len() == 1, "{last:?}");
        assert!(last.iter().any(|line| line.contains(&format!("end {strategy} {plan}: {what}"))), "{last:?}");
        if strategy != "probe" {
            assert!(what.starts_with("edge/two-values"), "{lost}");
            lost_in_turns.insert(strategy.to_owned());
        }
    }
    assert!(!lost_in_turns.is_empty());
}

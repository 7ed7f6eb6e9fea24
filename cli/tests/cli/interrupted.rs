//! The files of a process that is killed: its JSON is whole and its journal names what was running.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::EXE;

/// Ends the process when the journal satisfies the condition, with SIGKILL; gives the journal and the JSON.
fn killed(args: &[&str], until: impl Fn(&str, &Path) -> bool) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let [json, journal] = ["out.json", "journal"].map(|name| folder.path().join(name));
    let mut command = Command::new(EXE);
    command.args(args).arg("--json").arg(&json).arg("--journal").arg(&journal);
    let mut child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    let read = || std::fs::read_to_string(&journal).unwrap_or_default();
    while !until(&read(), &json) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed: {}", read());
        assert!(begin.elapsed() < Duration::from_secs(200), "{}", read());
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // No file is half written, other than a temporary one next to the whole one.
    (read(), serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap())
}

/// The journal's work that began and did not end.
fn open(journal: &str) -> Vec<&str> {
    let events = |event: &str| -> Vec<&str> {
        let lines = journal.lines().filter_map(|line| Some(line.split_once(' ')?.1));
        lines.filter_map(|line| line.strip_prefix(event)).collect()
    };
    let ended = events("end ");
    // A strategy's cases differ, so a line is there once; of bench's turns the last may be open.
    events("begin ").into_iter().filter(|text| !ended.contains(text)).collect()
}

#[test]
fn a_killed_verification() {
    let (journal, report) =
        killed(&["verify", "--device", "cuda", "--strategy", "grid", "--every", "41"], |_, json| {
            let report = std::fs::read(json).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            report.is_some_and(|report| report["groups_complete"].as_u64() > Some(2))
        });
    assert!(report["groups_complete"].as_u64() > Some(2) && report["cases"].as_u64() > Some(50), "{report}");
    assert!(report["groups_complete"].as_u64() < report["groups"].as_u64());
    assert_eq!(report["strategies"]["grid"]["cases"], report["cases"]);
    assert!(journal.lines().count() > 100);
    for text in open(&journal) {
        let plan = text.strip_prefix("grid ").unwrap();
        assert!(plan.contains(" threads=") && plan.contains(" channels-"), "{text}");
    }
    let text = journal.lines().next().unwrap();
    let (seconds, text) = text.split_once(' ').unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0 && text.starts_with("begin grid "), "{text}");
}

#[test]
fn a_killed_bench() {
    let args = ["bench", "--device", "cuda", "--no-python", "--suite", "edge", "--filter", "two-values f32"];
    let (journal, report) = killed(&args, |_, json| {
        let report = std::fs::read(json).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        report.is_some_and(|report| report["rows"].as_array().is_some_and(|rows| rows.len() >= 2))
    });
    assert_eq!(report["complete"], false);
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 2 && rows.len() < 8 && rows.iter().all(|row| row["subjects"].is_array()), "{report}");
    assert!(report["probes"]["measured"].is_array() && report["limits"].is_object());
    let last = journal.lines().last().unwrap();
    assert!(last.contains("edge/two-values") || last.contains(" probe "), "{last}");
}

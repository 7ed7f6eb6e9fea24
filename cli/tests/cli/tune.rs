//! `tune`: what is refused; and on the emulated device the table that it writes, who takes it, and what a killed run leaves.

use crate::harness::{batchnorm, refused};

#[test]
fn what_tune_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("plans.json");
    let out = out.to_str().unwrap();
    let shape = ["--shape", "4x3x5"];
    for (args, words) in [
        (&["--out", out][..], &["--suite", "required"][..]),
        (&["--shape", "4x3x5"], &["--out", "required"]),
        (&["--shape", "4xa", "--out", out], &["--shape", "expected dimensions such as"]),
        (&["--shape", "4", "--out", out], &["shape [4]: expected 2 to 5 dimensions"]),
        (&["--shape", "0x4", "--out", out], &["--shape: expected a tensor with values, got [0, 4]"]),
        (&["--suite", "vgg", "--out", out], &["--suite: expected one of edge", "got \"vgg\""]),
        (&["--suite", "edge", "--filter", "stage9", "--out", out], &["--suite: expected rows", "--filter, got none"]),
        (&["--filter", "stem", "--out", out], &["--suite"]),
        (&[&shape[..], &["--op", "moments", "--out", out]].concat(), &["--op: expected an operation of a layer"]),
        (&[&shape[..], &["--op", "train", "--most", "0", "--out", out]].concat(), &["--most"]),
        (&[&shape[..], &["--dtype", "f64", "--out", out]].concat(), &["--dtype"]),
        (&[&shape[..], &["--device", "cpu", "--out", out]].concat(), &["--device: expected cuda or cuda:N, got cpu"]),
        (&[&shape[..], &["--out", out, "--json", out]].concat(), &["--json: expected another file than that of --out"]),
    ] {
        refused(&batchnorm(&[&["tune"], args].concat()), words);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_measures_nothing() {
    let output = batchnorm(&["tune", "--shape", "4x3x5", "--out", "plans.json"]);
    refused(&output, &["--device cuda:0: expected a build with CUDA support, got one without"]);
}

#[cfg(feature = "emulate")]
mod on_a_device {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output, Stdio};
    use std::time::{Duration, Instant};
    use std::{fs, thread};

    use batchnorm::plan::{Measure, PlanTable};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use crate::harness::{EXE, batchnorm, printed, refused};

    const SMALL: [&str; 7] = ["tune", "--shape", "6x12x5x5", "--dtype", "f32", "--epilogue", "relu"];

    fn tuned(folder: &TempDir, more: &[&str]) -> (Output, PathBuf) {
        let out = folder.path().join("plans.json");
        (batchnorm(&[&SMALL[..], more, &["--out", out.to_str().unwrap()]].concat()), out)
    }

    fn with_plans(plans: &Path, args: &[&str]) -> Output {
        Command::new(EXE).args(args).env("BATCHNORM_PLANS", plans).output().unwrap()
    }

    fn parsed(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_table_is_measured_written_and_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [json, journal] = ["tune.json", "journal"].map(|name| folder.path().join(name));
        let files = ["--json", json.to_str().unwrap(), "--journal", journal.to_str().unwrap()];
        let (output, out) = tuned(&folder, &[&["--most", "6"], &files[..]].concat());
        let text = printed(&output);
        assert_eq!(text.matches("shape/6x12x5x5 n=6 c=12 s=25 channels-first f32 ").count(), 2, "{text}");
        assert!(text.contains("2 rows of cuda:0 (emulated (") && text.contains("BATCHNORM_PLANS"), "{text}");
        assert!(text.contains("bytes that an emulated device counts, which has no time"), "{text}");

        let table = PlanTable::load(&out).unwrap();
        assert_eq!((table.measure(), table.rows().len()), (Measure::CountedBytes, 2));
        for row in table.rows() {
            let least = |measured: f64| row.candidates().iter().all(|one| *one.outcome.as_ref().unwrap() >= measured);
            let chosen = row.candidates().iter().find(|candidate| candidate.plan == *row.plan()).unwrap();
            assert!(least(*chosen.outcome.as_ref().unwrap()) && row.candidates().len() == 6, "{row}");
        }
        let report = parsed(&json);
        assert_eq!((&report["complete"], &report["measured"]), (&json!(true), &json!("counted_bytes")));
        assert_eq!((&report["lost"], report["rows"].as_array().unwrap().len()), (&Value::Null, 2));
        for (row, of_table) in report["rows"].as_array().unwrap().iter().zip(table.rows()) {
            let chosen = &row["candidates"][row["chosen"].as_u64().unwrap() as usize];
            assert_eq!(chosen["plan"]["threads"], of_table.plan().tiling.threads, "{row}");
            assert_eq!(row["left_out"], Value::Null);
        }
        let journal = fs::read_to_string(journal).unwrap();
        assert_eq!(journal.matches(" begin ").count(), journal.matches(" end ").count());
        // Each is held against the oracle, then counted.
        assert_eq!(journal.matches(" begin ").count(), 2 * 2 * 6);

        // The same again: on a device that counts, the same table.
        let again = tempfile::tempdir().unwrap();
        let (output, other) = tuned(&again, &["--most", "6"]);
        printed(&output);
        assert_eq!(fs::read_to_string(&other).unwrap(), fs::read_to_string(&out).unwrap());

        // The environment brings it: info shows it, and everything computes.
        let info = ["info", "--json", "--plan", "6x12x5x5", "--dtype", "f32", "--epilogue", "relu", "--op", "backward"];
        let shown: Value = serde_json::from_str(&printed(&with_plans(&out, &info))).unwrap();
        assert_eq!(shown["chosen_by"], "table");
        let chosen: Vec<_> =
            shown["candidates"].as_array().unwrap().iter().filter(|plan| plan["chosen"] == true).collect();
        let plan = table.rows()[1].plan();
        assert_eq!((chosen.len(), chosen[0]["predicted_ns"].as_f64()), (1, Some(plan.predicted_ns)));
        let shown: Value = serde_json::from_str(&printed(&with_plans(Path::new(""), &info))).unwrap();
        assert_eq!(shown["chosen_by"], "model");
        printed(&with_plans(&out, &["verify", "--device", "cuda", "--every", "499"]));
    }

    #[test]
    fn a_table_that_is_not_of_this_device_or_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (output, out) = tuned(&folder, &["--most", "1", "--op", "infer"]);
        printed(&output);
        let info = ["info", "--device", "cuda:0"];
        let other = Command::new(EXE)
            .args(info)
            .env("BATCHNORM_PLANS", &out)
            .env("CUDA_EMULATOR_PROFILE", "h100")
            .output()
            .unwrap();
        let name = out.to_str().unwrap();
        refused(&other, &["BATCHNORM_PLANS: ", name, ": plan table: expected the device \"emulated (h100)\", got "]);
        let missing = folder.path().join("none.json");
        refused(&with_plans(&missing, &info), &["BATCHNORM_PLANS: ", "none.json: No such file"]);
        let text = fs::read_to_string(&out).unwrap();
        for (from, to, words) in [
            ("\"smem_iters\":0", "\"smem_iters\":1", "row 1"),
            ("\"format\": 1", "\"format\": 7", "format: expected 1, got 7"),
            ("\"rows\": [", "\"rows\": [[], ", "row 1: expected an object, got []"),
        ] {
            assert!(text.contains(from), "{text}");
            fs::write(&missing, text.replace(from, to)).unwrap();
            refused(&with_plans(&missing, &info), &["BATCHNORM_PLANS: ", "none.json: plan table, ", words]);
        }
        // Not hidden behind the plans of a GPU that is not here, and no reason not to make another.
        let shown = with_plans(&missing, &["info", "--plan", "6x12x5x5"]);
        refused(&shown, &["BATCHNORM_PLANS: ", "none.json: plan table, "]);
        let again = folder.path().join("again.json");
        let again = ["tune", "--shape", "6x12x5x5", "--most", "1", "--op", "infer", "--out", again.to_str().unwrap()];
        printed(&with_plans(&missing, &again));
    }

    #[test]
    fn what_is_not_measured_is_said_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (output, out) = tuned(&folder, &["--within", "0"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("got none: not reached --within 0 seconds"), "{error}");
        assert!(!out.exists());
        let out = out.to_str().unwrap();
        let args = ["tune", "--suite", "edge", "--filter", "two-values n=1", "--limit-bytes", "1", "--out", out];
        let output = batchnorm(&args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }

    /// A table is there whole or not at all: the old one stays until the new one is complete.
    #[test]
    fn a_killed_tune_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let [out, json] = ["plans.json", "tune.json"].map(|name| folder.path().join(name));
        for before in [None, Some("the table of before")] {
            before.iter().for_each(|text| fs::write(&out, text).unwrap());
            let mut command = Command::new(EXE);
            command
                .args(SMALL)
                .args(["--shape", "6x14x5x5", "--shape", "6x10x9x9", "--layout", "nchw", "--layout", "nhwc"]);
            command.arg("--out").arg(&out).arg("--json").arg(&json);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let begin = Instant::now();
            let measured = || {
                let report = fs::read(&json).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
                report.is_some_and(|report| report["rows"].as_array().is_some_and(|rows| rows.len() >= 2))
            };
            while !measured() {
                assert!(child.try_wait().unwrap().is_none() && begin.elapsed() < Duration::from_secs(200));
                thread::sleep(Duration::from_millis(2));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(fs::read_to_string(&out).ok().as_deref(), before);
            assert_eq!(parsed(&json)["complete"], false);
            fs::remove_file(&json).unwrap();
        }
    }

    /// Measurements from before the device was lost are kept, and the exit code says that it was.
    #[test]
    fn a_lost_device_ends_a_tune() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("plans.json");
        let mut codes = Vec::new();
        for call in [1_000, 1_500, 2_200, 3_300, 5_000, 7_500, 11_000, 16_000, 24_000, 36_000] {
            let _ = fs::remove_file(&out);
            let mut command = Command::new(EXE);
            command.args(SMALL).arg("--out").arg(&out).env("CUDA_EMULATOR_LOSE_AT", call.to_string());
            let output = command.output().unwrap();
            let code = output.status.code().unwrap();
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            match code {
                0 => assert_eq!(PlanTable::load(&out).unwrap().rows().len(), 2),
                1 => {
                    assert!(text.contains("the device was lost, first by strategy "), "{text}");
                    assert_eq!(PlanTable::load(&out).unwrap().rows().len(), 1);
                }
                _ => assert!(!out.exists() && text.contains("700"), "{text}"),
            }
            codes.push(code);
        }
        codes.dedup();
        assert_eq!(codes, [2, 1, 0]);
    }
}

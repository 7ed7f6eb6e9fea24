//! CUDA alone: its refusals, its devices, `verify` on it. The tests run on the emulated devices, which the README of
//! cuda-emulator lists.

use std::fs;

use batchnorm::Dtype;
use batchnorm::tensors::TensorFile;
use serde_json::{Value, json};

use crate::formulas::{ALL, Example};
use crate::harness::{Folder, batchnorm, file, one_of, printed, refused};
use crate::refusals::refuses;

const TRAIN: [&str; 4] = ["--op", "train", "--layout", "nchw"];

fn refuses_on(device: &str, folder: &Folder, args: &[&str], words: &[&str]) {
    refuses(folder, &[args, &["--device", device]].concat(), words);
}

#[test]
fn what_a_device_cannot_do() {
    let of_f64 = Folder::new(&file::<f64, f64>(&Example::new("nchw"), &ALL));
    let expected =
        format!("x: expected {}", one_of(&Dtype::ON_CUDA.iter().copied().map(Dtype::name).collect::<Vec<_>>()));
    refuses_on("cuda", &of_f64, &TRAIN, &[&expected, "cuda:0", "got f64"]);

    let folder = Folder::new(&file::<f32, f32>(&Example::new("nchw"), &ALL));
    refuses_on("cuda:99", &folder, &TRAIN, &["--device cuda:99", "expected a number below", "7"]);
    refuses_on("cuda:4", &folder, &TRAIN, &["--device cuda:4", "expected compute capability 8.0 or newer", "got 7.5"]);
    for (device, strategy, has) in
        [("cuda:1", "cluster", "thread-block clusters"), ("cuda:3", "grid", "cooperative launches")]
    {
        let words = [&format!("strategy {strategy}: expected a device that has {has}")[..], "got one that has not"];
        refuses_on(device, &folder, &[&TRAIN[..], &["--strategy", strategy]].concat(), &words);
    }
    for device in ["cuda:99", "cuda:4"] {
        refused(&batchnorm(&["verify", "--device", device]), &[&format!("--device {device}"), "expected"]);
    }
}

#[test]
fn a_tile_that_no_block_holds() {
    let of = |m: usize| {
        let mut input = TensorFile::default();
        input.push("x", &[1, 1, m], &vec![1.0f32; m]).unwrap();
        input.push("dy", &[1, 1, m], &vec![1.0f32; m]).unwrap();
        Folder::new(&input)
    };
    let block = ["--layout", "nchw", "--strategy", "block"];
    let expected = "strategy block: expected a channel tile of at most 232448 bytes on chip";
    let folder = of(1 << 16);
    refuses_on("cuda", &folder, &[&["--op", "train"], &block[..]].concat(), &[expected, "got 262144"]);
    printed(&folder.run_on("cuda", &TRAIN));
    // The backward pass keeps two tensors in shared memory: it need not fit where its forward pass does.
    refuses_on("cuda", &of(40_000), &[&["--op", "backward"], &block[..]].concat(), &[expected, "got 320000"]);
}

/// 64 MiB are what the device has.
#[test]
fn a_device_without_room() {
    let mut input = TensorFile::default();
    input.push::<f32>("x", &[0, 1 << 25], &[]).unwrap();
    let words = ["out of memory", &format!("expected room for {} bytes", 4 << 25)];
    refuses_on("cuda:5", &Folder::new(&input), &["--op", "moments", "--layout", "nchw"], &words);
    // x finds room, and y does not.
    let mut input = TensorFile::default();
    input.push("x", &[10 << 20, 1], &vec![1.0f32; 10 << 20]).unwrap();
    let words = ["out of memory", &format!("expected room for {} bytes", 40 << 20)];
    refuses_on("cuda:5", &Folder::new(&input), &TRAIN, &words);
}

#[test]
fn info_lists_every_device() {
    let info: Value = serde_json::from_str(&printed(&batchnorm(&["info", "--json"]))).unwrap();
    let devices = info["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 8);
    for (number, device) in devices.iter().skip(1).enumerate() {
        assert_eq!(device["name"], format!("cuda:{number}"));
        let usable = device["model"].as_str().is_some_and(|model| model.starts_with("emulated"));
        assert_eq!(usable, number != 4, "{device}");
        assert_eq!(device["error"].is_string(), number == 4, "{device}");
    }
    assert_eq!(devices[1]["compute_capability"], "9.0");
    assert_eq!(devices[1]["multiprocessors"], 4);
    let limits = &devices[1]["limits"];
    assert_eq!((&limits["compute_capability"], &limits["sms"]), (&json!([9, 0]), &json!(4)));
    assert_eq!((&limits["shared_per_cta"], &limits["cooperative"]), (&json!(227 << 10), &json!(true)));
    // Four multiprocessors: two clusters of two with one for each CTA.
    assert_eq!(limits["clusters"]["one_cta_per_sm"], json!({ "2": 2, "4": 1, "8": 0, "16": 0 }));
    assert_eq!(devices[4]["limits"]["cooperative"], false);
    assert_eq!(devices[4]["limits"]["clusters"]["two_ctas_per_sm"], json!({ "2": 0, "4": 0, "8": 0, "16": 0 }));
    assert_eq!(info["no_cuda_because"], Value::Null);

    let text = printed(&batchnorm(&["info"]));
    assert!(text.contains("\ndevice cuda:0: emulated (hopper4), compute capability 9.0, 4 multiprocessors"), "{text}");
    assert!(text.contains("\n  clusters of 2, 4, 8 and 16 CTAs at once: 2, 1, 0, 0; with two CTAs on a"), "{text}");
    assert!(text.contains("101376 for a CTA") && text.contains("no cooperative launches\n  no clusters\n"), "{text}");
    assert!(text.contains("\ndevice cuda:4: CUDA device 4: expected compute capability 8.0 or newer"), "{text}");
}

#[test]
fn info_shows_one_device_or_fails() {
    let all: Value = serde_json::from_str(&printed(&batchnorm(&["info", "--json"]))).unwrap();
    let all = all["devices"].as_array().unwrap();
    for (device, number) in [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)] {
        let info: Value = serde_json::from_str(&printed(&batchnorm(&["info", "--json", "--device", device]))).unwrap();
        assert_eq!(info["devices"], json!([all[number + 1]]), "{device}");
        let text = printed(&batchnorm(&["info", "--device", device]));
        assert!(text.contains(&format!("\ndevice cuda:{number}: emulated")) && !text.contains("device cpu"), "{text}");
        assert_eq!(text.matches("\ndevice ").count(), 1, "{text}");
    }
    for args in [&["info"][..], &["info", "--json"]] {
        let of = |device| batchnorm(&[args, &["--device", device]].concat());
        refused(&of("cuda:99"), &["--device cuda:99", "expected a number below", "7"]);
        refused(&of("cuda:4"), &["--device cuda:4", "expected compute capability 8.0 or newer", "got 7.5"]);
    }
}

#[test]
fn an_emulated_device_tells_no_time() {
    let folder = Folder::new(&file::<f32, f32>(&Example::new("nchw"), &["x"]));
    let text = printed(&folder.run_on("cuda", &TRAIN));
    assert!(!text.contains("took") && text.contains("on cuda:0, an emulated device"), "{text}");
    assert!(printed(&folder.run(&TRAIN)).contains("\ntook "), "the CPU does");
}

#[test]
fn verify_says_what_it_left_out() {
    let folder = Folder::with_bytes(&[]);
    let json = folder.path().join("verify.json");
    let text = printed(&batchnorm(&["verify", "--device", "cuda", "--json", json.to_str().unwrap()]));
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let (note, cases) = (report["note"].as_str().unwrap(), report["cases"].as_u64().unwrap());
    assert!(text.contains(note) && text.contains(&format!("{cases} cases on cuda:0")), "{text}");
    assert!(note.contains("emulated (hopper4)") && note.contains("one group of cases in "), "{note}");
    assert!(cases > 1000, "{cases}");
    assert_eq!(report["failed"], 0);
    assert_eq!(report["failures"], serde_json::json!([]));
    let operations: Vec<_> = report["rows"].as_array().unwrap().iter().map(|row| row["op"].as_str().unwrap()).collect();
    for op in ["Moments", "Train", "Infer", "Backward", "BackwardFrozen"] {
        assert_eq!(operations.iter().filter(|&&row| row == op).count(), Dtype::ON_CUDA.len(), "{op} in each dtype");
    }
}

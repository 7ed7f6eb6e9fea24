//! Outputs of `run` and `info`: names, dtypes, dimensions and values.

use batchnorm::tensors::{TensorFile, Tensors, read};
use batchnorm::{Dtype, Element, Epilogue, Op, with_element};
use half::f16;

use crate::formulas::{ALL, EPS, Example, MOMENTUM, needed};
use crate::harness::{DEVICES, Folder, batchnorm, file, printed};

fn options(op: Op, layout: &str, epilogue: Epilogue<()>) -> Vec<String> {
    let (eps, momentum) = (EPS.to_string(), MOMENTUM.to_string());
    ["--op", op.name(), "--layout", layout, "--epilogue", epilogue.name(), "--eps", &eps, "--momentum", &momentum]
        .map(String::from)
        .into()
}

/// The output has exactly these tensors, in the contracted types, and these values.
#[track_caller]
fn check<T: Element>(folder: &Folder, example: &Example, op: Op, epilogue: Epilogue<()>, affine: bool, tracked: bool) {
    let bytes = read(folder.output()).unwrap();
    let tensors = Tensors::parse(&bytes).unwrap();
    let mut expected = example.expected(op, epilogue, affine);
    expected.retain(|name, _| tracked || !name.starts_with("running"));
    let mut names: Vec<_> = expected.keys().copied().collect();
    if op == Op::Train && tracked {
        names.push("num_batches_tracked");
        assert!(tensors.dims("num_batches_tracked").unwrap().is_empty());
        assert_eq!(tensors.count("num_batches_tracked").unwrap(), example.count + 1);
    }
    names.sort_unstable();
    assert_eq!(tensors.names(), names);

    let param = T::DTYPE.param();
    for (name, want) in expected {
        let (dtype, got): (_, Vec<f64>) = if matches!(name, "y" | "dx" | "dz") {
            let values = tensors.data::<T>(name, &example.dims).unwrap();
            (T::DTYPE, values.into_iter().map(T::to_f64).collect())
        } else {
            (param, tensors.channels::<f64>(name, 3).unwrap())
        };
        assert_eq!(tensors.dtype(name).unwrap(), dtype, "{name}");
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            // One rounding to the tensor's type, and the f32 statistics that a backward pass reads. The few roundings of
            // f32 arithmetic on 8 values a channel find room in the latter.
            let allowed = (dtype.unit_roundoff() + 16.0 * param.unit_roundoff()) * want.abs().max(1.0);
            let of = format!("{} {} {name}", op.name(), epilogue.name());
            assert!((got - want).abs() <= allowed, "{of}[{i}]: expected {want}, got {got}");
        }
    }
}

fn every_operation<T: Element, P: Element>(device: &str) {
    // An alias stands for the same layout on every device.
    let layouts = ["channels-first", "channels-last", "nchw", "nhwc"];
    for layout in layouts.into_iter().take(if device == "cpu" { 4 } else { 2 }) {
        let example = Example::new(layout);
        for &op in Op::ALL {
            for &epilogue in op.epilogues() {
                let folder = Folder::new(&file::<T, P>(&example, &ALL));
                let options = options(op, layout, epilogue);
                printed(&folder.run_on(device, &options.iter().map(String::as_str).collect::<Vec<_>>()));
                check::<T>(&folder, &example, op, epilogue, true, true);
            }
        }
    }
}

#[test]
fn every_operation_of_every_dtype() {
    for &dtype in Dtype::ALL {
        // Per-channel tensors may be of another dtype.
        let of_channels = match dtype {
            Dtype::F32 => Dtype::F32,
            Dtype::F16 => Dtype::Bf16,
            Dtype::Bf16 => Dtype::F64,
            Dtype::F64 => Dtype::F16,
        };
        for device in DEVICES.iter().filter(|&&device| device == "cpu" || dtype.is_on_cuda()) {
            with_element!(dtype, T => with_element!(of_channels, P => every_operation::<T, P>(device)));
        }
    }
}

#[test]
fn only_what_an_operation_needs_is_needed() {
    let example = Example::new("nchw");
    for &op in Op::ALL {
        for &epilogue in op.epilogues() {
            let folder = Folder::new(&file::<f32, f32>(&example, &needed(op, epilogue)));
            let options = options(op, "nchw", epilogue);
            for device in DEVICES {
                let text = printed(&folder.run_on(device, &options.iter().map(String::as_str).collect::<Vec<_>>()));
                check::<f32>(&folder, &example, op, epilogue, false, false);
                assert_eq!(text.contains("not tracked"), op == Op::Train, "{text}");
            }
        }
    }
}

#[test]
fn tensors_that_an_operation_does_not_read_are_left_alone() {
    let mut input = file::<f32, f32>(&Example::new("nchw"), &["x"]);
    input.push_count("weight", 1).unwrap();
    input.push("epoch", &[1, 2], &[1.0f64, 2.0]).unwrap();
    printed(&Folder::new(&input).run(&["--op", "moments", "--layout", "nchw"]));
}

/// The running tensors after a step from mean 0, variance 1 over [1, 3]: batch mean 2, biased variance 1.
fn after_a_step(device: &str, count: Option<i64>, options: &[&str]) -> (f64, f64, i64) {
    let mut input = TensorFile::default();
    input.push("x", &[2, 1], &[1.0f32, 3.0]).unwrap();
    input.push("running_mean", &[1], &[0.0f32]).unwrap();
    input.push("running_var", &[1], &[1.0f32]).unwrap();
    if let Some(count) = count {
        input.push_count("num_batches_tracked", count).unwrap();
    }
    let folder = Folder::new(&input);
    printed(&folder.run_on(device, &[&["--op", "train", "--layout", "nchw"], options].concat()));
    let bytes = read(folder.output()).unwrap();
    let tensors = Tensors::parse(&bytes).unwrap();
    let one = |name| tensors.channels::<f64>(name, 1).unwrap()[0];
    (one("running_mean"), one("running_var"), tensors.count("num_batches_tracked").unwrap())
}

#[test]
fn options_of_the_running_statistics() {
    for device in DEVICES {
        let after_a_step = |count, options: &[&str]| after_a_step(device, count, options);
        assert_eq!(after_a_step(Some(3), &["--momentum", "0.5"]), (1.0, 1.5, 4));
        assert_eq!(after_a_step(Some(3), &["--momentum=0.5", "--running-var", "biased"]), (1.0, 1.0, 4));
        assert_eq!(after_a_step(Some(3), &["--momentum", "cumulative"]), (0.5, 1.25, 4));
        assert_eq!(after_a_step(None, &["--momentum", "cumulative"]), (2.0, 2.0, 1));
        assert_eq!(after_a_step(Some(i64::MAX), &["--momentum", "1"]), (2.0, 2.0, i64::MAX));
    }
}

#[test]
fn skip_non_finite_leaves_the_running_statistics() {
    let mut input = TensorFile::default();
    input.push("x", &[2, 1], &[f32::NAN, 3.0]).unwrap();
    input.push("running_mean", &[1], &[0.25f32]).unwrap();
    input.push("running_var", &[1], &[1.5f32]).unwrap();
    let folder = Folder::new(&input);
    let ways = [(&["--skip-non-finite"][..], 0.25), (&[], f64::NAN)];
    for (device, (skip, expected)) in DEVICES.iter().flat_map(|device| ways.map(|way| (device, way))) {
        let text = printed(&folder.run_on(device, &[&["--op", "train", "--layout", "nchw"], skip].concat()));
        assert!(text.contains("no channel has a finite mean"), "{text}");
        let bytes = read(folder.output()).unwrap();
        let got = Tensors::parse(&bytes).unwrap().channels::<f64>("running_mean", 1).unwrap()[0];
        assert!(got == expected || got.is_nan() && expected.is_nan(), "expected {expected}, got {got}");
    }
}

#[test]
fn one_value_a_channel_and_no_value() {
    DEVICES.iter().for_each(|device| edges(device));
}

fn edges(device: &str) {
    let mut one = TensorFile::default();
    one.push("x", &[1, 2], &[4.0f32, 5.0]).unwrap();
    one.push("dy", &[1, 2], &[1.0f32, 1.0]).unwrap();
    let folder = Folder::new(&one);
    printed(&folder.run_on(device, &["--op", "backward", "--layout", "nchw"]));
    printed(&folder.run_on(device, &["--op", "train", "--layout", "nchw"]));
    one.push("running_mean", &[2], &[0.0f32; 2]).unwrap();
    one.push("running_var", &[2], &[1.0f32; 2]).unwrap();
    printed(&Folder::new(&one).run_on(device, &["--op", "train", "--layout", "nchw", "--running-var", "biased"]));

    for &op in Op::ALL {
        let mut none = TensorFile::default();
        none.push::<f16>("x", &[0, 3, 2], &[]).unwrap();
        none.push::<f16>("dy", &[0, 3, 2], &[]).unwrap();
        none.push("running_mean", &[3], &[0.5f32; 3]).unwrap();
        none.push("running_var", &[3], &[2.0f32; 3]).unwrap();
        let folder = Folder::new(&none);
        printed(&folder.run_on(device, &["--op", op.name(), "--layout", "nchw"]));
        let bytes = read(folder.output()).unwrap();
        let tensors = Tensors::parse(&bytes).unwrap();
        match op {
            Op::Train => assert_eq!(tensors.channels::<f64>("running_mean", 3).unwrap(), [0.5; 3]),
            Op::Backward(_) => assert_eq!(tensors.channels::<f64>("dweight", 3).unwrap(), [0.0; 3]),
            Op::Moments => assert!(tensors.channels::<f64>("var", 3).unwrap()[0].is_nan()),
            Op::Infer => assert_eq!(tensors.dims("y").unwrap(), [0, 3, 2]),
        }
    }
}

#[test]
fn the_report_says_what_was_done() {
    let folder = Folder::new(&file::<f16, f32>(&Example::new("nhwc"), &["x", "running_mean", "running_var"]));
    let text = printed(&folder.run(&["--op", "train", "--layout", "nhwc"]));
    for words in [
        "train of x [2, 2, 2, 3] channels-last f16: n 2, c 3, s 4, m 8 values per channel",
        "eps 0.00001",
        "momentum 0.1, unbiased variance; num_batches_tracked 1",
        "\nx: largest |mean| ",
        "constant channels: 0",
        "\ny: largest |mean| ",
        "wrote inv_std, mean, num_batches_tracked, running_mean, running_var, y to ",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    assert!((5..=10).contains(&text.lines().count()), "{text}");
}

#[test]
fn info_is_text_and_json() {
    assert!(printed(&batchnorm(&["info"])).contains("device cpu"));
    let info: serde_json::Value = serde_json::from_str(&printed(&batchnorm(&["info", "--json"]))).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let built = [("cuda", cfg!(feature = "cuda")), ("emulate", cfg!(feature = "emulate"))];
    let built: Vec<_> = built.into_iter().filter(|(_, built)| *built).map(|(name, _)| name).collect();
    assert_eq!(info["features"], serde_json::json!(built));
    assert_eq!(info["devices"][0]["name"], "cpu");
    assert!(info["devices"][0]["threads"].as_u64().unwrap() > 0);
    assert_eq!(info["dtypes"], serde_json::json!(Dtype::ALL.iter().copied().map(Dtype::name).collect::<Vec<_>>()));

    let text = printed(&batchnorm(&["info", "--device", "cpu"]));
    assert!(text.contains("device cpu") && !text.contains("device cuda"), "{text}");
    let alone: serde_json::Value =
        serde_json::from_str(&printed(&batchnorm(&["info", "--device", "cpu", "--json"]))).unwrap();
    assert_eq!(alone["devices"], serde_json::json!([info["devices"][0]]));
    assert_eq!(alone["no_cuda_because"], serde_json::Value::Null);
}

#[test]
fn help_and_version_are_no_failures() {
    assert!(printed(&batchnorm(&["--help"])).contains("Usage: batchnorm"));
    assert!(printed(&batchnorm(&["run", "--help"])).contains("--skip-non-finite"));
    assert!(printed(&batchnorm(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
}

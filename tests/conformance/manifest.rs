//! The files of a suite: its manifest, parsed into cases and steps, and its tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use batchnorm::tensors::Tensors;
use batchnorm::{Dtype, Element, Layout, Param, RunningVar, Shape, with_element};
use safetensors::SafeTensors;
use serde_json::Value;

use super::generated::Generated;

/// Keys of tensors in the suite's file, by role.
pub(crate) type Roles = BTreeMap<String, String>;

/// One framework's cases.
pub(crate) struct Suite {
    pub(crate) cases: Vec<Case>,
    bytes: Vec<u8>,
}

/// The statistics that normalize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The batch's.
    Batch,
    /// The running ones.
    Running,
    /// `saved_mean_in` and `saved_var_in`, for a backward pass alone.
    Given,
}

/// A case; one that is no sequence has one step.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) axis: Option<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) eps: f64,
    pub(crate) cumulative: bool,
    pub(crate) variance: RunningVar,
    pub(crate) track: bool,
    pub(crate) zero_debias: bool,
    pub(crate) expect_inaccurate: bool,
    pub(crate) generated: Option<Generated>,
    /// gamma, beta and the first running statistics, among others.
    pub(crate) tensors: Roles,
    pub(crate) steps: Vec<Step>,
}

/// One call of the framework.
pub(crate) struct Step {
    pub(crate) mode: Mode,
    pub(crate) training: bool,
    /// The weight of the new batch in the running statistics.
    pub(crate) update_factor: Option<f64>,
    pub(crate) num_batches_tracked: Option<i64>,
    pub(crate) kappa: f64,
    /// Inputs, and what the framework gave.
    pub(crate) tensors: Roles,
    /// The framework's outputs in float64.
    pub(crate) wants: Roles,
    /// The framework's own scaled error.
    pub(crate) err_native: BTreeMap<String, f64>,
    /// The outputs in which the framework itself misses the bar.
    pub(crate) native_off: Vec<String>,
}

impl Suite {
    pub(crate) fn load(folder: &Path) -> Self {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("a manifest is JSON");
        let cases = manifest["cases"].as_array().expect("cases");
        assert_eq!(manifest["n_cases"], cases.len(), "{}: no case is lost", folder.display());
        let bytes = read(manifest["tensor_file"].as_str().expect("tensor_file"));
        Self { cases: cases.iter().map(Case::parse).collect(), bytes }
    }

    pub(crate) fn file(&self) -> File<'_> {
        File { tensors: Tensors::parse(&self.bytes).unwrap(), raw: SafeTensors::deserialize(&self.bytes).unwrap() }
    }
}

impl Case {
    fn parse(value: &Value) -> Self {
        let name = value["name"].as_str().expect("name").to_string();
        let op = value["op"].as_str().expect("op");
        let momentum_convention = value["momentum_convention"].as_str().expect("momentum_convention");
        let steps = match op {
            "sequence" => value["steps"].as_array().expect("steps").iter().map(|s| Step::parse(s, value, op)).collect(),
            _ => vec![Step::parse(value, value, op)],
        };
        let case = Self {
            dims: value["shape"].as_array().expect("shape").iter().map(|d| d.as_u64().unwrap() as usize).collect(),
            axis: value["channel_axis"].as_u64().map(|axis| axis as usize),
            dtype: dtype(value["dtype"].as_str().expect("dtype")),
            eps: value["eps"].as_f64().expect("eps"),
            cumulative: momentum_convention == "cumulative",
            variance: if flag(value, "unbiased_running_var") { RunningVar::Unbiased } else { RunningVar::Biased },
            track: flag(value, "track"),
            zero_debias: flag(value, "zero_debias"),
            expect_inaccurate: flag(value, "expect_inaccurate"),
            generated: value.get("generated").map(Generated::parse),
            tensors: roles(&value["tensors"]),
            steps,
            name,
        };
        // The harness reads `update_factor`, which is compared here with the framework's own convention.
        if let (Some(factor), Some(momentum)) = (value["update_factor"].as_f64(), value["momentum"].as_f64()) {
            let converted = if momentum_convention == "decay" { 1.0 - momentum } else { momentum };
            assert!((factor - converted).abs() < 1e-7, "{}: momentum {momentum}, update factor {factor}", case.name);
        }
        case
    }

    /// The shape as this crate sees it. It takes 2 to 5 dimensions with the channels second or last: anything else is
    /// seen as `(n, c, s)`, the dimensions before the channels and after them multiplied up. `None` for a case without
    /// channels.
    pub(crate) fn view(&self) -> Option<Shape> {
        let axis = self.axis?;
        let shape = match axis {
            1 => Shape::new(&self.dims, Layout::ChannelsFirst).ok(),
            last if last + 1 == self.dims.len() => Shape::new(&self.dims, Layout::ChannelsLast).ok(),
            _ => None,
        };
        let (n, s) = (self.dims[..axis].iter().product(), self.dims[axis + 1..].iter().product());
        Some(shape.unwrap_or_else(|| Shape::new(&[n, self.dims[axis], s], Layout::ChannelsFirst).unwrap()))
    }
}

impl Step {
    fn parse(value: &Value, case: &Value, op: &str) -> Self {
        let training = value["training"].as_bool().unwrap_or(op == "train");
        let mode = match op {
            "backward" => Mode::Given,
            "train" | "infer" | "sequence" if value["uses_batch_stats"].as_bool().unwrap_or(training) => Mode::Batch,
            "train" | "infer" | "sequence" => Mode::Running,
            _ => panic!("{}: op {op}", case["name"]),
        };
        let errors = value["err_native"].as_object().into_iter().flatten();
        Self {
            mode,
            training,
            update_factor: value["update_factor"].as_f64().or(case["update_factor"].as_f64()),
            num_batches_tracked: value["num_batches_tracked"].as_i64(),
            kappa: value["kappa"].as_f64().unwrap_or(f64::NAN),
            tensors: roles(&value["tensors"]),
            wants: roles(&value["tensors_f64"]),
            err_native: errors.map(|(role, e)| (role.clone(), e.as_f64().unwrap_or(f64::INFINITY))).collect(),
            native_off: value["native_off"].as_array().into_iter().flatten().map(text).collect(),
        }
    }
}

fn flag(value: &Value, field: &str) -> bool {
    value.get(field).is_some_and(|flag| flag.as_bool().expect("true or false"))
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_string()
}

fn roles(value: &Value) -> Roles {
    value.as_object().into_iter().flatten().map(|(role, key)| (role.clone(), text(key))).collect()
}

fn dtype(name: &str) -> Dtype {
    Dtype::ALL.iter().copied().find(|dtype| dtype.array_name() == name).unwrap_or_else(|| panic!("dtype {name}"))
}

/// A suite's tensors, read through this crate's own reader.
pub(crate) struct File<'a> {
    tensors: Tensors<'a>,
    raw: SafeTensors<'a>,
}

impl File<'_> {
    pub(crate) fn dtype(&self, key: &str) -> Dtype {
        self.tensors.dtype(key).unwrap()
    }

    /// A tensor of exactly this type.
    pub(crate) fn data<T: Element>(&self, key: &str) -> Vec<T> {
        self.tensors.data(key, &self.tensors.dims(key).unwrap()).unwrap()
    }

    /// Per-channel values of any float type, as ours.
    pub(crate) fn channels<P: Param>(&self, key: &str, c: usize) -> Vec<P> {
        self.tensors.channels(key, c).unwrap()
    }

    /// A tensor of any float type, exactly.
    pub(crate) fn wide(&self, key: &str) -> Vec<f64> {
        with_element!(self.dtype(key), T => widened(&self.data::<T>(key)))
    }

    /// A tensor of i64 that are positions.
    pub(crate) fn positions(&self, key: &str) -> Vec<usize> {
        let tensor = self.raw.tensor(key).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "{key}");
        let positions: Vec<i64> = bytemuck::allocation::pod_collect_to_vec(tensor.data());
        positions.into_iter().map(|position| usize::try_from(position).unwrap()).collect()
    }
}

/// The values, exactly.
pub(crate) fn widened<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

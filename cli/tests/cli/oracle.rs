//! `run` on larger data, under every strategy, against the library's f64 oracle and its tolerances.

use std::collections::BTreeMap;

use batchnorm::tensors::{TensorFile, Tensors, read};
use batchnorm::verify::oracle::Oracle;
use batchnorm::verify::{Case, Group, Input, Inputs, Verified, compare};
use batchnorm::{Cpu, Dtype, Element, Epilogue, Layout, Op, Shape, Tracking, with_element};

use crate::harness::{Folder, printed};

/// Names of the output's tensors, each with its name in the library's table.
const NAMES: [(&str, &str); 11] = [
    ("y", "y"),
    ("dx", "dx"),
    ("dz", "dz"),
    ("mean", "saved_mean"),
    ("inv_std", "saved_inv_std"),
    ("var", "var"),
    ("dweight", "dgamma"),
    ("dbias", "dbeta"),
    ("running_mean", "running_mean"),
    ("running_var", "running_var"),
    ("num_batches_tracked", "num_batches_tracked"),
];

/// The case's tensors as a file.
fn file<T: Element>(case: &Case, inputs: &Inputs<T>, dy: &[T]) -> TensorFile {
    let mut file = TensorFile::default();
    let (dims, c) = (case.group.shape.dims(), [case.group.shape.c()]);
    file.push("x", dims, &inputs.x).unwrap();
    file.push("z", dims, &inputs.z).unwrap();
    file.push("dy", dims, dy).unwrap();
    file.push("weight", &c, &inputs.gamma).unwrap();
    file.push("bias", &c, &inputs.beta).unwrap();
    file.push("running_mean", &c, &inputs.running_mean).unwrap();
    file.push("running_var", &c, &inputs.running_var).unwrap();
    file.push_count("num_batches_tracked", inputs.num_batches_tracked).unwrap();
    file
}

/// The tensors that a command wrote, under the names of the library's table.
fn outputs<T: Element>(folder: &Folder, case: &Case) -> BTreeMap<&'static str, Vec<f64>> {
    let bytes = read(folder.output()).unwrap();
    let tensors = Tensors::parse(&bytes).unwrap();
    let shape = case.group.shape;
    let value = |name: &str| match name {
        "y" | "dx" | "dz" => tensors.data::<T>(name, shape.dims()).unwrap().into_iter().map(T::to_f64).collect(),
        "num_batches_tracked" => vec![tensors.count(name).unwrap() as f64],
        _ => tensors.channels::<f64>(name, shape.c()).unwrap(),
    };
    let of_table = |name: &str| match (case.op, NAMES.into_iter().find(|(written, _)| *written == name)) {
        (Op::Moments, Some(("mean", _))) => "mean",
        (_, Some((_, of_table))) => of_table,
        (_, None) => panic!("{case}: {name} is written, which the library's table does not name"),
    };
    tensors.names().into_iter().map(|name| (of_table(name), value(name))).collect()
}

fn holds<B: Verified, T: Element>(device: &str, strategy: &str) {
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        let (dims, name) = match layout {
            Layout::ChannelsFirst => ([5, 21, 9, 11], "channels-first"),
            Layout::ChannelsLast => ([5, 9, 11, 21], "channels-last"),
        };
        let group = Group { shape: Shape::new(&dims, layout).unwrap(), dtype: T::DTYPE, input: Input::Normal };
        let inputs = Inputs::<T>::new(&group);
        let oracle = Oracle::new(&group, &inputs, B::arithmetic(T::DTYPE));
        for &op in Op::ALL {
            let epilogue = if op.takes_epilogue() { Epilogue::ADD_RELU } else { Epilogue::IDENTITY };
            let tracking = op.tracks().then(Tracking::default);
            let case = Case { group, op, epilogue, affine: op.takes_epilogue(), tracking };
            let dy = oracle.dy_of(&case);
            let folder = Folder::new(&file(&case, &inputs, &dy));
            let args = ["--op", op.name(), "--layout", name, "--epilogue", epilogue.name(), "--strategy", strategy];
            printed(&folder.run_on(device, &args));
            let expected = oracle.expected(&case, &dy);
            let share = compare(&case, &expected, &outputs::<T>(&folder, &case));
            share.unwrap_or_else(|failure| panic!("{device}, {strategy}: {case}: {failure}"));
        }
    }
}

fn holds_in_every_dtype<B: Verified>(device: &str, strategy: &str) {
    for &dtype in Dtype::ON_CUDA {
        with_element!(dtype, T => holds::<B, T>(device, strategy));
    }
}

#[test]
fn on_the_cpu() {
    holds_in_every_dtype::<Cpu>("cpu", "auto");
}

#[cfg(feature = "emulate")]
#[test]
fn on_cuda_under_every_strategy() {
    for strategy in ["auto", "block", "two-read"] {
        holds_in_every_dtype::<batchnorm::Cuda>("cuda", strategy);
    }
}

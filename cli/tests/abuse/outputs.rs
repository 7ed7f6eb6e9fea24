//! Outputs of `run`, as cli/README.md has them.

use batchnorm::tensors::Tensors;
use batchnorm::{Epilogue, Op};

/// Holds the bytes of an output against those of its input.
pub(crate) fn check(op: Op, epilogue: Epilogue<()>, is_channels_last: bool, input: &[u8], output: &[u8]) {
    let input = Tensors::parse(input).unwrap();
    let output = Tensors::parse(output).unwrap_or_else(|error| panic!("the output: {error}"));
    let (dims, dtype) = (input.dims("x").unwrap(), input.dtype("x").unwrap());
    let c = dims[if is_channels_last { dims.len() - 1 } else { 1 }];
    let tracked = ["running_mean", "running_var", "num_batches_tracked"];
    let mut names = match op {
        Op::Moments => vec!["mean", "var"],
        Op::Infer => vec!["y"],
        Op::Train if tracked.iter().any(|name| input.contains(name)) => {
            [&["y", "mean", "inv_std"][..], &tracked].concat()
        }
        Op::Train => vec!["y", "mean", "inv_std"],
        Op::Backward(_) if epilogue.residual().is_some() => vec!["dx", "dweight", "dbias", "dz"],
        Op::Backward(_) => vec!["dx", "dweight", "dbias"],
    };
    names.sort_unstable();
    assert_eq!(output.names(), names, "the output of {} {}", op.name(), epilogue.name());
    let of_channels = dtype.param();
    for name in names {
        let got = output.dims(name).unwrap();
        if name == "num_batches_tracked" {
            let before = if input.contains(name) { input.count(name).unwrap() } else { 0 };
            let step = i64::from(!dims.contains(&0)); // An empty batch is not counted.
            assert_eq!((output.count(name).unwrap(), got), (before.saturating_add(step), vec![]), "{name}");
            continue;
        }
        let wanted = if matches!(name, "y" | "dx" | "dz") { (dtype, &dims[..]) } else { (of_channels, &[c][..]) };
        assert_eq!((output.dtype(name).unwrap(), &got[..]), wanted, "{name}");
    }
}

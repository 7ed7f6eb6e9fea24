//! `batchnorm run`: one operation on the tensors of a safetensors file.
//!
//! Everything is read and computed first; the output file is the last thing that happens, whole or not at all.

mod backward;
mod forward;
mod job;
mod report;

use std::path::PathBuf;

use batchnorm::op::Problem;
use batchnorm::tensors::{Tensors, read};
#[cfg(feature = "cuda")]
use batchnorm::with_device_element;
use batchnorm::{Compute, Cpu, Element, Momentum, NonFinite, Shape, Tracking, with_element};

use crate::choices::{self, Epilogue, Layout, Op, RunningVar, Strategy};
#[cfg(feature = "cuda")]
use crate::device;
use crate::device::Device;
use crate::failure::{Failure, one_line};
use crate::output;
use job::Job;
use report::Done;

/// Options of `batchnorm run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Operation
    #[arg(long, value_enum)]
    op: Op,
    /// Position of the channels among x's dimensions; nchw and nhwc are aliases
    #[arg(long, value_enum)]
    layout: Layout,
    /// Device to compute on: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Way that a CUDA device reads the data; the CPU has auto alone
    #[arg(long, value_enum, default_value = "auto")]
    strategy: Strategy,
    /// Constant added to the variance
    #[arg(long, default_value = "1e-5", value_parser = choices::number, allow_hyphen_values = true)]
    eps: f64,
    /// The weight of the new batch in the running statistics, in [0, 1], or cumulative: the average of all batches
    #[arg(long, default_value = "0.1", value_parser = choices::momentum, allow_hyphen_values = true)]
    momentum: Momentum,
    /// Which variance the running variance follows
    #[arg(long, value_enum, default_value = "unbiased")]
    running_var: RunningVar,
    /// Activation, and residual before it, fused behind the normalization; z is a tensor of the input
    #[arg(long, value_enum, default_value = "identity")]
    epilogue: Epilogue,
    /// Leave the running statistics of a channel as they are where its batch has NaN or infinite statistics
    #[arg(long)]
    skip_non_finite: bool,
    /// The safetensors file to read
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// The safetensors file to write; it appears whole or not at all
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
}

impl Args {
    fn tracking(&self) -> Tracking {
        let non_finite = if self.skip_non_finite { NonFinite::Skip } else { NonFinite::Propagate };
        Tracking { momentum: self.momentum, variance: self.running_var.into(), non_finite }
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    output::expect_file(&args.output)?;
    let (done, is_timed) = match args.device {
        Device::Cpu => {
            if args.strategy != Strategy::Auto {
                return Err(args.strategy.refused("auto on the device cpu"));
            }
            let bytes = read(&args.input)?;
            let tensors = parse(args, &bytes)?;
            (with_element!(tensors.dtype("x")?, T => compute::<Cpu, T>(args, Cpu, &tensors))?, true)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => {
            let cuda = device::cuda(number)?.with_strategy(args.strategy.forced());
            let bytes = read(&args.input)?;
            let tensors = parse(args, &bytes)?;
            let (dtype, is_emulated) = (tensors.dtype("x")?, device::is_emulated(&cuda.name()?));
            let refused = || format!("x: expected f32, f16 or bf16 on the device {}, got f64", args.device);
            let done = with_device_element!(
                dtype,
                T => compute::<_, T>(args, cuda, &tensors),
                f64 => Err(Failure::new(refused()))
            );
            (done?, !is_emulated)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => return Err(args.device.not_built()),
    };
    done.file.write_into(&args.output, || output::begun(&args.output))?;

    let names = done.file.names().collect::<Vec<_>>().join(", ");
    let path = one_line(&args.output.display().to_string());
    let lines = done.lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let place = match is_timed {
        true => format!("took {:.3?} on {}", done.took, args.device),
        false => format!("on {}, an emulated device, whose time would say nothing", args.device),
    };
    // The file is written: a report that finds no reader does not make that bad input.
    let _ = output::print(&format!("{lines}{place}\nwrote {names} to {path}\n"));
    Ok(())
}

fn parse<'a>(args: &Args, bytes: &'a [u8]) -> Result<Tensors<'a>, Failure> {
    Tensors::parse(bytes).map_err(|error| Failure::new(format!("{}: {error}", args.input.display())))
}

/// The operation on a backend, for data of type `T`.
fn compute<B: Compute<T>, T: Element>(args: &Args, backend: B, tensors: &Tensors<'_>) -> Result<Done, Failure> {
    let (op, epilogue, tracking) = (args.op.0, args.epilogue.0, args.tracking());
    let shape = Shape::new(&tensors.dims("x")?, args.layout.into())?;
    // Options out of range are refused also where this operation does not read them. Whether m = 1 will do depends on
    // the other tensors, and is left to the operation.
    let in_range = Tracking { variance: batchnorm::RunningVar::Biased, ..tracking };
    Problem::new(op, shape, T::DTYPE, epilogue, args.eps, Some(in_range))?;

    let job = Job::<B, T>::new(backend, tensors, shape, op, epilogue, args.eps)?;
    match op {
        batchnorm::Op::Train => forward::train(&job, tracking),
        batchnorm::Op::Infer => forward::infer(&job),
        batchnorm::Op::Moments => forward::moments(&job),
        batchnorm::Op::Backward(statistics) => backward::backward(&job, statistics),
    }
}

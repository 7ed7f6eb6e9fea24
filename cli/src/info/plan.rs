//! `batchnorm info --plan SHAPE`: how a problem could be run on a GPU, and what each way is predicted to take.

use batchnorm::Shape;
use batchnorm::op::Problem;
use batchnorm::plan::{DeviceLimits, Plan, PlanTable};
use serde_json::{Value, json};

use crate::choices::{Dimensions, Dtype, Epilogue, Layout, Op, dimensions};
use crate::failure::Failure;
use crate::output;
use crate::plan_json::plan_json;

/// The device that plans are for where there is none in this machine.
const DEFAULT: &str = "h100";

/// The options that say what is planned, and for which device.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Plan for a tensor of these dimensions, such as 256x64x56x56, and show every candidate with its predicted time
    #[arg(long, value_name = "SHAPE", value_parser = dimensions)]
    plan: Option<Dimensions>,
    /// The operation to plan
    #[arg(long, value_enum, default_value = "train", requires = "plan")]
    op: Op,
    /// Position of the channels among the dimensions
    #[arg(long, value_enum, default_value = "channels-first", requires = "plan")]
    layout: Layout,
    /// The type of the data
    #[arg(long, value_enum, default_value = "f16", requires = "plan")]
    dtype: Dtype,
    /// Activation, and residual before it, fused behind the normalization
    #[arg(long, value_enum, default_value = "identity", requires = "plan")]
    epilogue: Epilogue,
    /// The GPU to plan for: cuda:N of this machine, or a100, h100, h200, b200, rtx4090 or rtx5090 by its data sheet
    #[arg(long, value_name = "NAME", requires = "plan")]
    gpu: Option<String>,
}

/// A device, and how its limits are known.
struct Gpu {
    name: String,
    known_by: &'static str,
    limits: DeviceLimits,
    /// The table of measured plans that operations on it are planned by, where there is one.
    table: Option<PlanTable>,
}

/// The plan that an operation would have.
struct Choice {
    plan: Plan,
    /// Whether it is a table's.
    is_measured: bool,
}

/// The answer to `--plan`, where it was asked.
pub(super) fn answer(args: &Options, as_json: bool) -> Result<Option<String>, Failure> {
    let Some(Dimensions(dims)) = &args.plan else { return Ok(None) };
    let shape = Shape::new(dims, args.layout.into())?;
    let problem = Problem::new(args.op.0, shape, args.dtype.0, args.epilogue.0, 1e-5, None)?;
    let gpu = gpu(args.gpu.as_deref())?;
    let measured = gpu.table.as_ref().and_then(|table| table.plan_of(&problem));
    // The chosen one is an error where the device does not do.
    let chosen = measured.map_or_else(|| Plan::new(&problem, &gpu.limits, None), Ok)?;
    let mut candidates = Plan::candidates(&problem, &gpu.limits);
    if !candidates.contains(&chosen) {
        candidates.push(chosen);
    }
    let choice = Choice { plan: chosen, is_measured: measured.is_some() };
    Ok(Some(match as_json {
        true => format!("{:#}\n", to_json(&problem, &gpu, &choice, &candidates)),
        false => to_text(&problem, &gpu, &choice, &candidates),
    }))
}

/// The device of this name: by default the first of this machine.
fn gpu(name: Option<&str>) -> Result<Gpu, Failure> {
    let of_sheet = |name: &str| {
        let found = DeviceLimits::KNOWN.iter().copied().find(|(known, _)| *known == name);
        found.map(|(name, limits)| Gpu { name: name.into(), known_by: "its data sheet", limits, table: None })
    };
    if let Some(gpu) = name.and_then(of_sheet) {
        return Ok(gpu);
    }
    match (name, name.map(str::parse)) {
        (_, Some(Ok(crate::device::Device::Cuda(number)))) => at_hand(number),
        (Some(name), _) => {
            let known = DeviceLimits::KNOWN.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            Err(Failure::new(format!("--gpu: expected cuda:N or one of {known}, got \"{name}\"")))
        }
        (None, _) if has_device() => at_hand(0),
        (None, _) => of_sheet(DEFAULT).ok_or_else(|| Failure::new("no device is known")),
    }
}

/// Whether a CUDA device is there, whose refusals then are this command's.
#[cfg(feature = "cuda")]
fn has_device() -> bool {
    batchnorm::Cuda::count().is_ok_and(|count| count > 0)
}

#[cfg(not(feature = "cuda"))]
fn has_device() -> bool {
    false
}

#[cfg(feature = "cuda")]
fn at_hand(number: usize) -> Result<Gpu, Failure> {
    let cuda = crate::device::cuda(number)?;
    let name = format!("cuda:{number}, {}", cuda.name()?);
    Ok(Gpu { name, known_by: "its driver", limits: cuda.limits(), table: cuda.plans().cloned() })
}

#[cfg(not(feature = "cuda"))]
fn at_hand(number: usize) -> Result<Gpu, Failure> {
    Err(crate::device::Device::Cuda(number).not_built())
}

const HEAD: [&str; 10] = [
    "strategy",
    "access",
    "threads",
    "tiles",
    "CTAs per tile",
    "teams",
    "smem iters",
    "shared bytes",
    "workspace",
    "predicted us",
];

fn to_text(problem: &Problem, gpu: &Gpu, choice: &Choice, candidates: &[Plan]) -> String {
    let mut rows = vec![HEAD.map(String::from).to_vec()];
    rows.extend(candidates.iter().map(|plan| {
        let t = &plan.tiling;
        let mark = if *plan == choice.plan { " *" } else { "" };
        vec![
            format!("{}{mark}", plan.strategy),
            format!("{:?}", t.access),
            t.threads.to_string(),
            t.tiles.to_string(),
            t.splits.to_string(),
            t.teams.to_string(),
            format!("{}/{}", t.smem_iters, t.iterations()),
            t.shared_bytes.to_string(),
            plan.workspace_bytes.to_string(),
            format!("{:.1}", plan.predicted_ns / 1e3),
        ]
    }));
    let table = output::table(&rows, &[0, 1]);
    format!(
        "{} of {} {}, epilogue {}, on {}, as {} describes it\n{table}\
         * is the choice{}. The times are a model's, to compare plans by.\n",
        problem.op().name(),
        problem.shape(),
        problem.dtype(),
        problem.epilogue().name(),
        gpu.name,
        gpu.known_by,
        if choice.is_measured {
            ", measured: of the table that BATCHNORM_PLANS names"
        } else {
            "; nothing was measured"
        },
    )
}

fn to_json(problem: &Problem, gpu: &Gpu, choice: &Choice, candidates: &[Plan]) -> Value {
    let of_plan = |plan: &Plan| {
        let mut json = plan_json(plan);
        json["chosen"] = json!(*plan == choice.plan);
        json
    };
    json!({
        "op": problem.op().name(),
        "shape": problem.shape().to_string(),
        "dtype": problem.dtype().to_string(),
        "epilogue": problem.epilogue().name(),
        "gpu": gpu.name,
        "limits_by": gpu.known_by,
        "chosen_by": if choice.is_measured { "table" } else { "model" },
        "candidates": candidates.iter().map(of_plan).collect::<Vec<_>>(),
    })
}

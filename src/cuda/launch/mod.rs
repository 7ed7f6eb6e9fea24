//! The launches, a file an operation, and the way that all of them take: facts of the arguments, checks, addresses, plan,
//! one call of the C ABI.
//!
//! **The only unsafe calls of the crate.** They stand on: `Problem`, for which buffers there are, their lengths, that
//! outputs overlap nothing, and that all of them are memory of the backend's context, in order with its stream; `Plan`,
//! for geometry, shared memory and scratch memory; and the guards of the addresses, which [`run`] keeps until the
//! launches are on the stream.
#![allow(unsafe_code)]

mod argument;
mod backward;
mod backward_frozen;
mod infer;
mod moments;
mod prepare;
#[cfg(feature = "bench")]
mod probes;
mod train;

use core::ffi::c_void;

use cudarc::driver::sys::CUstreamCaptureStatus;
use half::{bf16, f16};

use super::device::driver;
use super::process::expect_unforked;
use super::{Cuda, ffi};
use crate::problem::Kind;
use crate::{Access, Element, Epilogue, Error, Op, Plan, Problem, Result, Strategy};
use argument::{Argument, place};

pub(super) use backward::backward;
pub(super) use backward_frozen::backward_frozen;
pub(super) use infer::infer;
pub(super) use moments::moments;
pub(super) use prepare::prepare;
#[cfg(feature = "bench")]
pub use probes::{Probe, Probes, Storing};
pub(super) use train::train;

/// An element that the kernels know.
pub(super) trait Native: Element<Param = f32> {
    const BN_DTYPE: ffi::BnDtype;
}

impl Native for f32 {
    const BN_DTYPE: ffi::BnDtype = ffi::BnDtype::BN_F32;
}
impl Native for f16 {
    const BN_DTYPE: ffi::BnDtype = ffi::BnDtype::BN_F16;
}
impl Native for bf16 {
    const BN_DTYPE: ffi::BnDtype = ffi::BnDtype::BN_BF16;
}

/// What is ready to be launched.
struct Launch {
    stream: *mut c_void,
    /// The channels, which are the values of a per-channel buffer.
    c: usize,
    /// `None` for an empty batch, which leaves constants.
    planned: Option<Planned>,
}

/// The part of the C ABI's structs that is the same for all operations.
struct Planned {
    tiling: ffi::BnTiling,
    epilogue: ffi::BnEpilogue,
    workspace: ffi::BnWorkspace,
}

impl Launch {
    /// Writes `value` to each channel of the buffers at these addresses; 0 is a buffer that is absent.
    fn fill(&self, addresses: &[u64], value: f32) -> Result<()> {
        addresses.iter().filter(|&&address| address != 0).try_for_each(|&address| {
            // SAFETY: Problem checked that an output of one value a channel has `c` values; `run` holds its guard.
            let status = unsafe { ffi::bn_fill(address as *mut f32, self.c as u64, value, self.stream) };
            checked("bn_fill", status)
        })
    }
}

/// Takes an operation from its problem and arguments to its launch. `launch` gets the addresses in the arguments' order,
/// 0 for an absent one.
fn run<T: Native, const N: usize>(
    cuda: &Cuda,
    problem: Problem,
    arguments: [Option<Argument<'_, T>>; N],
    launch: impl FnOnce(&Launch, [u64; N]) -> Result<()>,
) -> Result<()> {
    expect_unforked()?;
    let context = cuda.context();
    context.check_err().map_err(driver("earlier work of the context"))?;
    let launched = launch_held(cuda, problem, arguments, launch);
    // The guards are gone, and have recorded an event each; a failure is only noted.
    launched.and(context.check_err().map_err(driver("cuEventRecord")))
}

/// As [`run`]; returns with the guards dropped.
fn launch_held<T: Native, const N: usize>(
    cuda: &Cuda,
    problem: Problem,
    mut arguments: [Option<Argument<'_, T>>; N],
    launch: impl FnOnce(&Launch, [u64; N]) -> Result<()>,
) -> Result<()> {
    let (stream, context) = (&*cuda.stream, cuda.context());
    let mut facts = arguments.each_ref().map(|argument| argument.as_ref().map(Argument::facts));
    let here = place(&cuda.stream);
    let is_tracked = here.is_tracked || facts.iter().flatten().any(|fact| fact.place.is_some_and(|p| p.is_tracked));
    // Only then does it matter, and it is a call of the driver.
    let is_capturing = is_tracked
        && stream.capture_status().map_err(driver("cuStreamIsCapturing"))?
            != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let problem = problem.fit(&facts)?.placed(&here, is_capturing, &facts)?;

    let held = arguments.each_mut().map(|argument| argument.as_mut().map(|argument| argument.hold(stream)));
    // A failed wait for an event is only noted, and launching would race.
    context.check_err().map_err(driver("cuStreamWaitEvent"))?;
    let addresses = held.each_ref().map(|held| held.as_ref().map_or(0, |(address, _guard)| *address));
    for (fact, &address) in facts.iter_mut().zip(&addresses).filter_map(|(fact, a)| fact.as_mut().zip(Some(a))) {
        fact.address = address as usize;
    }
    let problem = problem.apart(&facts)?;
    let scratch = facts.iter().flatten().find(|fact| fact.kind == Kind::Workspace);
    let scratch = scratch.map_or((0, 0), |fact| (fact.address, fact.bytes));
    let planned = if problem.shape().is_empty() { None } else { Some(plan::<T>(cuda, &problem, scratch)?) };

    context.bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
    launch(&Launch { stream: stream.cu_stream().cast(), c: problem.shape().c(), planned }, addresses)
}

/// The plan of a problem that is not empty, with `(address, bytes)` of scratch memory, as the C ABI has it.
fn plan<T: Native>(cuda: &Cuda, problem: &Problem, (address, actual): (usize, usize)) -> Result<Planned> {
    let Plan { strategy, tiling, workspace_bytes, .. } = cuda.planned(problem)?;
    // Only the inference takes none: it has nothing to merge.
    if actual < workspace_bytes && problem.op() != Op::Infer {
        return Err(Error::Workspace { needed: workspace_bytes, actual });
    }
    // The ticket first, then the teams' counters, then the partials.
    let after = |bytes| if address == 0 { 0 } else { address + bytes };
    Ok(Planned {
        tiling: ffi::BnTiling {
            dtype: T::BN_DTYPE,
            access: match tiling.access {
                Access::Contiguous => ffi::BnAccess::BN_CONTIGUOUS,
                Access::Strided => ffi::BnAccess::BN_STRIDED,
                Access::ScalarContiguous => ffi::BnAccess::BN_SCALAR_CONTIGUOUS,
                Access::ScalarStrided => ffi::BnAccess::BN_SCALAR_STRIDED,
            },
            rows: tiling.rows,
            row_vectors: tiling.row_vectors,
            width: tiling.width,
            chunk: tiling.chunk,
            strategy: match strategy {
                Strategy::Block => ffi::BnStrategy::BN_BLOCK,
                Strategy::Cluster => ffi::BnStrategy::BN_CLUSTER,
                Strategy::Grid => ffi::BnStrategy::BN_GRID,
                Strategy::TwoRead => ffi::BnStrategy::BN_TWO_PASS,
            },
            m: problem.shape().m() as i64,
            channels: problem.shape().c() as u32,
            tile_channels: tiling.tile_channels,
            inner: tiling.inner,
            tiles: tiling.tiles,
            splits: tiling.splits,
            teams: tiling.teams,
            smem_iters: tiling.smem_iters,
            threads: tiling.threads,
            shared_bytes: tiling.shared_bytes,
            mask_in_place: u32::from(tiling.mask_in_place),
        },
        epilogue: ffi::BnEpilogue {
            activation: match problem.epilogue() {
                Epilogue::Identity | Epilogue::Add(()) => ffi::BnActivation::BN_IDENTITY,
                Epilogue::Relu | Epilogue::AddRelu(()) => ffi::BnActivation::BN_RELU,
            },
            has_residual: u32::from(problem.epilogue().residual().is_some()),
        },
        workspace: ffi::BnWorkspace {
            partials: after(Plan::HEAD_BYTES) as *mut c_void,
            ticket: address as *mut u32,
            counters: after(Plan::TICKET_BYTES) as *mut u32,
        },
    })
}

/// A status of the C ABI as a result.
fn checked(call: &'static str, status: ffi::BnStatus) -> Result<()> {
    if status == ffi::BnStatus::BN_SUCCESS { Ok(()) } else { Err(Error::Launch { call, code: status.0 }) }
}

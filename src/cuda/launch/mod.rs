//! The way from an operation's tensors to its launch: facts, checks, addresses, plan, one call of the C ABI. Each operation
//! has a file of its name, which fills its C struct.
//!
//! **The only unsafe calls of the kernels.** They stand on: `Problem`, for which tensors there are, their lengths, that
//! outputs overlap nothing, and that all of them are memory of the backend's context, in order with its stream (of raw memory
//! the caller says so); `Plan`, for geometry, shared memory and scratch memory; and the guards of the addresses, which [`run_held`]
//! keeps until the launches are on the stream.
#![allow(unsafe_code)]

mod axpy;
mod backward;
mod codes;
mod divisor;
mod hold;
mod infer;
mod moments;
mod prepare;
#[cfg(feature = "bench")]
mod probes;
mod tiling;
mod train;

use core::ffi::c_void;
use core::ptr;

use cudarc::driver::sys::CUstreamCaptureStatus;

use super::device::driver;
use super::process::expect_unforked;
use super::{Cuda, CudaWorkspace, extent, ffi, stream_key};
use crate::error::{Error, Result};
use crate::op::{Activation, Epilogue, Operation, Problem, Raw, RawSlice, Role, StreamKey, Tensor, TensorList};
use crate::plan::{Access, Plan, Strategy};
use hold::{DeviceMemory, Hold};

pub(super) use axpy::axpy;
pub(super) use prepare::prepare;
#[cfg(feature = "bench")]
pub use probes::{Probe, Probes, Storing};
pub(super) use tiling::KernelElement;
use tiling::tiling;

/// Runs an operation over memory that the caller vouches for.
///
/// # Safety
/// The promise of [`Compute::run_raw`](crate::Compute::run_raw).
pub(super) unsafe fn run_raw<T: KernelElement>(
    cuda: &Cuda,
    operation: Operation<'_, Raw, T>,
    workspace: Option<&mut CudaWorkspace>,
) -> Result<()> {
    run_held(cuda, operation, workspace)
}

/// Runs an operation over memory that cudarc vouches for.
pub(super) fn run<T: KernelElement>(
    cuda: &Cuda,
    operation: Operation<'_, Cuda, T>,
    workspace: Option<&mut CudaWorkspace>,
) -> Result<()> {
    run_held(cuda, operation, workspace)
}

/// Checks an operation, holds its memory and launches it, with this scratch memory or the calling thread's own.
fn run_held<M: DeviceMemory, T: KernelElement>(
    cuda: &Cuda,
    operation: Operation<'_, M, T>,
    workspace: Option<&mut CudaWorkspace>,
) -> Result<()> {
    guarded(cuda, || hold_and_launch(cuda, operation, workspace))
}

/// Calls what holds memory and launches, and returns with its guards dropped: where the process may use CUDA and nothing failed
/// before.
fn guarded(cuda: &Cuda, launch: impl FnOnce() -> Result<()>) -> Result<()> {
    expect_unforked()?;
    let context = cuda.context();
    context.check_err().map_err(driver("earlier work of the context"))?;
    let launched = launch();
    // The guards are gone, and have recorded an event each; a failure is only noted.
    launched.and(context.check_err().map_err(driver("cuEventRecord")))
}

/// Whether the stream is being captured, where that matters to these tensors.
fn is_capturing(cuda: &Cuda, here: &StreamKey, tensors: &[Tensor]) -> Result<bool> {
    let mut keys = tensors.iter().filter_map(|tensor| tensor.extent.stream);
    // Only then does it matter, and it is a call of the driver.
    Ok((here.is_tracked || keys.any(|key| key.is_tracked))
        && cuda.stream.capture_status().map_err(driver("cuStreamIsCapturing"))?
            != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// As [`run_held`]; returns with the guards dropped.
fn hold_and_launch<M: DeviceMemory, T: KernelElement>(
    cuda: &Cuda,
    operation: Operation<'_, M, T>,
    workspace: Option<&mut CudaWorkspace>,
) -> Result<()> {
    let (stream, context) = (&*cuda.stream, cuda.context());
    let problem = operation.problem()?;
    let mut tensors = TensorList::default();
    let operation = operation.map(&mut tensors);
    let is_own = workspace.is_none();
    let scratch = workspace.and_then(CudaWorkspace::memory_mut);
    if let Some(scratch) = &scratch {
        tensors.push_written("workspace", Role::Workspace, extent(&**scratch));
    }

    let here = stream_key(&cuda.stream);
    let problem = problem.check_lengths(&tensors.0)?;
    let problem = problem.check_streams(&here, is_capturing(cuda, &here, &tensors.0)?, &tensors.0)?;

    let mut hold = Hold::new(stream, &mut tensors.0);
    let operation = operation.map(&mut hold);
    let scratch = scratch.map_or(RawSlice::new(0, 0), |scratch| hold.write_bytes(scratch));
    let _guards = hold.guards();
    // A failed wait for an event is only noted, and launching would race.
    context.check_err().map_err(driver("cuStreamWaitEvent"))?;
    let problem = problem.check_aliasing(&tensors.0)?;
    context.bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
    if problem.shape().is_empty() {
        return fill(cuda, &problem, operation);
    }
    let plan = cuda.planned(&problem)?;
    let takes_scratch = problem.op().reduces();
    if is_own && takes_scratch {
        return cuda.with_own_workspace(&problem, &plan, |workspace| {
            let Some(memory) = workspace.memory_mut() else { return launch(cuda, &problem, &plan, operation, scratch) };
            let len = memory.len();
            let (address, _guard) = memory.device_ptr_mut(stream);
            context.check_err().map_err(driver("cuStreamWaitEvent"))?;
            launch(cuda, &problem, &plan, operation, RawSlice::new(address as usize, len))
        });
    }
    if takes_scratch && scratch.len() < plan.workspace_bytes {
        return Err(Error::Workspace { needed: plan.workspace_bytes, actual: scratch.len() });
    }
    launch(cuda, &problem, &plan, operation, scratch)
}

/// Writes what an empty batch leaves.
fn fill<T: KernelElement>(cuda: &Cuda, problem: &Problem, operation: Operation<'_, Raw, T>) -> Result<()> {
    operation.fill_empty(|output, value| {
        let c = problem.shape().c() as u64;
        // SAFETY: Problem checked that an output of one value a channel has `c` values; `run_held` holds its guard.
        let status = unsafe { ffi::bn_fill(at(output), c, value as f32, cuda.launch_stream()) };
        checked("bn_fill", status)
    })
}

/// The part of the C ABI's structs that is the same for all operations, and the stream.
struct Launch {
    stream: ffi::BnStream,
    tiling: ffi::BnTiling,
    epilogue: ffi::BnEpilogue,
    workspace: ffi::BnWorkspace,
}

/// Launches an operation that is checked and planned.
fn launch<T: KernelElement>(
    cuda: &Cuda,
    problem: &Problem,
    plan: &Plan,
    operation: Operation<'_, Raw, T>,
    scratch: RawSlice<u8>,
) -> Result<()> {
    // The tickets first, then the counter of exchanges, then the partials.
    let after = |bytes| if scratch.address() == 0 { 0 } else { scratch.address() + bytes };
    let launch = Launch {
        stream: cuda.launch_stream(),
        tiling: tiling::<T>(problem, plan),
        epilogue: epilogue(problem.epilogue()),
        workspace: ffi::BnWorkspace {
            partials: after(Plan::HEAD_BYTES) as *mut c_void,
            len: (scratch.len().saturating_sub(Plan::HEAD_BYTES) / Plan::PARTIAL_BYTES) as u64,
            ticket: scratch.address() as *mut u32,
            reset_ticket: after(size_of::<u32>()) as *mut u32,
            exchanges: after(Plan::COUNTER_BYTES) as *mut u64,
        },
    };
    match operation {
        Operation::Moments(op) => moments::launch(launch, op),
        Operation::Train(op) => train::launch(launch, op),
        Operation::Infer(op) => infer::launch(launch, op),
        Operation::Backward(op) => backward::launch(launch, op),
    }
}

fn epilogue(epilogue: Epilogue<()>) -> ffi::BnEpilogue {
    ffi::BnEpilogue { activation: epilogue.activation().into(), has_residual: u32::from(epilogue.residual().is_some()) }
}

/// A device address.
fn at<T>(slice: RawSlice<T>) -> *mut T {
    slice.address() as *mut T
}

/// A device address, null for a tensor that is absent.
fn at_or_null<T>(slice: Option<RawSlice<T>>) -> *mut T {
    slice.map_or(ptr::null_mut(), at)
}

/// A status of the C ABI as a result.
fn checked(call: &'static str, status: ffi::BnStatus) -> Result<()> {
    if status == ffi::BnStatus::BN_SUCCESS { Ok(()) } else { Err(Error::Launch { call, code: status.0 }) }
}

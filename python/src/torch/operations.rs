//! Parts of several operations. Each has a type with its arguments, in the order of its schema, which gives its results.
//!
//! Every check comes before the first write. Who calls them through the package's functions gets the texts of _functional.py.

use batchnorm::{Dtype, Op};

use super::data::Data;
use super::tensor::Tensor;
use crate::device::WorkspaceMemory;
use crate::epilogue::Kind;
use crate::error::Refusal;

pub(super) type Results = Result<[Option<Tensor>; 4], Refusal>;

/// An epilogue by its name, if it is one.
pub(super) type Named = Result<Kind, Refusal>;

/// The address of a tensor that has values.
pub(super) fn address(tensor: Option<&Tensor>) -> Option<usize> {
    tensor.filter(|tensor| tensor.len() > 0).map(Tensor::address)
}

/// Scratch memory for an operation whose stream is captured into a graph, which holds on to addresses: its replays are in order with
/// nothing else, so that it gets memory of its own, in the graph's pool. Else `None`: each thread has memory for each of its
/// streams, which its next operation uses again.
pub(super) fn workspace(data: &Data, op: Op, epilogue: Kind) -> Result<Option<Tensor>, Refusal> {
    #[cfg(feature = "cuda")]
    if let crate::dispatch::Target::Cuda { ordinal, stream } = data.at.target
        && data.at.dtype != Dtype::F64
        && is_capturing(ordinal, stream)?
    {
        let bytes = crate::dispatch::dispatch(data.at, &crate::call::WorkspaceBytes { op, epilogue })?;
        let memory = Tensor::vector(super::tensor::Code::uint8(), data.place, bytes)?;
        memory.zero()?;
        return Ok(Some(memory));
    }
    let _ = (data, op, epilogue, Dtype::F64);
    Ok(None)
}

#[cfg(feature = "cuda")]
fn is_capturing(ordinal: usize, stream: u64) -> Result<bool, Refusal> {
    #[cfg(feature = "emulate")]
    if super::stand_in::is_capturing() {
        return Ok(true);
    }
    crate::cuda::keeping_the_current_device(|| crate::cuda::is_capturing(&crate::cuda::on(ordinal, stream)?))
}

pub(super) fn memory(workspace: Option<&Tensor>) -> WorkspaceMemory {
    workspace.map(|tensor| (tensor.address(), tensor.len()))
}

//! The plan's tiling as the kernels have it: THE copy of one into the other, and what both sides must agree on.

use half::{bf16, f16};

use super::ffi::{self, BnDivisor, BnDtype, BnTiling};
use crate::element::Element;
use crate::op::Problem;
use crate::plan::Plan;

// The planner's constants of the kernels are those of kernels/abi.h.
const _: () = assert!(
    Plan::MAX_THREADS == ffi::BN_MAX_THREADS
        && Plan::MIN_CTAS == ffi::BN_MIN_CTAS
        && Plan::VECTOR_BYTES == ffi::BN_VECTOR_BYTES
        && Plan::PARTIAL_BYTES == ffi::BN_PARTIAL_BYTES as usize
        && Plan::MAX_SLOTS == ffi::BN_MAX_SLOTS
        && Plan::MAX_EXCHANGES == ffi::BN_MAX_EXCHANGES
        && Plan::CLUSTER_SIZES.len() == ffi::BN_CLUSTER_SIZES as usize
);

/// An element that the kernels know.
pub(in crate::cuda) trait KernelElement: Element<Param = f32> {
    const BN_DTYPE: BnDtype;
}

impl KernelElement for f32 {
    const BN_DTYPE: BnDtype = BnDtype::BN_F32;
}
impl KernelElement for f16 {
    const BN_DTYPE: BnDtype = BnDtype::BN_F16;
}
impl KernelElement for bf16 {
    const BN_DTYPE: BnDtype = BnDtype::BN_BF16;
}

/// The tiling of a launch.
pub(super) fn tiling<T: KernelElement>(problem: &Problem, plan: &Plan) -> BnTiling {
    let t = &plan.tiling;
    let [chunk_values, last_chunk_values] = t.chunk_values(problem.dtype()).map(|values| values as f32);
    BnTiling {
        dtype: T::BN_DTYPE,
        access: t.access.into(),
        strategy: plan.strategy.into(),
        rows: t.rows,
        row_vectors: t.row_vectors,
        width: t.width,
        chunk: t.chunk,
        m: problem.shape().m() as i64,
        channels: problem.shape().c() as u32,
        tile_channels: t.tile_channels,
        inner: t.inner,
        tiles: t.tiles,
        splits: t.splits,
        teams: t.teams,
        smem_iters: t.smem_iters,
        threads: t.threads,
        shared_bytes: t.shared_bytes,
        slot_rows: t.slot_rows,
        mask_in_place: u32::from(t.mask_in_place),
        exchanges: t.exchanges(),
        chunk_values,
        last_chunk_values,
        by_iteration: BnDivisor::new(t.iteration_len()),
        by_width: BnDivisor::new(t.width),
        by_inner: BnDivisor::new(t.inner),
        by_slot_rows: BnDivisor::new(t.slot_rows),
        by_splits: BnDivisor::new(t.splits),
        by_tiles: BnDivisor::new(t.tiles),
    }
}

//! The C functions that launch the planted kernels. A comment at each kernel says what is planted in it. All return a
//! `cudaError_t`, take device addresses, and work on the current context.

#![allow(missing_docs)]

extern crate cuda_emulator as _;

unsafe extern "C" {
    pub safe fn launch_block_sums(x: u64, sums: u64, n: i32, ctas: u32, threads: u32) -> i32;
    pub safe fn launch_copy(x: u64, y: u64, n: i32) -> i32;
    pub safe fn launch_copy16(x: u64, y: u64, vectors: u32) -> i32;
    pub safe fn launch_copy16_plain(x: u64, y: u64, vectors: u32) -> i32;
    pub safe fn launch_dynamic_shared(y: u64, used: i32, bytes: u32, opt_in: i32) -> i32;
    pub safe fn launch_no_opt_in(y: u64, bytes: u32) -> i32;
    pub safe fn launch_geometry(y: u64, ctas: u32, threads: u32, cooperative: i32) -> i32;
    pub safe fn occupancy(threads: i32, bytes: u32, blocks: &mut i32) -> i32;
    pub safe fn launch_scale(x: u64, y: u64, n: i32, forget: i32) -> i32;
    pub safe fn launch_early(x: u64, y: u64, counter: u64, n: i32, programmatic: i32, how: i32) -> i32;
    pub safe fn launch_shared_poison(y: u64, write: i32) -> i32;
    pub safe fn launch_passes(x: u64, y: u64, n: i32, passes: i32) -> i32;
    pub safe fn launch_neighbour(y: u64, barrier: i32) -> i32;
    pub safe fn launch_reuse(y: u64, barrier: i32) -> i32;
    pub safe fn launch_warp(y: u64, distance: u32, mask: u32) -> i32;
    pub safe fn launch_halves(y: u64, overlap: i32) -> i32;
    pub safe fn launch_widths(y: u64, z: u64, barrier: i32) -> i32;
    pub safe fn launch_read_write(x: u64, y: u64, barrier: i32) -> i32;
    pub safe fn launch_last_writer(y: u64, by_order: i32) -> i32;
    pub safe fn launch_last_block(partial: u64, counter: u64, y: u64, ctas: u32, how: i32) -> i32;
    pub safe fn launch_grid_barrier(values: u64, counter: u64, y: u64, ctas: u32, coop: i32, broken: i32) -> i32;
    pub safe fn launch_persistent(x: u64, counters: u64, y: u64, ctas: u32, threads: u32, rounds: u32, how: i32)
    -> i32;
    pub safe fn launch_tagged(
        slots: u64,
        outside: u64,
        y: u64,
        ctas: u32,
        threads: u32,
        rounds: u32,
        epoch: u32,
        how: i32,
    ) -> i32;
    pub safe fn launch_shuffle(y: u64, how: i32) -> i32;
    pub safe fn launch_barrier(y: u64, how: i32) -> i32;
    pub safe fn launch_collectives(y: u64) -> i32;
    pub safe fn launch_position(y: u64) -> i32;
    pub safe fn launch_exchange(
        y: u64,
        scratch: u64,
        ctas: u32,
        threads: u32,
        size: u32,
        rounds: u32,
        cooperative: i32,
        how: i32,
    ) -> i32;
    pub safe fn launch_static_exchange(y: u64, ctas: u32, size: u32, beyond: i32) -> i32;
    pub safe fn launch_cluster_barrier(x: u64, y: u64, ctas: u32, threads: u32, size: u32, how: i32) -> i32;
    pub safe fn launch_sized(
        y: u64,
        ctas: u32,
        threads: u32,
        shared: u32,
        size: u32,
        allowed: i32,
        cooperative: i32,
    ) -> i32;
    pub safe fn active_clusters(threads: u32, shared: u32, size: u32, clusters: &mut i32) -> i32;
    pub safe fn half_from_float(value: f32) -> u16;
    pub safe fn float_from_half(bits: u16) -> f32;
    pub safe fn bfloat_from_float(value: f32) -> u16;
    pub safe fn float_from_bfloat(bits: u16) -> f32;
    pub safe fn launch_weigh(x: u64, y: u64, n: i32) -> i32;
    pub safe fn launch_stamped_copy(x: u64, y: u64, n: i32) -> i32;
    pub safe fn launch_exit() -> i32;
    pub safe fn launch_rows(y: u64, ctas: u32, threads: u32, stride: u32, is_aligned: i32) -> i32;
    pub safe fn launch_words(y: u64, threads: u32, stride: u32, turns: u32, shuffles: i32, bytes: i32) -> i32;
    pub safe fn launch_some_lanes(y: u64, lanes: u32) -> i32;
    pub safe fn launch_double_halves(x: u64, y: u64, vectors: u32) -> i32;
}

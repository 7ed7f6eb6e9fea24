//! Bytes that the kernels load and store in global memory, as the emulated device counts them: "reads x once" as a
//! test. Bytes a channel (parameters, statistics, partials) come on top, and are bounded.

use std::collections::{BTreeMap, HashMap};

use batchnorm::op::Problem;
use batchnorm::op::{Backward, Gradients, Infer, Moments, Statistics, Train, Update};
use batchnorm::plan::{Access, Plan};
use batchnorm::{
    Backend, Compute, Cuda, Dtype, Element, Epilogue, Layout, Op, Shape, StatisticsKind, Strategy, Tracking,
    relu_mask_len, with_device_element,
};
use cuda_emulator::Traffic;
use cudarc::driver::{CudaSlice, DevicePtr};
use half::f16;

use crate::device::{cuda, has};

/// The address of a buffer.
fn address<T>(cuda: &Cuda, buf: &CudaSlice<T>) -> u64 {
    buf.device_ptr(cuda.stream()).0
}

/// Counts of bytes since they were last reset.
struct Meter(HashMap<u64, Traffic>);

impl Meter {
    fn of(address: u64) -> Traffic {
        cuda_emulator::traffic_of(address).expect("memory of the device")
    }

    fn reset(&mut self) {
        self.0.iter_mut().for_each(|(&address, before)| *before = Self::of(address));
    }

    /// The bytes that were loaded from a buffer, and stored to it.
    fn moved(&self, address: u64) -> (u64, u64) {
        let (now, before) = (Self::of(address), &self.0[&address]);
        (now.loaded - before.loaded, now.stored - before.stored)
    }
}

/// Number of values of x that the plan of an operation reads: all of them, and once more those that it does not keep in
/// shared memory.
fn values_read(cuda: &Cuda, problem: &Problem) -> u64 {
    let plan = Plan::new(problem, &cuda.limits(), cuda.strategy()).unwrap();
    let (t, len) = (&plan.tiling, problem.shape().len() as u64);
    if problem.op() == Op::Moments {
        return len;
    }
    if plan.strategy == Strategy::TwoPass {
        return 2 * len;
    }
    let is_rows = matches!(t.access, Access::Contiguous | Access::ScalarContiguous);
    let (whole, step) =
        if is_rows { (t.rows * t.width, i64::from(t.threads)) } else { (t.rows, i64::from(t.threads) / t.width) };
    let held = i64::from(t.smem_iters) * step;
    let part = |split: i64| (whole - split * t.chunk).clamp(0, t.chunk);
    let again: i64 = (0..i64::from(t.splits)).map(|split| (part(split) - held).max(0)).sum();
    // These are vectors of each tile if it is walked in rows, else rows of all tiles together.
    let vectors = if is_rows { again * i64::from(t.tiles) } else { again * t.row_vectors };
    len + (vectors * i64::from(t.vector_len(problem.dtype()))) as u64
}

fn check<T: Element<Param = f32>>(cuda: &Cuda, shape: Shape, epilogues: &[Epilogue<()>], packs_mask: bool)
where
    Cuda: Compute<T>,
{
    let bytes = (shape.len() * size_of::<T>()) as u64;
    let mask_bytes = shape.len().div_ceil(8) as u64;
    let values: Vec<T> = (0..shape.len()).map(|i| T::from_f64((i * 37 % 101) as f64 / 16.0 - 3.0)).collect();
    for &epilogue in epilogues {
        let problem = |op, epilogue| Problem::new(op, shape, T::DTYPE, epilogue, 1e-5, None).unwrap();
        let ops = [Op::Train, Op::Backward(StatisticsKind::Batch), Op::Backward(StatisticsKind::Running)]
            .map(|op| problem(op, epilogue));
        let [forward, backward, _] = ops.map(|op| values_read(cuda, &op) * size_of::<T>() as u64);
        let mut workspace = cuda.workspace(&[&ops[..], &[problem(Op::Moments, Epilogue::IDENTITY)]].concat()).unwrap();
        let data = || cuda.upload(&values).unwrap();
        let channels = || cuda.upload(&vec![0.5f32; shape.c()]).unwrap();
        let (x, z, dy, mut y, mut dx, mut dz) = (data(), data(), data(), data(), data(), data());
        let (gamma, beta) = (channels(), channels());
        let (mut mean, mut inv_std, mut running_mean, mut running_var) =
            (channels(), channels(), channels(), channels());
        let (mut dgamma, mut dbeta) = (channels(), channels());
        let mut count = cuda.upload(&[0i64]).unwrap();
        let mut mask = cuda.upload(&vec![0u32; relu_mask_len(shape)]).unwrap();
        let [at_x, at_z, at_dy, at_y, at_dx, at_dz] = [&x, &z, &dy, &y, &dx, &dz].map(|buf| address(cuda, buf));
        let at_mask = address(cuda, &mask);
        let all = [at_x, at_z, at_dy, at_y, at_dx, at_dz, at_mask];
        let mut meter = Meter(all.map(|address| (address, Traffic::default())).into());
        let keeps_mask = epilogue.keeps_mask();
        let z_read = if epilogue.residual().is_some() { bytes } else { 0 };
        let context = format!("{shape} {} {}", T::DTYPE, epilogue.name());

        meter.reset();
        let train = Train::<Cuda, T> {
            shape,
            eps: 1e-5,
            x: &x,
            epilogue: epilogue.map(|()| &z as &dyn DevicePtr<T>),
            gamma: Some(&gamma),
            beta: Some(&beta),
            y: &mut y,
            saved_mean: &mut mean,
            saved_inv_std: &mut inv_std,
            relu_mask: if keeps_mask { Some(&mut mask) } else { None },
            running: Some(Update {
                tracking: Tracking::default(),
                mean: &mut running_mean,
                var: &mut running_var,
                num_batches_tracked: &mut count,
            }),
        };
        cuda.run_in(&mut workspace, train).unwrap();
        let packed = if keeps_mask && packs_mask { bytes } else { 0 };
        assert_eq!(meter.moved(at_x), (forward, 0), "x, train, {context}");
        assert_eq!(meter.moved(at_y), (packed, bytes), "y, train, {context}");
        assert_eq!(meter.moved(at_z), (z_read, 0), "z, train, {context}");
        let words = relu_mask_len(shape) as u64 * 4;
        let mask_stored = if packs_mask { words } else { mask_bytes };
        assert_eq!(meter.moved(at_mask), (0, if keeps_mask { mask_stored } else { 0 }), "mask, train, {context}");

        meter.reset();
        let operation = Backward::<Cuda, T> {
            shape,
            x: &x,
            dy: &dy,
            epilogue: epilogue.map(|()| &mut dz as _),
            gamma: Some(&gamma),
            beta: Some(&beta),
            statistics: Statistics::Batch { mean: &mean, inv_std: &inv_std },
            relu_mask: if keeps_mask { Some(&mask) } else { None },
            gradients: Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
        };
        cuda.run_in(&mut workspace, operation).unwrap();
        assert_eq!(meter.moved(at_x), (backward, 0), "x, backward, {context}");
        assert_eq!(meter.moved(at_dy), (backward, 0), "dy, backward, {context}");
        assert_eq!(meter.moved(at_dx), (0, bytes), "dx, backward, {context}");
        assert_eq!(meter.moved(at_dz), (0, z_read), "dz, backward, {context}");
        if !packs_mask {
            let loaded = if keeps_mask { backward * mask_bytes * mask_sharing::<T>() / bytes } else { 0 };
            assert_eq!(meter.moved(at_mask), (loaded, 0), "mask, backward, {context}");
        }

        if epilogue.residual().is_none() {
            meter.reset();
            let operation = Backward::<Cuda, T> {
                shape,
                x: &x,
                dy: &dy,
                epilogue: epilogue.map(|()| &mut dz as _),
                gamma: Some(&gamma),
                beta: Some(&beta),
                statistics: Statistics::Batch { mean: &mean, inv_std: &inv_std },
                relu_mask: None,
                gradients: Gradients { dx: None, dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
            };
            cuda.run_in(&mut workspace, operation).unwrap();
            assert_eq!(meter.moved(at_dy), (bytes, 0), "dy, backward without dx, {context}");
            assert_eq!(meter.moved(at_dx), (0, 0), "dx, backward without dx, {context}");
        }

        meter.reset();
        cuda.run(Infer::<Cuda, T> {
            shape,
            eps: 1e-5,
            x: &x,
            epilogue: epilogue.map(|()| &z as &dyn DevicePtr<T>),
            gamma: Some(&gamma),
            beta: Some(&beta),
            running_mean: &running_mean,
            running_var: &running_var,
            y: &mut y,
            relu_mask: None,
        })
        .unwrap();
        assert_eq!(meter.moved(at_x), (bytes, 0), "x, infer, {context}");
        assert_eq!(meter.moved(at_y), (0, bytes), "y, infer, {context}");

        meter.reset();
        let operation = Backward::<Cuda, T> {
            shape,
            x: &x,
            dy: &dy,
            epilogue: epilogue.map(|()| &mut dz as _),
            gamma: Some(&gamma),
            beta: Some(&beta),
            statistics: Statistics::Running { mean: &running_mean, var: &running_var, eps: 1e-5 },
            relu_mask: if keeps_mask { Some(&mask) } else { None },
            gradients: Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
        };
        cuda.run_in(&mut workspace, operation).unwrap();
        assert_eq!(meter.moved(at_x), (bytes, 0), "x, backward_frozen, {context}");
        assert_eq!(meter.moved(at_dy), (bytes, 0), "dy, backward_frozen, {context}");
        assert_eq!(meter.moved(at_dx), (0, bytes), "dx, backward_frozen, {context}");

        meter.reset();
        let moments = Moments::<Cuda, T> { shape, x: &x, mean: &mut mean, var: &mut inv_std };
        cuda.run_in(&mut workspace, moments).unwrap();
        assert_eq!(meter.moved(at_x), (bytes, 0), "x, moments, {context}");
    }
}

/// Threads that read the same byte of the mask: two for f32, whose vectors hold half a byte of it.
fn mask_sharing<T: Element>() -> u64 {
    let values_a_vector = 16 / T::DTYPE.bytes();
    u64::from((8 / values_a_vector).max(1))
}

fn shapes() -> [(Shape, bool); 4] {
    let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
    [
        // Rows; columns of channels-last; columns of small planes.
        (shape(&[6, 5, 16, 16], Layout::ChannelsFirst), false),
        (shape(&[9, 6, 6, 64], Layout::ChannelsLast), false),
        (shape(&[40, 32, 7, 7], Layout::ChannelsFirst), false),
        // Element by element.
        (shape(&[5, 3, 7, 7], Layout::ChannelsFirst), true),
    ]
}

fn check_reads(strategy: Strategy, reads: u64) {
    let Some(cuda) = cuda() else { return };
    if !has(&cuda.limits(), Some(strategy)) {
        println!("skipped: {} has no {strategy}", cuda.name().unwrap());
        return;
    }
    let cuda = cuda.with_strategy(Some(strategy));
    for (shape, packs_mask) in shapes() {
        for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
            let problem = Problem::new(op, shape, Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap();
            assert_eq!(values_read(&cuda, &problem), reads * shape.len() as u64, "{strategy} {shape}");
        }
        // Bytes depend on the dtype's size alone: one of each.
        let sizes: BTreeMap<_, _> = Dtype::ON_CUDA.iter().copied().map(|dtype| (dtype.bytes(), dtype)).collect();
        for dtype in sizes.into_values() {
            with_device_element!(
                dtype,
                T => check::<T>(&cuda, shape, Epilogue::ALL, packs_mask),
                f64 => unreachable!("no kernel computes f64")
            );
        }
    }
}

#[test]
fn block_reads_everything_once() {
    check_reads(Strategy::Block, 1);
}

#[test]
fn a_cluster_reads_everything_once() {
    check_reads(Strategy::Cluster, 1);
}

#[test]
fn a_grid_that_keeps_its_tiles_reads_everything_once() {
    check_reads(Strategy::Grid, 1);
}

#[test]
fn two_read_reads_twice() {
    check_reads(Strategy::TwoPass, 2);
}

/// Tiles larger than all shared memory of the device: what fits is read once, everything else twice.
#[test]
fn a_grid_reads_again_what_it_cannot_hold() {
    let Some(cuda) = cuda() else { return };
    let cuda = cuda.with_strategy(Some(Strategy::Grid));
    for (dims, layout) in [(&[3, 1, 448, 448][..], Layout::ChannelsFirst), (&[90, 56, 56, 8], Layout::ChannelsLast)] {
        let shape = Shape::new(dims, layout).unwrap();
        let problem =
            Problem::new(Op::Backward(StatisticsKind::Batch), shape, Dtype::F16, Epilogue::IDENTITY, 1e-5, None)
                .unwrap();
        let (read, len) = (values_read(&cuda, &problem), shape.len() as u64);
        assert!(read > len && read < 2 * len, "{shape}: {read} of {len}");
        check::<f16>(&cuda, shape, &[Epilogue::RELU], false);
    }
}

/// ResNet-50's batch norms at N = 256 on a device of 132 SMs, scaled down to this one's SMs: the same planes, a batch that
/// gives each SM as many bytes of a tile, and fewer channels. Their plans read once, to the byte.
#[test]
fn the_layers_of_resnet50_are_read_once() {
    let Some(cuda) = cuda() else { return };
    let n = 256 * cuda.limits().sms.min(132) as usize / 132;
    let rows = batchnorm::bench::rows().unwrap().into_iter().filter(|row| row.suite == "resnet50");
    let largest = rows.filter(|row| row.shape.n() == 256 && row.dtype == Dtype::F16);
    for row in largest.filter(|row| row.shape.layout() == Layout::ChannelsFirst) {
        let (c, side) = (row.shape.c(), row.shape.dims()[2]);
        let shape = Shape::nchw(n, (c / 32).max(8), side, side).unwrap();
        for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
            let problem = Problem::new(op, shape, Dtype::F16, Epilogue::RELU, 1e-5, None).unwrap();
            // A device of few SMs has so much L2 for them that reading twice may take no longer.
            let keeping = Plan::candidates(&problem, &cuda.limits()).into_iter();
            let keeping = keeping.filter(|plan| plan.strategy != Strategy::TwoPass);
            let best = keeping.min_by(|a, b| a.predicted_ns.total_cmp(&b.predicted_ns)).unwrap();
            let cuda = cuda.clone().with_strategy(Some(best.strategy));
            assert_eq!(values_read(&cuda, &problem), shape.len() as u64, "{op:?} {shape}");
        }
        check::<f16>(&cuda, shape, &[Epilogue::RELU], false);
    }
}

//! How many bytes the kernels load and store in global memory, as the emulated device counts them: "reads x once" as a
//! test. What a channel costs (parameters, statistics, partials) comes on top, and is bounded.

use std::collections::HashMap;

use batchnorm::args::{BackwardArgs, BackwardFrozenArgs, Gradients, InferArgs, MomentsArgs, RunningArgs, TrainArgs};
use batchnorm::{
    Backend, Compute, Cuda, Dtype, Element, Epilogue, Layout, Op, Problem, Shape, Strategy, Tracking, relu_mask_len,
};
use cuda_emulator::Traffic;
use cudarc::driver::{CudaSlice, DevicePtr};
use half::f16;

use crate::device::cuda;

const EPILOGUES: [Epilogue<()>; 4] = [Epilogue::Identity, Epilogue::Relu, Epilogue::Add(()), Epilogue::AddRelu(())];

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

    /// What was loaded from a buffer, and stored to it.
    fn moved(&self, address: u64) -> (u64, u64) {
        let (now, before) = (Self::of(address), &self.0[&address]);
        (now.loaded - before.loaded, now.stored - before.stored)
    }
}

/// How often x, dy and the mask are read in a forward and a backward pass.
struct Reads {
    forward: u64,
    backward: u64,
}

fn check<T: Element<Param = f32>>(cuda: &Cuda, shape: Shape, reads: &Reads, packs_mask: bool)
where
    Cuda: Compute<T>,
{
    let bytes = (shape.len() * size_of::<T>()) as u64;
    let mask_bytes = shape.len().div_ceil(8) as u64;
    let values: Vec<T> = (0..shape.len()).map(|i| T::from_f64((i * 37 % 101) as f64 / 16.0 - 3.0)).collect();
    for epilogue in EPILOGUES {
        let problem = |op, epilogue| Problem::new(op, shape, T::DTYPE, epilogue, 1e-5, None).unwrap();
        let ops = [Op::Train, Op::Backward, Op::BackwardFrozen].map(|op| problem(op, epilogue));
        let mut workspace = cuda.workspace(&[&ops[..], &[problem(Op::Moments, Epilogue::Identity)]].concat()).unwrap();
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
        let keeps_mask = epilogue == Epilogue::AddRelu(());
        let z_read = if epilogue.residual().is_some() { bytes } else { 0 };
        let context = format!("{shape} {} {}", T::DTYPE, epilogue.name());

        meter.reset();
        cuda.train(TrainArgs::<Cuda, T> {
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
            running: Some(RunningArgs {
                tracking: Tracking::default(),
                mean: &mut running_mean,
                var: &mut running_var,
                num_batches_tracked: &mut count,
            }),
            workspace: &mut workspace,
        })
        .unwrap();
        let packed = if keeps_mask && packs_mask { bytes } else { 0 };
        assert_eq!(meter.moved(at_x), (reads.forward * bytes, 0), "x, train, {context}");
        assert_eq!(meter.moved(at_y), (packed, bytes), "y, train, {context}");
        assert_eq!(meter.moved(at_z), (z_read, 0), "z, train, {context}");
        let words = relu_mask_len(shape) as u64 * 4;
        let mask_stored = if packs_mask { words } else { mask_bytes };
        assert_eq!(meter.moved(at_mask), (0, if keeps_mask { mask_stored } else { 0 }), "mask, train, {context}");

        meter.reset();
        cuda.backward(BackwardArgs::<Cuda, T> {
            shape,
            x: &x,
            dy: &dy,
            epilogue: epilogue.map(|()| &mut dz as _),
            gamma: Some(&gamma),
            beta: Some(&beta),
            saved_mean: &mean,
            saved_inv_std: &inv_std,
            relu_mask: if keeps_mask { Some(&mask) } else { None },
            gradients: Gradients { dx: &mut dx, dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
            workspace: &mut workspace,
        })
        .unwrap();
        assert_eq!(meter.moved(at_x), (reads.backward * bytes, 0), "x, backward, {context}");
        assert_eq!(meter.moved(at_dy), (reads.backward * bytes, 0), "dy, backward, {context}");
        assert_eq!(meter.moved(at_dx), (0, bytes), "dx, backward, {context}");
        assert_eq!(meter.moved(at_dz), (0, z_read), "dz, backward, {context}");
        if !packs_mask {
            let loaded = if keeps_mask { reads.backward * mask_bytes * mask_sharing::<T>() } else { 0 };
            assert_eq!(meter.moved(at_mask), (loaded, 0), "mask, backward, {context}");
        }

        meter.reset();
        cuda.infer(InferArgs::<Cuda, T> {
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
        cuda.backward_frozen(BackwardFrozenArgs::<Cuda, T> {
            shape,
            eps: 1e-5,
            x: &x,
            dy: &dy,
            epilogue: epilogue.map(|()| &mut dz as _),
            gamma: Some(&gamma),
            beta: Some(&beta),
            running_mean: &running_mean,
            running_var: &running_var,
            relu_mask: if keeps_mask { Some(&mask) } else { None },
            gradients: Gradients { dx: &mut dx, dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
            workspace: &mut workspace,
        })
        .unwrap();
        assert_eq!(meter.moved(at_x), (bytes, 0), "x, backward_frozen, {context}");
        assert_eq!(meter.moved(at_dy), (bytes, 0), "dy, backward_frozen, {context}");
        assert_eq!(meter.moved(at_dx), (0, bytes), "dx, backward_frozen, {context}");

        meter.reset();
        let args =
            MomentsArgs::<Cuda, T> { shape, x: &x, mean: &mut mean, var: &mut inv_std, workspace: &mut workspace };
        cuda.moments(args).unwrap();
        assert_eq!(meter.moved(at_x), (bytes, 0), "x, moments, {context}");
    }
}

/// Threads that read the same byte of the mask: two for f32, whose vectors hold half a byte of it.
fn mask_sharing<T: Element>() -> u64 {
    if T::DTYPE == Dtype::F32 { 2 } else { 1 }
}

fn shapes() -> [(Shape, bool); 4] {
    let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
    [
        // Rows; columns of channels-last; columns of small planes.
        (shape(&[6, 5, 16, 16], Layout::ChannelsFirst), false),
        (shape(&[9, 6, 6, 64], Layout::ChannelsLast), false),
        (shape(&[40, 16, 7, 7], Layout::ChannelsFirst), false),
        // Element by element.
        (shape(&[5, 3, 7, 7], Layout::ChannelsFirst), true),
    ]
}

#[test]
fn block_reads_everything_once() {
    let Some(cuda) = cuda() else { return };
    let cuda = cuda.with_strategy(Some(Strategy::Block));
    for (shape, packs_mask) in shapes() {
        check::<f32>(&cuda, shape, &Reads { forward: 1, backward: 1 }, packs_mask);
        check::<f16>(&cuda, shape, &Reads { forward: 1, backward: 1 }, packs_mask);
    }
}

#[test]
fn two_read_reads_twice() {
    let Some(cuda) = cuda() else { return };
    let cuda = cuda.with_strategy(Some(Strategy::TwoRead));
    for (shape, packs_mask) in shapes() {
        check::<f32>(&cuda, shape, &Reads { forward: 2, backward: 2 }, packs_mask);
        check::<f16>(&cuda, shape, &Reads { forward: 2, backward: 2 }, packs_mask);
    }
}

//! The operations over buffers of your own, without a layer: moments, a training forward, inference.
//!
//!     cargo run --example 03_own_buffers
//!
//! For whoever keeps parameters and statistics elsewhere. The same structs run on a GPU over its buffers.

use batchnorm::op::{Infer, Moments, Train, Update};
use batchnorm::{Compute, Cpu, Epilogue, Running, Shape, Tracking};

const EPS: f64 = 1e-5;

fn main() -> Result<(), batchnorm::Error> {
    let shape = Shape::nc(4, 2)?;
    let x = [1.0f32, -10.0, 2.0, 10.0, 3.0, -10.0, 4.0, 10.0];
    let (gamma, beta) = ([1.0, 2.0], [0.0, 0.5]);

    let (mut mean, mut var) = ([0.0; 2], [0.0; 2]);
    Cpu.run(Moments::<Cpu, f32> { shape, x: &x, mean: &mut mean, var: &mut var })?;
    println!("mean {mean:?}, biased variance {var:?}");

    let mut running = Running::<Vec<f32>, i64>::new(shape.c())?;
    let (mut y, mut saved_mean, mut saved_inv_std) = ([0.0; 8], [0.0; 2], [0.0; 2]);
    Cpu.run(Train::<Cpu, f32> {
        shape,
        eps: EPS,
        x: &x,
        epilogue: Epilogue::IDENTITY,
        gamma: Some(&gamma),
        beta: Some(&beta),
        y: &mut y,
        saved_mean: &mut saved_mean, // for the backward pass, `op::Backward`
        saved_inv_std: &mut saved_inv_std,
        relu_mask: None, // add-relu alone keeps one
        running: Some(Update {
            tracking: Tracking::new(),
            mean: &mut running.mean,
            var: &mut running.var,
            num_batches_tracked: core::slice::from_mut(&mut running.num_batches_tracked),
        }),
    })?;
    println!("trained: y {y:.3?}");
    println!("running mean {:?}, running variance {:?}", running.mean, running.var);

    Cpu.run(Infer::<Cpu, f32> {
        shape,
        eps: EPS,
        x: &x,
        epilogue: Epilogue::RELU,
        gamma: Some(&gamma),
        beta: Some(&beta),
        running_mean: &running.mean,
        running_var: &running.var,
        y: &mut y,
        relu_mask: None,
    })?;
    println!("inferred: y {y:.3?}");
    Ok(())
}

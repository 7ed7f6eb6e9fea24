//! Training steps of the CPU path, and what holds of their bits.

mod bits;
mod fit;

use super::Cpu;
use crate::backend::Compute;
use crate::element::Element;
use crate::op::{Backward, Epilogue, Gradients, Statistics, Train};
use crate::shape::Shape;

/// Values without an order, around a mean of each channel's own.
fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let hash = |i: usize| (i as u64 + 1).wrapping_mul(seed) >> 40;
    (0..len).map(|i| T::from_f64(hash(i) as f64 / f64::from(1 << 22) - 1.3)).collect()
}

/// The inputs of a training step.
#[derive(Clone)]
struct Inputs<T> {
    shape: Shape,
    eps: f64,
    epilogue: Epilogue<()>,
    x: Vec<T>,
    dy: Vec<T>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// The outputs.
struct Outputs<T> {
    y: Vec<T>,
    dx: Vec<T>,
    /// Mean, `inv_std`, `dgamma` and `dbeta`.
    of_channels: [Vec<f32>; 4],
}

impl<T: Element<Param = f32>> Inputs<T>
where
    Cpu: Compute<T>,
{
    /// Inputs with an affine transformation of each channel's own.
    fn new(shape: Shape, epilogue: Epilogue<()>, x: Vec<T>, dy: Vec<T>) -> Self {
        let channels = 0..shape.c();
        let (gamma, beta) = channels.map(|ch| (0.5 + ch as f32 / 8.0, 1.0 - ch as f32 / 4.0)).unzip();
        Self { shape, eps: 1e-5, epilogue, x, dy, gamma, beta }
    }

    /// A training step, forward and backward, on this thread.
    fn step(&self) -> Outputs<T> {
        let Self { shape, eps, epilogue, ref x, ref dy, ref gamma, ref beta } = *self;
        let (len, c) = (shape.len(), shape.c());
        let (mut y, mut dx) = (vec![T::default(); len], vec![T::default(); len]);
        let [mut mean, mut inv_std, mut dgamma, mut dbeta] = [(); 4].map(|()| vec![0.0; c]);
        let (mut dz, mut words) = (vec![T::default(); len], vec![0; len.div_ceil(32)]);
        let has_residual = epilogue.residual().is_some();
        let has_mask = epilogue == Epilogue::add_relu(());
        let (gamma, beta) = (Some(&gamma[..]), Some(&beta[..]));
        Cpu::with_threads(1, || {
            Cpu.run(Train {
                shape,
                eps,
                x: &x[..],
                epilogue: Epilogue::new(epilogue.activation(), has_residual.then_some(&dy[..])),
                gamma,
                beta,
                y: &mut y[..],
                saved_mean: &mut mean[..],
                saved_inv_std: &mut inv_std[..],
                relu_mask: has_mask.then_some(&mut words[..]),
                running: None,
            })
            .unwrap();
            Cpu.run(Backward {
                shape,
                x: &x[..],
                dy: &dy[..],
                epilogue: Epilogue::new(epilogue.activation(), has_residual.then_some(&mut dz[..])),
                gamma,
                beta,
                statistics: Statistics::Batch { mean: &mean[..], inv_std: &inv_std[..] },
                relu_mask: has_mask.then_some(&words[..]),
                gradients: Gradients {
                    dx: Some(&mut dx[..]),
                    dgamma: Some(&mut dgamma[..]),
                    dbeta: Some(&mut dbeta[..]),
                },
            })
            .unwrap();
        });
        Outputs { y, dx, of_channels: [mean, inv_std, dgamma, dbeta] }
    }
}

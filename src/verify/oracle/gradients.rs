//! The gradients of one channel.

use super::channel::Channel;
use crate::verify::reduce::{finite_magnitude, largest, largest_magnitude, sums};
use crate::verify::tolerance::{Arithmetic, dgamma_scale, dx_scale, g_error, v_scale};
use crate::verify::{Case, activation};

/// The gradients of one channel, with the largest terms that enter them.
pub(super) struct ChannelGradients {
    pub(super) dx_scale: f64,
    pub(super) dgamma: f64,
    pub(super) dgamma_scale: f64,
    pub(super) dbeta: f64,
    pub(super) dbeta_scale: f64,
}

impl ChannelGradients {
    /// The gradients of a channel of these values. Appends those of data to `all_dx` and, with a residual, `all_dz`.
    pub(super) fn new(
        case: &Case,
        arithmetic: Arithmetic,
        ch: &Channel,
        [x, dy]: [&[f64]; 2],
        z: Option<&[f64]>,
        [all_dx, all_dz]: [&mut Vec<f64>; 2],
    ) -> Self {
        let (m, activation) = (x.len() as f64, case.epilogue.activation());
        let v = ch.arguments(x, z);
        let g: Vec<f64> = v.iter().zip(dy).map(|(&v, &dy)| activation::gradient(activation, v, dy)).collect();
        let x_hat: Vec<f64> = x.iter().map(|&x| ch.x_hat(x)).collect();
        let terms = |i: usize| {
            let (g_x_hat, dy_x_hat) = (g[i] * x_hat[i], dy[i] * x_hat[i]);
            let magnitudes = [g[i], g_x_hat, dy[i], dy_x_hat].map(finite_magnitude);
            [g[i], g_x_hat, magnitudes[0], magnitudes[1], magnitudes[2], magnitudes[3]]
        };
        let [dbeta, dgamma, sum_of_g, sum_of_g_x_hat, sum_of_dy, sum_of_dy_x_hat] = sums(0..x.len(), &terms);

        let through_statistics = |x_hat: f64| {
            if case.op.needs_batch_statistics() { dbeta / m + x_hat * dgamma / m } else { 0.0 }
        };
        let scale = ch.gamma * ch.normalizer.inv_std;
        all_dx.extend(g.iter().zip(&x_hat).map(|(g, &x_hat)| scale * (g - through_statistics(x_hat))));
        if z.is_some() {
            all_dz.extend(&g);
        }

        let kappa = ch.kappa();
        let error = |[v, x_hat]: [f64; 2]| g_error(activation, v, v_scale(arithmetic, ch.gamma, ch.beta, x_hat, kappa));
        let g_error = largest([&v, &x_hat], |at| finite_magnitude(error(at)));
        let largest_g = largest_magnitude(&g) + g_error * largest_magnitude(dy);
        let dbeta_scale = sum_of_g + g_error * sum_of_dy;
        Self {
            dx_scale: dx_scale(scale, largest_g, ch.normalizer.max_x_hat),
            dgamma,
            dgamma_scale: dgamma_scale(sum_of_g_x_hat + g_error * sum_of_dy_x_hat, dbeta_scale),
            dbeta,
            dbeta_scale,
        }
    }
}

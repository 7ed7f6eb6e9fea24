//! The training loop, and the evaluation.

use std::error::Error;
use std::time::Instant;

use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::data::{Digits, Images};
use crate::net::{Model, hits};

const LEARNING_RATE: f64 = 2e-3;
/// Steps that a point of the loss curve is the mean of.
const STEPS_OF_POINT: usize = 15;

#[derive(Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) epochs: u32,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    /// Epochs and training losses.
    pub(crate) losses: Vec<(f64, f64)>,
    pub(crate) held_out_loss: f64,
    pub(crate) accuracy: f64,
    pub(crate) seconds: f64,
}

/// Trains on whole batches in an order that the seed gives.
pub(crate) fn train(
    name: &'static str,
    model: &impl Model,
    digits: &Digits,
    budget: Budget,
) -> Result<Outcome, Box<dyn Error>> {
    let start = Instant::now();
    let steps = digits.training.len() / budget.batch;
    let bar = ProgressBar::new(u64::from(budget.epochs) * steps as u64);
    bar.set_style(ProgressStyle::with_template("  {prefix:<20} {wide_bar} {pos}/{len} {msg}")?);
    bar.set_prefix(name);
    let params = ParamsAdamW { lr: LEARNING_RATE, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(model.vars().all_vars(), params)?;
    let mut rng = StdRng::seed_from_u64(budget.seed);
    let mut order: Vec<u32> = (0..digits.training.len() as u32).collect();
    let (mut losses, mut recent) = (Vec::new(), Vec::new());
    for epoch in 0..budget.epochs {
        order.shuffle(&mut rng);
        for (step, numbers) in order.chunks_exact(budget.batch).enumerate() {
            let batch = digits.training.batch(numbers)?;
            let logits = model.forward_t(&batch.x, true)?;
            let loss = candle_nn::loss::cross_entropy(&logits, &batch.labels)?;
            optimizer.backward_step(&loss)?;
            recent.push(f64::from(loss.to_scalar::<f32>()?));
            let points_per_epoch = STEPS_OF_POINT.max(steps / 40);
            if recent.len() == points_per_epoch {
                let mean = recent.iter().sum::<f64>() / recent.len() as f64;
                losses.push((f64::from(epoch) + (step + 1) as f64 / steps as f64, mean));
                recent.clear();
                let hits = hits(&logits, &batch.labels)?;
                bar.set_message(format!(
                    "loss {mean:.3}, accuracy {:.0}%",
                    f64::from(100 * hits) / numbers.len() as f64
                ));
            }
            bar.inc(1);
        }
    }
    let (held_out_loss, accuracy) = evaluate(model, &digits.held_out)?;
    bar.finish_with_message(format!("held out: loss {held_out_loss:.3}, accuracy {:.1}%", 100.0 * accuracy));
    Ok(Outcome { name, losses, held_out_loss, accuracy, seconds: start.elapsed().as_secs_f64() })
}

/// Loss and accuracy, by running statistics.
pub(crate) fn evaluate(model: &impl Model, images: &Images) -> candle_core::Result<(f64, f64)> {
    let logits = model.forward_t(&images.x, false)?;
    let loss = candle_nn::loss::cross_entropy(&logits, &images.labels)?;
    let accuracy = f64::from(hits(&logits, &images.labels)?) / images.len() as f64;
    Ok((f64::from(loss.to_scalar::<f32>()?), accuracy))
}

//! Batch normalization for candle, by the kernels of [`batchnorm`].
#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]
#![cfg_attr(feature = "cuda", deny(unsafe_code))] // Allowed where memory of a device is allocated, with its reason.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod layer;
mod op;
mod runner;
mod running;
mod storage;

pub use candle_nn::BatchNormConfig;
pub use layer::{BatchNorm, BatchNormRelu, Inference, batch_norm};

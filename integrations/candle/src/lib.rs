//! Batch normalization for candle, by the kernels of [`batchnorm`]: [`batch_norm()`] in the place of [`candle_nn::batch_norm()`].
//!
//! ```
//! use candle_batchnorm::batch_norm;
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{ModuleT, VarBuilder, VarMap};
//!
//! let vars = VarMap::new();
//! let norm = batch_norm(3, 1e-5, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu).pp("norm"))?;
//! let x = Tensor::randn(0f32, 1.0, (8, 3, 4, 4), &Device::Cpu)?;
//! let y = norm.forward_t(&x, true)?; // Uses the batch's statistics, and updates the running ones.
//! let y = norm.relu(&y, false)?; // Uses the running ones, with a relu in the same operation.
//! # Ok::<(), candle_core::Error>(())
//! ```
#![deny(unsafe_code)] // Allowed where memory is lent or allocated, with its reason.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod composite;
mod config;
mod convert;
mod fold;
mod forms;
mod layer;
mod op;
mod placement;
mod running;
mod storage;

pub use batchnorm::plan::PlanTable;
pub use batchnorm::{Activation, NonFinite, RunningVar};
pub use candle_nn::BatchNormConfig;
pub use config::Config;
pub use convert::load;
pub use forms::{BatchNormActivation, Inference};
pub use layer::{BatchNorm, batch_norm};

/// Compiles and runs the Rust in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

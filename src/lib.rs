//! Batch normalization for training pipelines: one safe API over a CPU reference and hand-written CUDA kernels.
//!
//! # The mathematics
//! A tensor is seen as `(n, c, s)`: batch, channels, the product of the spatial sizes, with `m = n*s` values per
//! channel. All sums run over the values of one channel.
//!
//! ```text
//! mean      = sum(x) / m
//! var       = sum((x - mean)^2) / m                       biased: the one that normalizes
//! inv_std   = 1 / sqrt(var + eps)                         0 where var + eps = 0, so y = beta; NaN below
//! y         = epilogue((x - mean) * inv_std * gamma + beta)
//! epilogue  = activation(v) | activation(v + z)           z: a residual shaped like x
//! activation = identity | relu
//!
//! running_mean <- (1 - a) * running_mean + a * mean
//! running_var  <- (1 - a) * running_var  + a * var * k    k = m/(m-1) unbiased, 1 biased
//! num_batches_tracked <- num_batches_tracked + 1          a = momentum, or 1/num_batches_tracked after the step
//!
//! g         = dy, masked by the epilogue's relu           dz = g
//! dbeta     = sum(g)
//! dgamma    = sum(g * (x - mean)) * inv_std
//! dx        = gamma * inv_std * (g - dbeta/m - (x - mean) * inv_std * dgamma/m)     batch statistics
//! dx        = gamma * inv_std * g                                                   frozen statistics
//! ```
//!
//! # A training step
//! ```
//! use batchnorm::{BatchNorm, Cpu, Epilogue, Gradients, Options, Shape};
//!
//! let shape = Shape::nchw(8, 3, 4, 4)?;
//! let mut layer = BatchNorm::<_>::new(Cpu, shape.c(), Options::default())?;
//! let mut saved = layer.saved(shape, Epilogue::RELU)?;
//!
//! let x: Vec<f32> = (0..shape.len()).map(|i| (i % 7) as f32).collect();
//! let (mut y, mut dx, dy) = (x.clone(), x.clone(), vec![1.0; x.len()]);
//! let (mut dgamma, mut dbeta) = ([0.0; 3], [0.0; 3]);
//!
//! layer.train(shape, &x, Epilogue::RELU, &mut y, &mut saved)?;
//! let gradients = Gradients::<Cpu, f32> { dx: &mut dx, dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) };
//! layer.backward(shape, &x, &dy, Epilogue::RELU, &saved, gradients)?;
//! layer.infer(shape, &x, Epilogue::RELU, &mut y)?;
//! # Ok::<(), batchnorm::Error>(())
//! ```
//!
//! # Where things are
//! | to | see |
//! |---|---|
//! | normalize with a layer that keeps parameters and statistics | [`BatchNorm`], [`Options`], [`Saved`] |
//! | train on with frozen statistics | [`BatchNorm::frozen`] |
//! | call an operation over your own buffers | [`Compute`], [`op`] |
//! | the same over memory of another framework | [`op::Raw`], [`Compute::run_raw`] |
//! | describe a tensor | [`Shape`], [`Layout`], [`Element`], [`Dtype`] |
//! | choose how running statistics follow | [`Tracking`], [`Momentum`], [`RunningVar`], [`NonFinite`] |
//! | compute on an NVIDIA GPU | [`Cuda`] and [`DeviceRef`], with the feature `cuda`; [`Plan`], [`Strategy`] |
//! | save and load | [`BatchNorm::save`], [`StateDict`], [`tensors`] |
//! | fold into the layer before, for inference | [`StateDict::fold_into`] |
//! | hold a backend against the f64 oracle | [`verify`], with the feature of that name |
//! | measure a backend | [`bench`], with the feature of that name |
//!
//! # Features
//! None is on by default.
//!
//! | feature | what it brings | what it takes |
//! |---|---|---|
//! | `cuda` | the backend `Cuda` | nvcc of CUDA 12.8 or later to build, an NVIDIA driver to run |
//! | `emulate` | `cuda` on an emulated device, for tests; a release build refuses it | a C++ compiler, Linux |
//! | `verify` | the module `verify`: the f64 oracle, its cases and tolerances | |
//! | `bench` | the module `bench`: shapes and operations to measure | |
//! | `bindgen` | `cuda`, with the kernels' bindings made anew from their header | libclang |
//! | `cuda-12080`, `cuda-12090`, `cuda-13000` | the driver API of that CUDA, not the newest one or nvcc's | at most one of them |
//!
//! `cuda` without nvcc: `BATCHNORM_SKIP_KERNELS=1 cargo check` (clippy, doc, an editor) leaves the kernels out. Linking such a
//! build fails with the variable's name.
//!
// Items of features that are not on: the table of features stands for them. Definitions of links need the empty line above.
#![cfg_attr(not(feature = "cuda"), doc = "[`Cuda`]: #features")]
#![cfg_attr(not(feature = "cuda"), doc = "[`DeviceRef`]: #features")]
#![cfg_attr(feature = "bench", doc = "[`bench`]: mod@bench")]
#![cfg_attr(not(feature = "bench"), doc = "[`bench`]: #features")]
#![cfg_attr(not(feature = "verify"), doc = "[`verify`]: #features")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)] // Allowed in `cuda`, and where a caller vouches for raw memory, block by block with its reason.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
#[cfg(feature = "bench")]
pub mod bench;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod element;
mod error;
mod layer;
mod memory;
mod named;
#[cfg(any(feature = "bench", feature = "verify"))]
mod offset;
pub mod op;
mod plan;
mod shape;
pub mod tensors;
#[cfg(feature = "verify")]
pub mod verify;

pub use backend::{Backend, Compute};
pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaWorkspace, DeviceRef};
pub use element::{Dtype, Element, Param, Stored};
pub use error::{Error, Result};
pub use layer::{BatchNorm, Options, Saved, State, StateDict};
pub use op::{
    Activation, Epilogue, ForwardPass, Gradients, Momentum, NonFinite, Op, Problem, Running, RunningVar, Statistics,
    StatisticsKind, Tracking,
};
pub use plan::{Access, DeviceLimits, Plan, Strategy, Tiling};
pub use shape::{Layout, Shape, relu_mask_len};

// The types that the macros of `element` name, for callers without a dependency on half.
#[doc(hidden)]
pub use half as __half;

// Nothing names it: it brings the emulated device into whatever is linked with this crate.
#[cfg(feature = "emulate")]
extern crate cuda_emulator as _;

/// Compiles and runs the Rust in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles and runs the Rust in docs/migrating.md.
#[cfg(doctest)]
#[doc = include_str!("../docs/migrating.md")]
struct Migrating;

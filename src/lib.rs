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
//! activation = identity | relu | relu6 | silu | hardswish           with a residual: identity or relu
//!
//! running_mean <- (1 - a) * running_mean + a * mean
//! running_var  <- (1 - a) * running_var  + a * var * k    k = m/(m-1) unbiased, 1 biased
//! num_batches_tracked <- num_batches_tracked + 1          a = momentum, or 1/num_batches_tracked after the step
//!
//! g         = dy * activation'(v + z)                     dz = g
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
//! let mut layer = BatchNorm::new(Cpu, shape.c(), Options::new())?;
//! let mut saved = layer.saved(shape, Epilogue::RELU)?;
//!
//! let x: Vec<f32> = (0..shape.len()).map(|i| (i % 7) as f32).collect();
//! let (mut y, mut dx, dy) = (x.clone(), x.clone(), vec![1.0; x.len()]);
//! let (mut dgamma, mut dbeta) = ([0.0; 3], [0.0; 3]);
//!
//! layer.train(shape, &x, Epilogue::RELU, &mut y, &mut saved)?;
//! layer.backward(
//!     shape,
//!     &x,
//!     &dy,
//!     Epilogue::RELU,
//!     &saved,
//!     Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
//! )?;
//! layer.infer(shape, &x, Epilogue::RELU, &mut y)?;
//! # Ok::<(), batchnorm::Error>(())
//! ```
//!
//! Programs from the training loop on a GPU to a CUDA graph are in the folder `examples`, in the order in which they build on each other.
//!
//! # Where things are
//! | to | see |
//! |---|---|
//! | normalize with a layer that keeps parameters and statistics | [`BatchNorm`], [`Options`], [`Saved`] |
//! | train on with frozen statistics | [`BatchNorm::frozen`] |
//! | fuse an activation, or a residual and one, behind the normalization | [`Epilogue`], [`Activation`] |
//! | let an optimizer move gamma and beta | [`BatchNorm::params_mut`], [`Backend::axpy`] |
//! | call an operation over your own buffers | [`Compute`], [`op`] |
//! | the same over memory of another framework | [`op::Raw`], [`Compute::run_raw`] |
//! | describe a tensor | [`Shape`], [`Layout`], [`Element`], [`Dtype`] |
//! | choose how running statistics follow | [`Tracking`], [`Momentum`], [`RunningVar`], [`NonFinite`] |
//! | compute on an NVIDIA GPU | [`Cuda`] and [`DeviceRef`], with the feature `cuda` |
//! | force a way to compute there, or see which was chosen | [`Strategy`], [`plan`], whose contents may change in any version |
//! | take plans that were measured on the device | `Cuda::with_plans`, [`plan::PlanTable`], or `BATCHNORM_PLANS=FILE` in the environment |
//! | save and load | [`BatchNorm::save`], [`StateDict`], [`tensors`] |
//! | fold into the layer before, for inference | [`StateDict::fold_into`] |
//! | hold a backend against the f64 oracle | [`verify`], with the feature of that name |
//! | measure a backend | [`bench`], with the feature of that name |
//!
//! # Crates in the API
//! Types of two other crates are part of this one's API, which has them under their names, so that no second version of either gets
//! in between: [`half`] 2, whose `f16` and `bf16` are data, and with the feature `cuda` `cudarc` 0.19, whose streams and buffers are
//! those of `Cuda`. Another major version of one of them (of cudarc another 0.x) is another one of this crate.
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
//! | `exhaustive` | no `#[non_exhaustive]` on lists that may grow, for who matches on all of one | breaks where a release adds to one |
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
#![deny(unsafe_code)]
// Allowed in `cuda`, in four files of `cpu`, and where a caller vouches for raw memory, block by block with its reason.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
#[cfg(feature = "bench")]
pub mod bench;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod element;
mod error;
mod json;
mod layer;
mod memory;
mod named;
#[cfg(any(feature = "bench", feature = "verify"))]
mod offset;
pub mod op;
pub mod plan;
mod shape;
pub mod tensors;
#[cfg(feature = "verify")]
pub mod verify;

pub use backend::{Backend, Compute};
pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaWorkspace, DeviceRef};
#[doc(hidden)]
pub use element::{__Known, __known};
pub use element::{Dtype, Element, Param, Stored};
pub use error::{Error, Result};
pub use layer::{BatchNorm, Options, Params, Saved, State, StateDict};
pub use op::{
    Activation, Epilogue, ForwardPass, Gradients, Momentum, NonFinite, Op, Running, RunningVar, Statistics,
    StatisticsKind, Tracking,
};
pub use plan::Strategy;
pub use shape::{Layout, Shape, relu_mask_len};

#[cfg(feature = "cuda")]
pub use cudarc;
pub use half;

#[cfg(all(feature = "verify", feature = "cuda"))]
pub(crate) use op::Problem;
#[cfg(feature = "verify")]
pub(crate) use plan::Plan;

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

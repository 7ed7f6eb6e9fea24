//! The operation that candle's graph holds: the forward pass, and what its backward pass needs.

mod backward;
mod forward;

use std::sync::{Arc, OnceLock};

use batchnorm::op::{Operation, Raw};
#[cfg(feature = "cuda")]
use batchnorm::with_device_element;
use batchnorm::{Compute, Cpu, Dtype, Epilogue, Shape, with_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Tensor};

use crate::layer::Inner;
use crate::placement::Kernels;
#[cfg(feature = "cuda")]
use crate::placement::no_backend;
use crate::storage::CandleBackend;
#[cfg(feature = "cuda")]
use crate::storage::elsewhere;

/// The statistics that normalize.
pub(crate) enum Normalizer {
    /// The batch's own, which then move the running ones.
    Batch,
    /// Running ones, mean and variance.
    Running([Tensor; 2]),
}

/// A forward pass over `(x, gamma, beta)`, or with a residual over `(x, z, parameters)`, where the rows of `parameters` are
/// gamma and beta: candle's operations have three inputs at most.
pub(crate) struct Normalize {
    layer: Arc<Inner>,
    kernels: Kernels,
    /// The dimensions behind the channels as one.
    shape: Shape,
    /// The dimensions of `x`, and of all that is shaped like it.
    dims: Vec<usize>,
    dtype: DType,
    epilogue: Epilogue<()>,
    normalizer: Normalizer,
    /// Whether there will be a backward pass.
    needs_backward: bool,
    /// The batch's mean and `inv_std`, as two rows; for a pass that computed them.
    saved: OnceLock<Tensor>,
    relu_mask: OnceLock<Tensor>,
}

/// The crate's dtype of candle's, for those that it computes.
pub(crate) fn dtype_of(dtype: DType) -> Result<Dtype> {
    Dtype::named(dtype.as_str()).ok_or_else(|| Error::UnsupportedDTypeForOp(dtype, NAME).bt())
}

/// A tensor's storage on a backend, and where its values begin.
type Input<'a, B> = (&'a <B as CandleBackend>::Storage, usize);

/// Storages of the inputs by their roles, and where in them the values begin.
struct Roles<S> {
    x: (S, usize),
    z: Option<(S, usize)>,
    gamma: (S, usize),
    beta: (S, usize),
}

impl Normalize {
    pub(crate) fn new(
        layer: &Arc<Inner>,
        kernels: &Kernels,
        shape: Shape,
        x: &Tensor,
        epilogue: Epilogue<()>,
        normalizer: Normalizer,
        needs_backward: bool,
    ) -> Self {
        let (saved, relu_mask) = (OnceLock::new(), OnceLock::new());
        let (dims, dtype) = (x.dims().to_vec(), x.dtype());
        let (layer, kernels) = (Arc::clone(layer), kernels.clone());
        Self { layer, kernels, shape, dims, dtype, epilogue, normalizer, needs_backward, saved, relu_mask }
    }

    fn has_residual(&self) -> bool {
        self.epilogue.residual().is_some()
    }

    /// The roles of the inputs.
    fn roles<S: Copy>(&self, [x, second, third]: [(S, usize); 3]) -> Roles<S> {
        if self.has_residual() {
            let (parameters, start) = third;
            Roles { x, z: Some(second), gamma: third, beta: (parameters, start + self.shape.c()) }
        } else {
            Roles { x, z: None, gamma: second, beta: third }
        }
    }
}

/// The epilogue with z, or with dz, as its residual.
fn with_residual<Z>(kind: Epilogue<()>, residual: Option<Z>) -> Result<Epilogue<Z>> {
    kind.with("residual", residual).map_err(Error::wrap)
}

/// Runs an operation over memory that is lent for it.
#[allow(unsafe_code)]
fn run<'a, B: Compute<T>, T: batchnorm::Element>(
    backend: &B,
    operation: impl Into<Operation<'a, Raw, T>>,
) -> Result<()> {
    // SAFETY: the memory is of candle's tensors on the backend's device, which are borrowed until this returns, those that are
    // written for that; on a device candle frees memory in the order of its stream. Guards keep other streams in order.
    unsafe { backend.run_raw(None, operation) }.map_err(Error::wrap)
}

const NAME: &str = "batch-norm";

impl CustomOp3 for Normalize {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let inputs = [(s1, l1.start_offset()), (s2, l2.start_offset()), (s3, l3.start_offset())];
        match &self.kernels {
            Kernels::Cpu(backend) => {
                with_element!(dtype_of(self.dtype)?, T => self.forward::<Cpu, T>(backend, inputs))
            }
            #[cfg(feature = "cuda")]
            Kernels::Cuda(_) => Err(elsewhere()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let inputs = [(s1, l1.start_offset()), (s2, l2.start_offset()), (s3, l3.start_offset())];
        match &self.kernels {
            Kernels::Cuda(backend) => {
                with_device_element!(dtype_of(self.dtype)?, T => self.forward::<batchnorm::Cuda, T>(backend, inputs), f64 => Err(no_backend("f64 on a CUDA device")))
            }
            Kernels::Cpu(_) => Err(elsewhere()),
        }
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        arg3: &Tensor,
        _: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let args = [arg1, arg2, arg3];
        let gradients = match &self.kernels {
            Kernels::Cpu(backend) => {
                with_element!(dtype_of(self.dtype)?, T => self.backward::<Cpu, T>(backend, args, grad_res))
            }
            #[cfg(feature = "cuda")]
            Kernels::Cuda(backend) => {
                with_device_element!(dtype_of(self.dtype)?, T => self.backward::<batchnorm::Cuda, T>(backend, args, grad_res), f64 => Err(no_backend("f64 on a CUDA device")))
            }
        };
        gradients.map(Into::into)
    }
}

/// A tensor of the graph's outside.
fn tensor<B: CandleBackend>(storage: B::Storage, dims: &[usize]) -> Tensor {
    Tensor::from_storage(B::into_any(storage), dims, BackpropOp::none(), false)
}

//! The numbers of kernels/abi.h for the crate's enums. The package ptx-replay reads launches by this same file, so that it needs no
//! list of its own.

use super::{Access, Activation, Strategy, ffi};

impl From<Activation> for ffi::BnActivation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Identity => Self::BN_IDENTITY,
            Activation::Relu => Self::BN_RELU,
            Activation::Relu6 => Self::BN_RELU6,
            Activation::Silu => Self::BN_SILU,
            Activation::Hardswish => Self::BN_HARDSWISH,
        }
    }
}

impl From<Access> for ffi::BnAccess {
    fn from(access: Access) -> Self {
        match access {
            Access::Contiguous => Self::BN_CONTIGUOUS,
            Access::Strided => Self::BN_STRIDED,
            Access::ScalarContiguous => Self::BN_SCALAR_CONTIGUOUS,
            Access::ScalarStrided => Self::BN_SCALAR_STRIDED,
        }
    }
}

impl From<Strategy> for ffi::BnStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Block => Self::BN_BLOCK,
            Strategy::Cluster => Self::BN_CLUSTER,
            Strategy::Grid => Self::BN_GRID,
            Strategy::TwoPass => Self::BN_TWO_PASS,
        }
    }
}

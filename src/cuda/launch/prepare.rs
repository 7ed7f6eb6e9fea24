//! Loading of kernels, before any launch.

use core::ffi::{CStr, c_char};
use core::ptr;

use cudarc::driver::CudaContext;

use super::super::device::driver;
use super::super::ffi::{self, BnDevice, BnResident, BnStatus};
use crate::plan::DeviceLimits;
use crate::{Error, Op, Result, StatisticsKind};

/// The first compute capability with thread-block clusters.
const CLUSTERS: (u32, u32) = (9, 0);

/// The C function that prepares kernels, by its name.
type Prepare = (&'static str, unsafe extern "C" fn(*const BnDevice, *mut BnResident) -> BnStatus);

/// The preparation of an operation's kernels, where not another operation's covers them.
fn of_operation(op: Op) -> Option<Prepare> {
    match op {
        Op::Moments => Some(("bn_moments_prepare", ffi::bn_moments_prepare)),
        Op::Train => Some(("bn_train_prepare", ffi::bn_train_prepare)),
        Op::Infer => Some(("bn_infer_prepare", ffi::bn_infer_prepare)),
        Op::Backward(StatisticsKind::Batch) => Some(("bn_backward_prepare", ffi::bn_backward_prepare)),
        Op::Backward(StatisticsKind::Running) => None, // of the same C function
    }
}

/// The preparations of kernels that are no operation's.
const OTHERS: &[Prepare] = &[
    ("bn_fill_prepare", ffi::bn_fill_prepare),
    ("bn_axpy_prepare", ffi::bn_axpy_prepare),
    #[cfg(feature = "bench")]
    ("bn_probe_prepare", ffi::bn_probe_prepare),
];

/// Loads every kernel in a context, and lets each use the device's shared memory. Returns the clusters of each size that the
/// device holds, the minimum over the kernels.
pub(in crate::cuda) fn prepare(context: &CudaContext, limits: &DeviceLimits) -> Result<[[u32; 4]; 2]> {
    context.bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
    let device = BnDevice {
        shared_bytes: limits.shared_per_cta,
        half_shared_bytes: limits.shared_per_cta.min(limits.shared_per_sm / 2).saturating_sub(limits.shared_reserved),
        has_clusters: u32::from(limits.compute_capability >= CLUSTERS),
    };
    let mut clusters = [[u32::MAX; 4]; 2];
    for (call, prepare) in Op::ALL.iter().copied().filter_map(of_operation).chain(OTHERS.iter().copied()) {
        let mut resident = BnResident {
            kernel: ptr::null(),
            dtype: ptr::null(),
            access: ptr::null(),
            call: ptr::null(),
            ctas: 0,
            kernels: 0,
            clusters: [[0; 4]; 2],
            clustered_kernels: 0,
            static_bytes: 0,
        };
        // SAFETY: a context is bound; the function reads and writes the structs that it is given, and keeps no pointer.
        let status = unsafe { prepare(&device, &mut resident) };
        if status != BnStatus::BN_SUCCESS {
            return Err(refused(call, status, &resident));
        }
        if resident.clustered_kernels > 0 {
            let found = resident.clusters.as_flattened();
            clusters.as_flattened_mut().iter_mut().zip(found).for_each(|(least, &found)| *least = found.min(*least));
        }
    }
    let clusters = clusters.map(|of_share| of_share.map(|found| if found == u32::MAX { 0 } else { found }));
    // Clusters of up to eight CTAs are portable: where these devices have the SMs for one but room for none,
    // something is wrong.
    if matches!(limits.compute_capability, (9, 0) | (10, _)) {
        for (size, actual) in [2, 4, 8].into_iter().zip(clusters[0]) {
            if actual == 0 && size <= limits.sms {
                return Err(Error::Clusters { size, actual });
            }
        }
    }
    Ok(clusters)
}

/// The error of an operation whose kernels cannot be made ready, and which of them.
fn refused(call: &'static str, status: BnStatus, resident: &BnResident) -> Error {
    let instance = match [resident.dtype, resident.access].map(text) {
        [dtype, _] if dtype.is_empty() => String::new(),
        [dtype, access] => format!(" ({dtype}, {access})"),
    };
    let kernel = text(resident.kernel) + &instance;
    if resident.static_bytes > 0 {
        return Error::StaticShared { kernel, actual: resident.static_bytes };
    }
    if resident.kernels > 0 && resident.ctas < ffi::BN_MIN_CTAS {
        return Error::Residency { call, kernel, expected: ffi::BN_MIN_CTAS, actual: resident.ctas };
    }
    Error::Prepare { kernel, call: text(resident.call), code: status.0 }
}

/// A name that the kernels' half set, or nothing.
fn text(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: not null, so it is one of the string literals of kernels/, which end in a zero and live for ever.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_kernel_is_told_apart() {
        let refused = |kernels, ctas, static_bytes| {
            let resident = BnResident {
                kernel: c"train_fused".as_ptr(),
                dtype: c"f16".as_ptr(),
                access: c"contiguous".as_ptr(),
                call: c"cudaFuncGetAttributes".as_ptr(),
                ctas,
                kernels,
                clusters: [[0; 4]; 2],
                clustered_kernels: 0,
                static_bytes,
            };
            super::refused("bn_train_prepare", BnStatus(9), &resident).to_string()
        };
        let name = "kernel train_fused (f16, contiguous): expected";
        assert_eq!(refused(0, 0, 16), format!("{name} no static shared memory, got 16 bytes"));
        let few = "bn_train_prepare: expected room for 2 blocks of threads of kernel train_fused (f16, contiguous) on a multiprocessor, got 1";
        assert_eq!(refused(1, 1, 0), few);
        assert!(
            refused(3, 2, 0).contains("cudaFuncGetAttributes")
                && refused(3, 2, 0).contains("train_fused (f16, contiguous)")
        );
        assert!(refused(0, 0, 0).contains("expected success"), "nothing was counted yet");
    }
}

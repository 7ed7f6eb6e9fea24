//! The driver API as a program finds it: by `dlopen`, with the name that cudarc tries first.

#![allow(dead_code)]

use libloading::Library;
use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

pub(crate) const INVALID_VALUE: i32 = 1;
pub(crate) const OUT_OF_MEMORY: i32 = 2;
pub(crate) const INVALID_CONFIGURATION: i32 = 9;
pub(crate) const NO_BINARY_FOR_GPU: i32 = 209;
pub(crate) const ILLEGAL_STATE: i32 = 401;
pub(crate) const ILLEGAL_ADDRESS: i32 = 700;
pub(crate) const ILLEGAL_INSTRUCTION: i32 = 715;
pub(crate) const MISALIGNED_ADDRESS: i32 = 716;
pub(crate) const LAUNCH_FAILED: i32 = 719;
pub(crate) const COOPERATIVE_LAUNCH_TOO_LARGE: i32 = 720;
pub(crate) const NOT_SUPPORTED: i32 = 801;
pub(crate) const STREAM_CAPTURE_UNSUPPORTED: i32 = 900;
pub(crate) const INVALID_CLUSTER_SIZE: i32 = 912;

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: the library is loaded already; its initializers have run.
        unsafe { Library::new("libcuda.so") }.expect("the emulated driver is found by name")
    })
}

/// Calls a driver function by name. The types of the arguments must be those of the C function.
macro_rules! driver_call {
    ($name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        type Function = unsafe extern "C" fn($($type),*) -> i32;
        // SAFETY: the driver API gives each function this type.
        let function = unsafe { $crate::driver::symbol::<Function>(stringify!($name)) };
        // SAFETY: pointers are to live values of the types that the function writes or reads.
        unsafe { function($($argument),*) }
    }};
}
#[allow(unused_imports)]
pub(crate) use driver_call;

/// # Safety
/// `F` must be the type of the function.
pub(crate) unsafe fn symbol<F: Copy>(name: &str) -> F {
    // SAFETY: by this function's contract.
    *unsafe { library().get::<F>(name.as_bytes()) }.expect("the driver function exists")
}

/// A device whose context is current on this thread.
pub(crate) struct Device;

impl Device {
    pub(crate) fn open(ordinal: i32) -> Device {
        let mut context: *mut c_void = std::ptr::null_mut();
        assert_eq!(driver_call!(cuInit(0 => u32)), 0);
        assert_eq!(driver_call!(cuDevicePrimaryCtxRetain(&mut context => &mut *mut c_void, ordinal => i32)), 0);
        assert_eq!(driver_call!(cuCtxSetCurrent(context => *mut c_void)), 0);
        Device
    }

    pub(crate) fn try_alloc(&self, bytes: usize) -> Result<u64, i32> {
        let mut address = 0;
        match driver_call!(cuMemAlloc_v2(&mut address => &mut u64, bytes => usize)) {
            0 => Ok(address),
            code => Err(code),
        }
    }

    /// Memory that nobody has written.
    pub(crate) fn alloc<T>(&self, len: usize) -> u64 {
        self.try_alloc(len * size_of::<T>()).expect("there is memory")
    }

    pub(crate) fn put<T: Copy>(&self, values: &[T]) -> u64 {
        let address = self.alloc::<T>(values.len());
        let bytes = size_of_val(values);
        let code = driver_call!(
            cuMemcpyHtoD_v2(address => u64, values.as_ptr().cast() => *const c_void, bytes => usize)
        );
        assert_eq!(code, 0);
        address
    }

    pub(crate) fn zero(&self, address: u64, bytes: usize) {
        assert_eq!(driver_call!(cuMemsetD8_v2(address => u64, 0 => u8, bytes => usize)), 0);
    }

    pub(crate) fn zeros(&self, bytes: usize) -> u64 {
        let address = self.alloc::<u8>(bytes);
        self.zero(address, bytes);
        address
    }

    pub(crate) fn try_get<T: Copy + Default>(&self, address: u64, len: usize) -> Result<Vec<T>, i32> {
        let mut values = vec![T::default(); len];
        let bytes = len * size_of::<T>();
        match driver_call!(
            cuMemcpyDtoH_v2(values.as_mut_ptr().cast() => *mut c_void, address => u64, bytes => usize)
        ) {
            0 => Ok(values),
            code => Err(code),
        }
    }

    pub(crate) fn get<T: Copy + Default>(&self, address: u64, len: usize) -> Vec<T> {
        self.try_get(address, len).expect("every value was written")
    }

    pub(crate) fn free(&self, address: u64) -> i32 {
        driver_call!(cuMemFree_v2(address => u64))
    }

    pub(crate) fn name(ordinal: i32) -> String {
        let mut text = [0 as c_char; 64];
        assert_eq!(driver_call!(cuDeviceGetName(text.as_mut_ptr() => *mut c_char, 64 => i32, ordinal => i32)), 0);
        text.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect()
    }

    pub(crate) fn attribute(ordinal: i32, attribute: i32) -> i32 {
        let mut value = -1;
        let code = driver_call!(cuDeviceGetAttribute(&mut value => &mut i32, attribute => i32, ordinal => i32));
        assert_eq!(code, 0);
        value
    }
}

/// Asserts that a launch with a planted bug gave this code, and a report with these words. Then clears the thread's error.
#[track_caller]
pub(crate) fn expect_report(code: i32, expected: i32, words: &[&str]) {
    let report = cuda_emulator::last_report().unwrap_or_default();
    assert_eq!(code, expected, "report: {report}");
    for word in words {
        assert!(report.contains(word), "{word:?} is missing in: {report}");
    }
    cuda_emulator::clear_error();
}

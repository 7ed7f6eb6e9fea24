//! An update of parameters, which is no operation: it has neither shape nor plan.

use cudarc::driver::{DevicePtr, DevicePtrMut};

use super::hold::Hold;
use super::{at, checked, guarded, is_capturing};
use crate::cuda::device::driver;
use crate::cuda::{Cuda, ffi, stream_key};
use crate::error::Result;
use crate::op::{Map, Raw, RawSlice, Role, TensorList, check_axpy, check_overlaps, check_streams};

/// `y <- y + alpha * x`
pub(in crate::cuda) fn axpy(
    cuda: &Cuda,
    alpha: f32,
    x: &dyn DevicePtr<f32>,
    y: &mut dyn DevicePtrMut<f32>,
) -> Result<()> {
    check_axpy(x.len(), y.len())?;
    guarded(cuda, || {
        let mut tensors = TensorList::default();
        let x = Map::<Cuda, Cuda>::read(&mut tensors, "x", Role::Channel, x);
        let y = Map::<Cuda, Cuda>::write(&mut tensors, "y", Role::Channel, y);
        let here = stream_key(&cuda.stream);
        check_streams(&here, is_capturing(cuda, &here, &tensors.0)?, &tensors.0)?;

        let mut hold = Hold::new(&cuda.stream, &mut tensors.0);
        let x: RawSlice<f32> = Map::<Cuda, Raw>::read(&mut hold, "x", Role::Channel, x);
        let y: RawSlice<f32> = Map::<Cuda, Raw>::write(&mut hold, "y", Role::Channel, y);
        let _guards = hold.guards();
        let context = cuda.context();
        context.check_err().map_err(driver("cuStreamWaitEvent"))?;
        check_overlaps(&tensors.0)?;
        if y.len() == 0 {
            return Ok(());
        }
        context.bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
        // SAFETY: x and y are of one length and do not overlap, as was checked; both are memory of the stream's context, whose
        // guards are held until the launch is on the stream.
        let status = unsafe { ffi::bn_axpy(at(y), at(x), y.len() as u64, alpha, cuda.launch_stream()) };
        checked("bn_axpy", status)
    })
}

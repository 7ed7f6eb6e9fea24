//! cuDNN's batch normalization through its legacy API, which PyTorch calls: spatial and spatial-persistent, plain and with
//! what it fuses. cuDNN takes relu and add+relu for packed channels-last tensors of half types alone.
//!
//! Source: "cudnn_ops library" in the cuDNN API reference, `cudnnBatchNormalizationForwardTrainingEx` and
//! `cudnnBatchNormalizationBackwardEx`.
#![allow(unsafe_code)]

mod descriptors;

use core::ffi::c_void;
use std::ptr;

use batchnorm::bench::{Outputs, Pass, Reference, Row, inputs, parameters};
use batchnorm::{Activation as Applied, Compute, Cpu, Cuda, Element, Op, StatisticsKind};
use cudarc::cudnn::result;
use cudarc::cudnn::sys;
use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};

use super::Task;
use super::cuda::Sets;
use super::subject::{Reason, Samples, Subject};
use super::timing::{Timer, told};
use descriptors::{Activation, Descriptor, Handle, checked, descriptors, sizes, status};

const MODES: [(sys::cudnnBatchNormMode_t, &str); 2] = [
    (sys::cudnnBatchNormMode_t::CUDNN_BATCHNORM_SPATIAL, "cudnn spatial"),
    (sys::cudnnBatchNormMode_t::CUDNN_BATCHNORM_SPATIAL_PERSISTENT, "cudnn persistent"),
];
const MOMENTUM: f64 = 0.1;
const EPS: f64 = 1e-5;

/// Whether cuDNN has such an operation.
fn has(op: Op) -> bool {
    match op {
        Op::Train | Op::Infer | Op::Backward(StatisticsKind::Batch) => true,
        Op::Moments | Op::Backward(StatisticsKind::Running) => false,
    }
}

/// cuDNN in both modes; nothing for an operation that it does not have.
pub(super) fn subjects<T: Element<Param = f32> + DeviceRepr>(
    cuda: &Cuda,
    task: &Task,
    timer: &Timer,
    sets: Sets,
) -> Vec<Box<dyn Subject>>
where
    Cpu: Compute<T>,
{
    if !has(task.operation.op) {
        return Vec::new();
    }
    let of_mode = |(mode, name)| {
        let (cuda, timer, row, operation) = (cuda.clone(), timer.clone(), task.row.clone(), task.operation);
        Box::new(Cudnn::<T> { cuda, timer, row, operation, mode, name, sets, work: None }) as Box<dyn Subject>
    };
    MODES.into_iter().map(of_mode).collect()
}

struct Cudnn<T: Element> {
    cuda: Cuda,
    timer: Timer,
    row: Row,
    operation: Pass,
    mode: sys::cudnnBatchNormMode_t,
    name: &'static str,
    sets: Sets,
    work: Option<Work<T>>,
}

impl<T: Element<Param = f32> + DeviceRepr> Subject for Cudnn<T>
where
    Cpu: Compute<T>,
{
    fn name(&self) -> String {
        self.name.into()
    }
    fn includes(&self) -> String {
        "running statistics; no counter; its own reserve space for masks; conversions that it makes inside".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason> {
        let work = match &mut self.work {
            Some(work) => work,
            empty => {
                // SAFETY: looks for the library, and runs its initializers if it is there.
                if !unsafe { sys::is_culib_present() } {
                    return Err("no libcudnn was found".to_owned().into());
                }
                let mut work = Work::new(&self.cuda, &self.row, self.operation, self.mode, self.sets.count)?;
                work.check(&self.row, self.operation)?;
                empty.insert(work)
            }
        };
        let mut launch = || work.run(self.operation);
        Ok(self.timer.measure(self.sets.count, seconds, &mut launch)?)
    }
    fn release(&mut self) {
        if !self.sets.stay {
            self.work = None;
        }
    }
}

/// The buffers that one run reads and writes.
struct Set<T> {
    x: CudaSlice<T>,
    dy: CudaSlice<T>,
    /// y of a forward pass, which the backward one reads.
    y: CudaSlice<T>,
    dx: CudaSlice<T>,
    residual: CudaSlice<T>,
    reserve: CudaSlice<u8>,
}

struct Work<T> {
    cuda: Cuda,
    handle: Handle,
    data: Descriptor,
    channel: Descriptor,
    activation: Activation,
    mode: sys::cudnnBatchNormMode_t,
    ops: sys::cudnnBatchNormOps_t,
    sets: Vec<Set<T>>,
    next: usize,
    offset: usize,
    workspace: CudaSlice<u8>,
    /// gamma, beta, running mean and variance; saved mean and inverse standard deviation; dgamma and dbeta.
    channels: [CudaSlice<f32>; 8],
}

/// The address of what begins so many elements into a buffer.
fn address<T>(cuda: &Cuda, buf: &CudaSlice<T>, offset: usize) -> *mut c_void {
    let (address, _guard) = buf.device_ptr(cuda.stream());
    (address as usize + offset * size_of::<T>()) as *mut c_void
}

impl<T: Element<Param = f32> + DeviceRepr> Work<T>
where
    Cpu: Compute<T>,
{
    fn new(
        cuda: &Cuda,
        row: &Row,
        operation: Pass,
        mode: sys::cudnnBatchNormMode_t,
        sets: usize,
    ) -> Result<Self, String> {
        cuda.stream().context().bind_to_thread().map_err(told)?;
        let handle = Handle(result::create_handle().map_err(status("cudnnCreate"))?);
        // SAFETY: the handle was just made; the stream outlives it, since `cuda` owns it.
        unsafe { result::set_stream(handle.0, cuda.stream().cu_stream() as sys::cudaStream_t) }
            .map_err(status("cudnnSetStream"))?;
        let (data, channel) = descriptors(row)?;
        let activation = Activation::relu()?;
        let ops = match (operation.epilogue.activation(), operation.epilogue.residual()) {
            (Applied::Identity, None) => sys::cudnnBatchNormOps_t::CUDNN_BATCHNORM_OPS_BN,
            (Applied::Relu, None) => sys::cudnnBatchNormOps_t::CUDNN_BATCHNORM_OPS_BN_ACTIVATION,
            (Applied::Relu, Some(())) => sys::cudnnBatchNormOps_t::CUDNN_BATCHNORM_OPS_BN_ADD_ACTIVATION,
            (Applied::Identity, Some(())) => return Err("cuDNN adds a residual before relu alone".into()),
            (Applied::Relu6 | Applied::Silu | Applied::Hardswish, _) => {
                return Err("cuDNN fuses no activation but relu".into());
            }
        };
        let [forward, backward, reserve] = sizes(&handle, mode, ops, &data, &channel, &activation)?;

        let (offset, stream) = (row.offset, cuda.stream());
        let (x, dy) = inputs::<T>(row.shape.len() + offset);
        let upload = |values: &[T]| stream.clone_htod(values).map_err(told);
        // The values are uploaded once: the sets are copies on the device.
        let (x, dy) = (upload(&x)?, upload(&dy)?);
        let copy = |values: &CudaSlice<T>| stream.clone_dtod(values).map_err(told);
        let set = || {
            let (x, dy, y, dx, residual) = (copy(&x)?, copy(&dy)?, copy(&x)?, copy(&x)?, copy(&dy)?);
            Ok(Set { x, dy, y, dx, residual, reserve: stream.alloc_zeros(reserve.max(1)).map_err(told)? })
        };
        let sets = (0..sets.max(1)).map(|_| set()).collect::<Result<Vec<_>, String>>()?;
        let c = row.shape.c();
        let of = |which: usize| stream.clone_htod(&(0..c).map(|ch| parameters(ch)[which]).collect::<Vec<f32>>());
        let zeros = || stream.alloc_zeros::<f32>(c);
        let channels = [of(0), of(1), of(2), of(3), zeros(), zeros(), zeros(), zeros()];
        let channels = channels.into_iter().collect::<Result<Vec<_>, _>>().map_err(told)?;
        let channels = channels.try_into().map_err(|_| "eight buffers")?;
        let workspace = stream.alloc_zeros(forward.max(backward).max(1)).map_err(told)?;
        stream.synchronize().map_err(told)?;
        Ok(Self {
            cuda: cuda.clone(),
            handle,
            data,
            channel,
            activation,
            mode,
            ops,
            sets,
            next: 0,
            offset,
            workspace,
            channels,
        })
    }

    /// Puts the operation on the next set on the stream.
    fn run(&mut self, operation: Pass) -> Result<(), String> {
        let current = self.next;
        self.next = (current + 1) % self.sets.len();
        match operation.op {
            Op::Backward(StatisticsKind::Batch) => self.backward(current),
            Op::Infer => self.infer(current),
            Op::Train => self.forward(current),
            Op::Moments | Op::Backward(StatisticsKind::Running) => Err("cuDNN has no such operation".into()),
        }
    }

    fn channel(&self, which: usize) -> *mut c_void {
        address(&self.cuda, &self.channels[which], 0)
    }

    fn forward(&self, set: usize) -> Result<(), String> {
        let (one, zero) = (1.0f32, 0.0f32);
        let (set, data) = (&self.sets[set], |buf: &CudaSlice<T>| address(&self.cuda, buf, self.offset));
        // SAFETY: every tensor has the size of its descriptor, workspace and reserve space those that cuDNN asked for, and
        // all of them live until the stream is done with them, which `self` outlives.
        checked("cudnnBatchNormalizationForwardTrainingEx", unsafe {
            sys::cudnnBatchNormalizationForwardTrainingEx(
                self.handle.0,
                self.mode,
                self.ops,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                self.data.0,
                data(&set.x),
                self.data.0,
                data(&set.residual),
                self.data.0,
                data(&set.y),
                self.channel.0,
                self.channel(0),
                self.channel(1),
                MOMENTUM,
                self.channel(2),
                self.channel(3),
                EPS,
                self.channel(4),
                self.channel(5),
                self.activation.0,
                address(&self.cuda, &self.workspace, 0),
                self.workspace.len(),
                address(&self.cuda, &set.reserve, 0),
                set.reserve.len(),
            )
        })
    }

    fn backward(&self, set: usize) -> Result<(), String> {
        let (one, zero) = (1.0f32, 0.0f32);
        let (set, data) = (&self.sets[set], |buf: &CudaSlice<T>| address(&self.cuda, buf, self.offset));
        // SAFETY: as for the forward pass, which has left the reserve space.
        checked("cudnnBatchNormalizationBackwardEx", unsafe {
            sys::cudnnBatchNormalizationBackwardEx(
                self.handle.0,
                self.mode,
                self.ops,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                self.data.0,
                data(&set.x),
                self.data.0,
                data(&set.y),
                self.data.0,
                data(&set.dy),
                self.data.0,
                data(&set.residual),
                self.data.0,
                data(&set.dx),
                self.channel.0,
                self.channel(0),
                self.channel(1),
                self.channel(6),
                self.channel(7),
                EPS,
                self.channel(4),
                self.channel(5),
                self.activation.0,
                address(&self.cuda, &self.workspace, 0),
                self.workspace.len(),
                address(&self.cuda, &set.reserve, 0),
                set.reserve.len(),
            )
        })
    }

    fn infer(&self, set: usize) -> Result<(), String> {
        let (one, zero) = (1.0f32, 0.0f32);
        let (set, data) = (&self.sets[set], |buf: &CudaSlice<T>| address(&self.cuda, buf, self.offset));
        // SAFETY: as for the forward pass.
        checked("cudnnBatchNormalizationForwardInference", unsafe {
            sys::cudnnBatchNormalizationForwardInference(
                self.handle.0,
                self.mode,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                self.data.0,
                data(&set.x),
                self.data.0,
                data(&set.y),
                self.channel.0,
                self.channel(0),
                self.channel(1),
                self.channel(2),
                self.channel(3),
                EPS,
            )
        })
    }

    /// Holds the operation against the CPU path, before it is timed; and leaves every set ready for it.
    fn check(&mut self, row: &Row, operation: Pass) -> Result<(), String> {
        if operation.op == Op::Backward(StatisticsKind::Batch) {
            (0..self.sets.len()).try_for_each(|set| self.forward(set))?;
        }
        self.next = 0;
        self.run(operation)?;
        self.next = 0;
        let stream = self.cuda.stream();
        let download = |buf: &CudaSlice<T>| stream.clone_dtoh(buf).map_err(told);
        let set = &self.sets[0];
        let mut data = vec![download(if operation.is_backward() { &set.dx } else { &set.y })?];
        if operation.is_backward() && operation.epilogue.residual().is_some() {
            data.push(download(&set.residual)?);
        }
        let both =
            |first: usize| self.channels[first..first + 2].iter().map(|buf| stream.clone_dtoh(buf).map_err(told));
        let channels = match operation.op {
            Op::Backward(StatisticsKind::Batch) => both(6).collect::<Result<_, _>>()?,
            Op::Train => both(4).collect::<Result<_, _>>()?,
            Op::Moments | Op::Infer | Op::Backward(StatisticsKind::Running) => Vec::new(),
        };
        let (x, dy) = inputs::<T>(row.shape.len() + row.offset);
        Reference::new(row.shape, row.offset, operation, [&x, &dy])?.compare(&Outputs { data, channels })
    }
}

//! A layer's state on the device: one allocation.

use core::marker::PhantomData;

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use super::Cuda;
use crate::state::{State, StateDict};
use crate::{Param, Result, Running, Stored, memory};

/// What comes before the vectors: the counter, padded so that they begin as aligned as they could be.
const HEADER: usize = 16;

/// `num_batches_tracked | gamma | beta | running_mean | running_var`, the vectors each where the layer has it.
pub struct CudaState<P> {
    bytes: CudaSlice<u8>,
    c: usize,
    has: Has,
    param: PhantomData<P>,
}

impl<P: Param> CudaState<P> {
    pub(super) fn new(cuda: &Cuda, host: &StateDict<P>) -> Result<Self> {
        let running = host.running.as_ref();
        let vectors = [host.gamma.as_ref(), host.beta.as_ref(), running.map(|r| &r.mean), running.map(|r| &r.var)];
        let count = running.map_or(0, |running| running.num_batches_tracked);
        let len = vectors.iter().flatten().map(|vector| size_of_val(&vector[..])).sum::<usize>();
        let mut bytes = memory::room(HEADER + len)?;
        bytes.resize(HEADER, 0);
        bytes[..size_of::<i64>()].copy_from_slice(bytemuck::bytes_of(&count));
        vectors.iter().flatten().for_each(|vector| bytes.extend_from_slice(bytemuck::cast_slice(vector)));
        Ok(Self {
            bytes: cuda.copied_from(&bytes)?,
            c: vectors.iter().flatten().next().map_or(0, |vector| vector.len()),
            has: Has { gamma: host.gamma.is_some(), beta: host.beta.is_some(), running: running.is_some() },
            param: PhantomData,
        })
    }

    pub(super) fn to_host(&self, cuda: &Cuda) -> Result<StateDict<P>> {
        let bytes = cuda.copied_to_host(&self.bytes)?;
        memory::expect_room(bytes.len())?;
        let (header, vectors) = bytes.split_at(HEADER);
        let count = bytemuck::pod_read_unaligned(&header[..size_of::<i64>()]);
        let vectors = vectors.chunks((self.c * size_of::<P>()).max(1)).map(bytemuck::pod_collect_to_vec);
        Ok(self.has.state(vectors, Some(count)))
    }

    pub(super) fn views(&self) -> State<CudaView<'_, P>, CudaView<'_, i64>> {
        let (header, vectors) = self.bytes.split_at(HEADER);
        let len = vectors.len() / size_of::<P>();
        let vectors = values(&vectors, len);
        let vectors = vectors.iter().flat_map(|vectors| vectors.chunks_exact(self.c.max(1)));
        self.has.state(vectors, values(&header, 1))
    }

    pub(super) fn views_mut(&mut self) -> State<CudaViewMut<'_, P>, CudaViewMut<'_, i64>> {
        let (header, vectors) = self.bytes.split_at_mut(HEADER);
        let len = vectors.len() / size_of::<P>();
        let vectors = values_mut(vectors, len).into_iter().flat_map(|vectors| vectors.chunks_exact_mut(self.c.max(1)));
        self.has.state(vectors, values_mut(header, 1))
    }
}

/// Which vectors there are.
#[derive(Clone, Copy)]
struct Has {
    gamma: bool,
    beta: bool,
    running: bool,
}

impl Has {
    /// The state out of its vectors, in the order in which they lie.
    fn state<V, N>(self, mut vectors: impl Iterator<Item = V>, num_batches_tracked: Option<N>) -> State<V, N> {
        let mut next = |is_there: bool| if is_there { vectors.next() } else { None };
        let (gamma, beta) = (next(self.gamma), next(self.beta));
        let running = next(self.running).zip(next(self.running)).zip(num_batches_tracked);
        let running = running.map(|((mean, var), num_batches_tracked)| Running { mean, var, num_batches_tracked });
        State { gamma, beta, running }
    }
}

/// The bytes as values, where there are enough of them. The parts of a state begin at a multiple of 16 bytes (the
/// header) or of `size_of::<T>()` behind that, in an allocation that is aligned to 256.
#[allow(unsafe_code)]
fn values<'a, T: Stored>(bytes: &CudaView<'a, u8>, len: usize) -> Option<CudaView<'a, T>> {
    // SAFETY: `Stored` is plain data, for which any bits are a value; the address is aligned, as said above.
    unsafe { bytes.transmute(len) }
}

/// As [`values`].
#[allow(unsafe_code)]
fn values_mut<'a, T: Stored>(mut bytes: CudaViewMut<'a, u8>, len: usize) -> Option<CudaViewMut<'a, T>> {
    // SAFETY: `Stored` is plain data, for which any bits are a value; the address is aligned, as said above.
    let values = unsafe { bytes.transmute_mut(len) }?;
    // SAFETY: only the lifetime changes. A view holds an address and references that live for `'a`, none to the view
    // that it was made of, which is consumed here: so the memory stays borrowed once, for `'a`.
    Some(unsafe { core::mem::transmute::<CudaViewMut<'_, T>, CudaViewMut<'a, T>>(values) })
}

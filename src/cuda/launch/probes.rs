//! What a device can do at best, for benches: copies, and what meetings of CTAs cost.

use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

use super::checked;
use crate::cuda::device::{allocating, driver};
use crate::cuda::{Cuda, ffi};
use crate::{Error, Plan, Result};

/// CTAs of a streaming probe for each multiprocessor: as many as are resident, each with its share of the whole.
const CTAS_PER_SM: u32 = 4;
/// Bytes of a vector.
const VECTOR: usize = 16;

/// A launch whose time says what something costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Reads one buffer and writes one: the least of a forward pass.
    Copy,
    /// Reads two buffers and writes one: the least of a backward pass.
    TwoReadOneWrite,
    /// Reads two buffers and writes two: the least of a backward pass with a residual.
    TwoReadTwoWrite,
    /// Copies rows of `row_bytes` by strips of `strip_bytes`, as channels-last tensors are walked.
    Strided {
        /// A multiple of `strip_bytes`.
        row_bytes: usize,
        /// A power of two from 16 to 4096.
        strip_bytes: usize,
    },
    /// Teams of a cooperative grid that fills the device meet through global memory; with no round, an empty launch.
    Meeting {
        /// CTAs of a team.
        team: u32,
        /// Meetings of each team.
        rounds: u32,
    },
    /// The CTAs of clusters, as many as fit at once, send each other sixteen bytes.
    Exchange {
        /// CTAs of a cluster: 2, 4, 8 or 16.
        team: u32,
        /// Exchanges of each cluster.
        rounds: u32,
    },
}

/// Buffers of one size, and the probes that run on them.
pub struct Probes {
    cuda: Cuda,
    a: CudaSlice<u8>,
    b: CudaSlice<u8>,
    out: CudaSlice<u8>,
    more: CudaSlice<u8>,
    counters: CudaSlice<u8>,
}

impl Probes {
    /// Buffers of zeros of at least this many bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(cuda: &Cuda, bytes: usize) -> Result<Self> {
        let room = |bytes: usize| cuda.stream.alloc_zeros(bytes).map_err(allocating(bytes));
        let bytes = bytes.max(VECTOR).next_multiple_of(VECTOR);
        let counters = room(Plan::MAX_TEAMS as usize * Plan::COUNTER_BYTES)?;
        Ok(Self {
            cuda: cuda.clone(),
            a: room(bytes)?,
            b: room(bytes)?,
            out: room(bytes)?,
            more: room(bytes)?,
            counters,
        })
    }

    /// The size of each buffer, in bytes.
    pub fn bytes(&self) -> usize {
        self.a.len()
    }

    /// Puts the probe on the stream.
    ///
    /// # Errors
    /// [`Error::Probe`] for sizes that the device or the buffers do not have, [`Error::Launch`].
    pub fn launch(&mut self, probe: Probe) -> Result<()> {
        let args = self.arguments(probe)?;
        let stream = &*self.cuda.stream;
        let (a, _of_a) = self.a.device_ptr(stream);
        let (b, _of_b) = self.b.device_ptr(stream);
        let (out, _of_out) = self.out.device_ptr_mut(stream);
        let (more, _of_more) = self.more.device_ptr_mut(stream);
        let (counters, _of_counters) = self.counters.device_ptr_mut(stream);
        let args = ffi::BnProbe {
            a: a as *const _,
            b: b as *const _,
            out: out as *mut _,
            more: if probe == Probe::TwoReadTwoWrite { more as *mut _ } else { std::ptr::null_mut() },
            counters: counters as *mut u32,
            ..args
        };
        self.cuda.context().bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
        // SAFETY: the buffers have `vectors` vectors each, `arguments` made the geometry for them and for this
        // device, there is a counter for each team, and the guards outlive the launch.
        checked("bn_probe", unsafe { ffi::bn_probe(&args, stream.cu_stream().cast()) })
    }

    /// The geometry of a probe; its addresses are null.
    fn arguments(&self, probe: Probe) -> Result<ffi::BnProbe> {
        let limits = self.cuda.limits();
        let refused = |expected: String, actual: u64| Err(Error::Probe { expected, actual });
        let vectors = self.a.len() / VECTOR;
        let streaming = |kind| ffi::BnProbe {
            kind,
            ctas: limits.sms * CTAS_PER_SM,
            a: std::ptr::null(),
            b: std::ptr::null(),
            out: std::ptr::null_mut(),
            more: std::ptr::null_mut(),
            vectors: vectors as i64,
            row_vectors: 1,
            width: 1,
            team: 1,
            rounds: 0,
            counters: std::ptr::null_mut(),
        };
        match probe {
            Probe::Copy => Ok(streaming(ffi::BnProbeKind::BN_PROBE_COPY)),
            Probe::TwoReadOneWrite | Probe::TwoReadTwoWrite => Ok(streaming(ffi::BnProbeKind::BN_PROBE_TWO_READ)),
            Probe::Strided { row_bytes, strip_bytes } => {
                if !(strip_bytes.is_power_of_two() && (VECTOR..=4096).contains(&strip_bytes)) {
                    return refused("strips of a power of two from 16 to 4096 bytes".into(), strip_bytes as u64);
                }
                if row_bytes == 0 || !row_bytes.is_multiple_of(strip_bytes) || !self.a.len().is_multiple_of(row_bytes) {
                    return refused(
                        format!("rows that divide {} bytes into strips of {strip_bytes}", self.a.len()),
                        row_bytes as u64,
                    );
                }
                let strips = (row_bytes / strip_bytes) as u32;
                let ctas = (limits.sms * CTAS_PER_SM).div_ceil(strips) * strips;
                let (row_vectors, width) = ((row_bytes / VECTOR) as i64, (strip_bytes / VECTOR) as i64);
                Ok(ffi::BnProbe { ctas, row_vectors, width, ..streaming(ffi::BnProbeKind::BN_PROBE_STRIDED) })
            }
            Probe::Meeting { team, rounds } => {
                let ctas = limits.sms * Plan::MIN_CTAS;
                if !limits.cooperative || team == 0 || team > ctas {
                    let most = if limits.cooperative { ctas } else { 0 };
                    return refused(format!("a team of 1 to {most} CTAs"), u64::from(team));
                }
                let teams = (ctas / team).min(Plan::MAX_TEAMS);
                let probe = streaming(ffi::BnProbeKind::BN_PROBE_MEETING);
                Ok(ffi::BnProbe { ctas: teams * team, team, rounds, ..probe })
            }
            Probe::Exchange { team, rounds } => {
                let clusters = limits.clusters_of(team, 1);
                if clusters == 0 {
                    return refused(format!("a cluster of at most {} CTAs", limits.largest_cluster()), u64::from(team));
                }
                let bytes = clusters as usize * team as usize * size_of::<u32>();
                if self.out.len() < bytes {
                    return refused(format!("buffers of at least {bytes} bytes"), self.out.len() as u64);
                }
                let probe = streaming(ffi::BnProbeKind::BN_PROBE_EXCHANGE);
                Ok(ffi::BnProbe { ctas: clusters * team, team, rounds, ..probe })
            }
        }
    }
}

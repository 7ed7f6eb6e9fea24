//! The best that a device can do, for benches: copies, and exchanges of grids and clusters.

use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

use super::checked;
use crate::cuda::device::{allocating, driver};
use crate::cuda::{Cuda, ffi};
use crate::plan::Plan;
use crate::{Error, Result};

/// CTAs of a streaming probe for each multiprocessor: as many as are resident, each with its share of the whole.
const CTAS_PER_SM: u32 = 4;
/// Bytes of a vector.
const VECTOR: usize = Plan::VECTOR_BYTES as usize;

/// A launch whose time says what something costs: which constant of `src/plan/cost.rs` it is for, what its time should be at
/// best, and what it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A plain launch of a grid that fills the device and does nothing: `launch`.
    Empty,
    /// Reads one buffer and writes one, by all of the device: the least of a forward pass. For `dram_efficiency`; at best
    /// the bytes over the peak bandwidth.
    Copy,
    /// Reads two buffers and writes one: the least of a backward pass. For `dram_efficiency`, as [`Probe::Copy`].
    TwoReadOneWrite,
    /// Reads two buffers and writes two: the least of a backward pass with a residual. For `dram_efficiency`, as
    /// [`Probe::Copy`].
    TwoReadTwoWrite,
    /// Copies a part of the buffer by so many CTAs and threads. Few of them are held up by what they have in flight
    /// (`latency`: bytes in flight over the time of a load is the rate), or by their SMs (`sm_bytes_per_ns`); one small set
    /// again and again is answered by L2 (`l2_speed`).
    CopyBy {
        /// CTAs of the grid. Up to the number of SMs each has one for itself.
        ctas: u32,
        /// Threads of a CTA: a power of two from 32 to 256.
        threads: u32,
        /// Vectors of 16 bytes that a thread loads before it stores them: 4, 8 or 16. The operations have 8.
        in_flight: u32,
        /// Bytes that are read, and that are written: a multiple of 16.
        bytes: usize,
        /// Parts of the buffer that the launches take in turn: 1 is the same again and again, which L2 keeps if it is
        /// small; enough of them are cold.
        sets: usize,
    },
    /// Copies rows of `row_bytes` tile by tile, `strip_bytes` of each row, as channels-last tensors are walked. For `stride_64`,
    /// `stride_32` and `sector_bytes`; at best as long as [`Probe::Copy`].
    Strided {
        /// A multiple of `strip_bytes`.
        row_bytes: usize,
        /// A power of two from 16 to 4096.
        strip_bytes: usize,
    },
    /// Exchanges of the teams of a cooperative grid: the time of a round is `grid_exchange`. There are as many teams as
    /// fill the device.
    /// Without rounds it is [`Probe::Empty`] as a cooperative launch, which takes longer by `cooperative`.
    GridExchange {
        /// CTAs of a team.
        team: u32,
        /// Exchanges of each team.
        rounds: u32,
    },
    /// Exchanges while stores are under way: how much more than `grid_exchange` an exchange costs then. At best the longer
    /// of the exchanges alone and the stores alone.
    GridExchangeBesideStores {
        /// CTAs of a team; with 0 there is no exchange, which is the stores alone.
        team: u32,
        /// Exchanges of each team.
        rounds: u32,
        /// Vectors of 16 bytes that a thread stores in each round.
        vectors: u32,
        /// The CTAs that store.
        by: Storing,
    },
    /// The CTAs of clusters, as many as fit at once, send each other sixteen bytes: what a round takes is
    /// `cluster_exchange`, and `cluster_partial` for each CTA. With no round, the start and end of clusters.
    ClusterExchange {
        /// CTAs of a cluster: 2, 4, 8 or 16.
        team: u32,
        /// Exchanges of each cluster.
        rounds: u32,
    },
}

/// The CTAs that store while others exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// The CTAs that exchange, each before its own, and the rest of the grid where its CTAs are no whole number of teams.
    Members,
    /// CTAs without an exchange: the second one of each SM, as far as an idle device gives each SM one CTA before any gets a
    /// second. That is how GPUs are seen to do it, and no promise of theirs; under [`Cuda::with_max_sms`] it does not hold.
    Neighbours,
}

/// Buffers of one size, and the probes that run on them.
pub struct Probes {
    cuda: Cuda,
    a: CudaSlice<u8>,
    b: CudaSlice<u8>,
    out: CudaSlice<u8>,
    more: CudaSlice<u8>,
    /// The counter of exchanges, and behind it two stages of partials.
    exchanges: CudaSlice<u8>,
    /// The launches of copies that take parts of the buffers in turn.
    turn: usize,
}

impl Probes {
    /// Buffers of zeros of at least this many bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(cuda: &Cuda, bytes: usize) -> Result<Self> {
        let room = |bytes: usize| cuda.stream.alloc_zeros(bytes).map_err(allocating(bytes));
        let bytes = bytes.max(VECTOR).next_multiple_of(VECTOR);
        let ctas = (cuda.limits().sms * Plan::MIN_CTAS) as usize;
        let exchanges = room(Plan::COUNTER_BYTES + 2 * ctas * Plan::PARTIAL_BYTES)?;
        Ok(Self {
            cuda: cuda.clone(),
            a: room(bytes)?,
            b: room(bytes)?,
            out: room(bytes)?,
            more: room(bytes)?,
            exchanges,
            turn: 0,
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
        let offset = match probe {
            Probe::CopyBy { bytes, sets, .. } => {
                self.turn = (self.turn + 1) % sets;
                (self.turn * bytes) as u64
            }
            Probe::Empty
            | Probe::Copy
            | Probe::TwoReadOneWrite
            | Probe::TwoReadTwoWrite
            | Probe::Strided { .. }
            | Probe::GridExchange { .. }
            | Probe::GridExchangeBesideStores { .. }
            | Probe::ClusterExchange { .. } => 0,
        };
        let stream = &*self.cuda.stream;
        let (a, _of_a) = self.a.device_ptr(stream);
        let (b, _of_b) = self.b.device_ptr(stream);
        let (out, _of_out) = self.out.device_ptr_mut(stream);
        let (more, _of_more) = self.more.device_ptr_mut(stream);
        let (exchanges, _of_exchanges) = self.exchanges.device_ptr_mut(stream);
        let args = ffi::BnProbe {
            a: (a + offset) as *const _,
            b: b as *const _,
            out: (out + offset) as *mut _,
            more: if probe == Probe::TwoReadTwoWrite { more as *mut _ } else { std::ptr::null_mut() },
            partials: (exchanges + Plan::COUNTER_BYTES as u64) as *mut _,
            exchanges: exchanges as *mut _,
            ..args
        };
        self.cuda.context().bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
        // SAFETY: the buffers have `vectors` vectors each behind `offset`, `arguments` made the geometry for them and for this
        // device, there are two stages of partials for all CTAs that are resident together, and the guards outlive the launch.
        checked("bn_probe", unsafe { ffi::bn_probe(&args, self.cuda.launch_stream()) })
    }

    /// The geometry of a probe; its addresses are null.
    fn arguments(&self, probe: Probe) -> Result<ffi::BnProbe> {
        use ffi::BnProbeKind as Kind;
        let limits = self.cuda.limits();
        let streaming = |kind| ffi::BnProbe {
            kind,
            ctas: limits.sms * CTAS_PER_SM,
            threads: Plan::MAX_THREADS,
            in_flight: 4,
            a: std::ptr::null(),
            b: std::ptr::null(),
            out: std::ptr::null_mut(),
            more: std::ptr::null_mut(),
            vectors: (self.bytes() / VECTOR) as i64,
            row_vectors: 1,
            width: 1,
            team: 1,
            rounds: 0,
            exchange_ctas: 0,
            storing_from: 0,
            stores: 0,
            partials: std::ptr::null_mut(),
            exchanges: std::ptr::null_mut(),
        };
        match probe {
            Probe::Empty => Ok(ffi::BnProbe { ctas: limits.sms * Plan::MIN_CTAS, ..streaming(Kind::BN_PROBE_EMPTY) }),
            Probe::Copy => Ok(streaming(Kind::BN_PROBE_COPY)),
            Probe::TwoReadOneWrite | Probe::TwoReadTwoWrite => Ok(streaming(Kind::BN_PROBE_TWO_INPUTS)),
            Probe::CopyBy { ctas, threads, in_flight, bytes, sets } => {
                expect(ctas > 0, || "a grid of at least 1 CTA", ctas)?;
                let is_warps = threads.is_power_of_two() && (32..=Plan::MAX_THREADS).contains(&threads);
                expect(is_warps, || format!("a power of two from 32 to {} threads", Plan::MAX_THREADS), threads)?;
                expect(matches!(in_flight, 4 | 8 | 16), || "4, 8 or 16 vectors in flight", in_flight)?;
                expect(
                    bytes > 0 && bytes.is_multiple_of(VECTOR),
                    || format!("a multiple of {VECTOR} bytes"),
                    bytes as u64,
                )?;
                let fits = sets > 0 && bytes.checked_mul(sets).is_some_and(|all| all <= self.bytes());
                let most = self.bytes() / bytes;
                expect(
                    fits,
                    || format!("1 to {most} sets of {bytes} bytes, as buffers of {} have", self.bytes()),
                    sets as u64,
                )?;
                let vectors = (bytes / VECTOR) as i64;
                Ok(ffi::BnProbe { ctas, threads, in_flight, vectors, ..streaming(Kind::BN_PROBE_COPY) })
            }
            Probe::Strided { row_bytes, strip_bytes } => {
                let is_strip = strip_bytes.is_power_of_two() && (VECTOR..=4096).contains(&strip_bytes);
                expect(is_strip, || "strips of a power of two from 16 to 4096 bytes", strip_bytes as u64)?;
                let bytes = self.bytes();
                let divides = row_bytes > 0 && row_bytes.is_multiple_of(strip_bytes) && bytes.is_multiple_of(row_bytes);
                let expected = || format!("rows that divide {bytes} bytes into strips of {strip_bytes}");
                expect(divides, expected, row_bytes as u64)?;
                let strips = (row_bytes / strip_bytes) as u32;
                let ctas = (limits.sms * CTAS_PER_SM).div_ceil(strips) * strips;
                let (row_vectors, width) = ((row_bytes / VECTOR) as i64, (strip_bytes / VECTOR) as i64);
                Ok(ffi::BnProbe { ctas, row_vectors, width, ..streaming(Kind::BN_PROBE_STRIDED) })
            }
            Probe::GridExchange { team, rounds } => {
                let exchange_ctas = self.exchange_ctas(team, limits.sms * Plan::MIN_CTAS)?;
                let probe = streaming(Kind::BN_PROBE_GRID_EXCHANGE);
                Ok(ffi::BnProbe { ctas: exchange_ctas, team, rounds, exchange_ctas, ..probe })
            }
            Probe::GridExchangeBesideStores { team, rounds, vectors, by } => {
                let all = limits.sms * Plan::MIN_CTAS;
                let (room, storing_from) = match by {
                    Storing::Members => (all, 0),
                    Storing::Neighbours => (limits.sms, limits.sms),
                };
                // The stores alone are those of the same grid.
                let exchange_ctas = if team == 0 { 0 } else { self.exchange_ctas(team, room)? };
                self.exchange_ctas(1, all)?;
                let bytes = all as usize * Plan::MAX_THREADS as usize * VECTOR;
                expect(self.bytes() >= bytes, || format!("buffers of at least {bytes} bytes"), self.bytes() as u64)?;
                let probe = streaming(Kind::BN_PROBE_GRID_EXCHANGE);
                Ok(ffi::BnProbe {
                    ctas: all,
                    team: team.max(1),
                    rounds,
                    exchange_ctas,
                    storing_from,
                    stores: vectors,
                    ..probe
                })
            }
            Probe::ClusterExchange { team, rounds } => {
                let clusters = limits.clusters_of(team, 1);
                let largest = limits.largest_cluster();
                expect(clusters > 0, || format!("a cluster of at most {largest} CTAs"), team)?;
                let bytes = clusters as usize * team as usize * size_of::<u32>();
                expect(self.bytes() >= bytes, || format!("buffers of at least {bytes} bytes"), self.bytes() as u64)?;
                let probe = streaming(Kind::BN_PROBE_CLUSTER_EXCHANGE);
                Ok(ffi::BnProbe { ctas: clusters * team, team, rounds, ..probe })
            }
        }
    }

    /// The CTAs of as many teams as this many hold, all of them resident together.
    fn exchange_ctas(&self, team: u32, room: u32) -> Result<u32> {
        let most = if self.cuda.limits().cooperative { room } else { 0 };
        expect((1..=most).contains(&team), || format!("a team of 1 to {most} CTAs"), team)?;
        Ok(room / team * team)
    }
}

/// Refuses a probe of another size than expected.
fn expect<E: ToString>(holds: bool, expected: impl FnOnce() -> E, actual: impl Into<u64>) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Probe { expected: expected().to_string(), actual: actual.into() }) }
}

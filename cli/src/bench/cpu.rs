//! The CPU path, and the least that memory allows.

use std::time::Instant;

use batchnorm::bench::{Pass, Work};
use batchnorm::{Compute, Cpu, Element};
use rayon::prelude::*;

use super::Task;
use super::measured::{FLOOR, OURS};
use super::subject::{Reason, Samples, Subject, Way};
use crate::threads;

/// A sample is as many calls as take this long: what a clock and a waking thread cost is then small.
const SAMPLE: f64 = 50e-6;
/// Samples of a turn, all of which are kept.
const MOST_SAMPLES: usize = 250;

/// The subjects that are measured in this process: the CPU path, compared with itself in another order of channels, and the
/// floor.
pub(super) fn subjects<T: Element<Param = f32>>(task: &Task) -> Result<Vec<Box<dyn Subject>>, String>
where
    Cpu: Compute<T>,
{
    let Task { row, operation } = task;
    let mut work = Work::<Cpu, T>::new(&Cpu, row.shape, row.offset, 1).map_err(|error| error.to_string())?;
    let wrong = work.check(*operation).err();
    work.prepare(*operation).map_err(|error| error.to_string())?;
    let ours = Ours { work, operation: *operation, wrong };
    Ok(vec![Box::new(ours), Box::new(Floor::new(row.bytes(), *operation))])
}

struct Ours<T: Element> {
    work: Work<Cpu, T>,
    operation: Pass,
    /// The difference of its result from that in another order of channels, if there is one.
    wrong: Option<String>,
}

impl<T: Element<Param = f32>> Subject for Ours<T>
where
    Cpu: Compute<T>,
{
    fn name(&self) -> String {
        OURS.into()
    }
    fn includes(&self) -> String {
        "parameters, running statistics, the counter; with add-relu the mask".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason> {
        if let Some(wrong) = &self.wrong {
            return Err(Reason::Wrong(wrong.clone()));
        }
        let mut call = || self.work.run(self.operation).map_err(|error| error.to_string());
        Ok(time(seconds, &mut call)?)
    }
}

/// Moves as many bytes as the operation must, by all threads: every tensor that is read into one that is written.
struct Floor {
    read: Vec<Vec<u64>>,
    written: Vec<Vec<u64>>,
}

impl Floor {
    fn new(bytes: usize, operation: Pass) -> Self {
        let (read, written) = operation.tensors();
        let tensors = |count: usize| (0..count).map(|i| vec![i as u64 + 1; bytes.div_ceil(8)]).collect();
        Self { read: tensors(read), written: tensors(written) }
    }

    fn run(&mut self) {
        let Self { read, written } = self;
        let piece = read[0].len().div_ceil(rayon::current_num_threads()).max(1);
        match (&read[..], &mut written[..]) {
            ([a], [out]) => copy(a, out, piece),
            ([a, b], [out]) => both(a, b, out, piece),
            ([a, b], [out, more]) => {
                both(a, b, out, piece);
                // A further tensor that is written has none to copy from: a fill is the least, since a copy would read one
                // again that is in no cache any more.
                more.par_chunks_mut(piece).for_each(|more| more.fill(1));
            }
            _ => {}
        }
    }
}

fn copy(a: &[u64], out: &mut [u64], piece: usize) {
    out.par_chunks_mut(piece).zip(a.par_chunks(piece)).for_each(|(out, a)| out.copy_from_slice(a));
}

fn both(a: &[u64], b: &[u64], out: &mut [u64], piece: usize) {
    let pieces = out.par_chunks_mut(piece).zip(a.par_chunks(piece)).zip(b.par_chunks(piece));
    pieces.for_each(|((out, a), b)| out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a ^ b));
}

impl Subject for Floor {
    fn name(&self) -> String {
        FLOOR.into()
    }
    fn includes(&self) -> String {
        "nothing but reading and writing each tensor once, by as many threads".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason> {
        let mut call = || {
            threads::install(|| self.run());
            Ok(())
        };
        Ok(time(seconds, &mut call)?)
    }
}

/// Calls it for about so many seconds, after a first time that does not count.
fn time(seconds: f64, call: &mut dyn FnMut() -> Result<(), String>) -> Result<Samples, String> {
    let mut timed = |calls: usize| -> Result<f64, String> {
        let start = Instant::now();
        (0..calls).try_for_each(|_| call())?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    let first = timed(1)?.max(1e-9);
    let calls = (SAMPLE / first).ceil().clamp(1.0, 1e6) as usize;
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.is_empty() || (samples.len() < MOST_SAMPLES && start.elapsed().as_secs_f64() < seconds) {
        samples.push(timed(calls)?);
    }
    Ok(Samples::from([(Way::Call, samples)]))
}

//! Launches of problems in turn, over one workspace, whose results are all kept on the device until they are compared.

use batchnorm::op::{Backward, Gradients, Moments, Statistics, Train};
use batchnorm::{Backend, Compute, Cuda, CudaWorkspace, Element, Epilogue, Op, Shape, Strategy};
use cudarc::driver::CudaSlice;

use super::plans::{Candidate, Planned};

/// Sets of data that the launches of a problem take in turn: a partial that is left from the launch before is then another
/// one. No divisor of two, so that no buffer belongs to a set.
const SETS: usize = 3;
/// Bytes of results up to which all of them are kept; of a larger tensor its moments are, and all of it is compared at the end
/// of a round.
const KEPT_WHOLE: usize = 1 << 20;

/// One set of data, with the saved statistics of its forward pass.
struct Data<T: Element> {
    x: CudaSlice<T>,
    dy: CudaSlice<T>,
    mean: CudaSlice<f32>,
    inv_std: CudaSlice<f32>,
}

/// The results of one problem, overwritten by each launch.
struct Work<T: Element> {
    candidate: Candidate,
    cuda: Cuda,
    sets: Vec<Data<T>>,
    /// y or dx.
    out: CudaSlice<T>,
    /// The saved statistics, or dgamma and dbeta.
    channels: [CudaSlice<f32>; 2],
}

/// Values that differ from place to place and from set to set, with a mean of 0 or a hundred sigmas.
fn values<T: Element>(shape: Shape, set: usize, seed: u32, is_far: bool) -> Vec<T> {
    let scale = 1.0 + set as f64 / 4.0;
    let mean = if is_far { 100.0 } else { 0.25 } * scale;
    let value = |i: usize| {
        let mut bits = (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed.wrapping_mul(0x85eb_ca6b) + set as u32);
        bits = (bits ^ bits >> 15).wrapping_mul(0x2c1b_3c6d);
        bits ^= bits >> 13;
        T::from_f64(mean + scale * (f64::from(bits & 0xffff) / 65536.0 - 0.5) * 3.0)
    };
    (0..shape.len()).map(value).collect()
}

impl<T: Element<Param = f32>> Work<T>
where
    Cuda: Compute<T>,
{
    fn new(candidate: Candidate, cuda: Cuda) -> Self {
        let shape = candidate.shape();
        let channels = || cuda.upload(&vec![0.0f32; shape.c()]).unwrap();
        let mut work = Self {
            out: cuda.upload(&vec![T::from_f64(0.0); shape.len()]).unwrap(),
            channels: [channels(), channels()],
            sets: Vec::new(),
            candidate,
            cuda: cuda.clone(),
        };
        let two_read = cuda.clone().with_strategy(Some(Strategy::TwoPass));
        let problem = candidate.problem_of(Op::Train);
        let mut workspace = two_read.workspace(&[problem]).unwrap();
        for set in 0..SETS {
            let mut data = Data {
                x: cuda.upload(&values(shape, set, 1, candidate.is_far)).unwrap(),
                dy: cuda.upload(&values(shape, set, 2, false)).unwrap(),
                mean: channels(),
                inv_std: channels(),
            };
            let Data { x, mean, inv_std, .. } = &mut data;
            two_read.run_in(&mut workspace, train(&candidate, x, &mut work.out, mean, inv_std)).unwrap();
            work.sets.push(data);
        }
        work
    }

    fn launch(&mut self, cuda: &Cuda, set: usize, workspace: &mut CudaWorkspace) {
        let (candidate, data) = (&self.candidate, &self.sets[set]);
        let [first, second] = &mut self.channels;
        if candidate.op == Op::Train {
            let train = train(candidate, &data.x, &mut self.out, first, second);
            return cuda.run_in(workspace, train).unwrap();
        }
        let backward = Backward::<Cuda, T> {
            shape: candidate.shape(),
            x: &data.x,
            dy: &data.dy,
            epilogue: if candidate.is_far { Epilogue::RELU } else { Epilogue::IDENTITY },
            gamma: None,
            beta: None,
            statistics: Statistics::Batch { mean: &data.mean, inv_std: &data.inv_std },
            relu_mask: None,
            gradients: Gradients { dx: Some(&mut self.out), dgamma: Some(first), dbeta: Some(second) },
        };
        cuda.run_in(workspace, backward).unwrap();
    }

    /// All results, as their bits.
    fn bits(&self) -> Vec<u64> {
        let out = self.cuda.download(&self.out).unwrap();
        let channels = self.channels.iter().flat_map(|values| self.cuda.download(values).unwrap());
        out.iter().map(|value| value.to_f64().to_bits()).chain(channels.map(|v| f64::from(v).to_bits())).collect()
    }
}

fn train<'a, T: Element<Param = f32>>(
    candidate: &Candidate,
    x: &'a CudaSlice<T>,
    y: &'a mut CudaSlice<T>,
    saved_mean: &'a mut CudaSlice<f32>,
    saved_inv_std: &'a mut CudaSlice<f32>,
) -> Train<'a, Cuda, T> {
    Train {
        shape: candidate.shape(),
        eps: 1e-5,
        x,
        epilogue: if candidate.is_far { Epilogue::RELU } else { Epilogue::IDENTITY },
        gamma: None,
        beta: None,
        y,
        saved_mean,
        saved_inv_std,
        relu_mask: None,
        running: None,
    }
}

/// Problems that are launched in turn over one workspace, on one stream.
pub(crate) struct Turns<T: Element> {
    cuda: Cuda,
    works: Vec<Work<T>>,
    workspace: CudaWorkspace,
    /// The results of the launches of a round: all of y or dx, or its moments, and what there is one of a channel.
    outs: Vec<CudaSlice<T>>,
    channels: Vec<[CudaSlice<f32>; 4]>,
    for_moments: CudaWorkspace,
    /// The results of the first round.
    first: Option<Vec<Kept>>,
}

/// The bits of what one launch left, and after the last launches of a round of all of it.
#[derive(Debug, PartialEq)]
struct Kept(Vec<u64>);

impl<T: Element<Param = f32>> Turns<T>
where
    Cuda: Compute<T>,
{
    /// The problems on a backend's stream, whatever its strategy.
    pub(crate) fn new(problems: &[Planned], stream: &Cuda) -> Self {
        let work = |planned: &Planned| Work::new(planned.candidate, planned.on(stream));
        let works: Vec<_> = problems.iter().map(work).collect();
        let problems: Vec<_> = works.iter().map(|work| work.candidate.problem()).collect();
        // Enough for each: what one plan needs is what the largest of them has.
        let workspaces = works.iter().zip(&problems).map(|(work, problem)| work.cuda.workspace(&[*problem]).unwrap());
        let workspace = workspaces.max_by_key(CudaWorkspace::bytes).unwrap();
        let moments: Vec<_> = works.iter().map(|work| work.candidate.problem_of(Op::Moments)).collect();
        let for_moments = stream.workspace(&moments).unwrap();
        Self {
            cuda: stream.clone(),
            works,
            workspace,
            outs: Vec::new(),
            channels: Vec::new(),
            for_moments,
            first: None,
        }
    }

    /// Launches of a round: each problem with each set of data, several times where that takes little memory.
    pub(crate) fn round_len(&self, most: usize) -> usize {
        let all = self.works.len() * SETS;
        let bytes: usize = self.works.iter().map(|work| self.kept_bytes(work)).max().unwrap_or(1);
        let times = (most / all).min((128 << 20) / (bytes * all)).max(1);
        all * times
    }

    fn kept_bytes(&self, work: &Work<T>) -> usize {
        let bytes = work.candidate.shape().len() * size_of::<T>();
        if bytes <= KEPT_WHOLE { bytes } else { 4 * work.candidate.shape().c() * size_of::<f32>() }
    }

    /// Room for the results of a round, before a stream captures it.
    pub(crate) fn prepare(&mut self, launches: usize) {
        for launch in self.outs.len()..launches {
            let work = &self.works[launch % self.works.len()];
            let shape = work.candidate.shape();
            let is_whole = shape.len() * size_of::<T>() <= KEPT_WHOLE;
            let len = if is_whole { shape.len() } else { 0 };
            self.outs.push(self.cuda.upload(&vec![T::from_f64(0.0); len]).unwrap());
            self.channels.push([0; 4].map(|_| self.cuda.upload(&vec![0.0f32; shape.c()]).unwrap()));
        }
        self.cuda.synchronize().unwrap();
    }

    /// Puts one launch of a round on the stream, and what keeps its results.
    pub(crate) fn enqueue(&mut self, launch: usize) {
        let count = self.works.len();
        let work = &mut self.works[launch % count];
        let cuda = work.cuda.clone();
        work.launch(&cuda, launch / count % SETS, &mut self.workspace);
        let (stream, out) = (self.cuda.stream(), &mut self.outs[launch]);
        let [first, second, mean, var] = &mut self.channels[launch];
        for (from, to) in work.channels.iter().zip([first, second]) {
            stream.memcpy_dtod(from, to).unwrap();
        }
        if out.is_empty() {
            let moments = Moments::<Cuda, T> { shape: work.candidate.shape(), x: &work.out, mean, var };
            self.cuda.run_in(&mut self.for_moments, moments).unwrap();
        } else {
            stream.memcpy_dtod(&work.out, out).unwrap();
        }
    }

    /// Waits for the launches of a round, and compares each with the first of its problem and data. Says which differs.
    pub(crate) fn compare(&mut self, launches: usize) -> Result<(), String> {
        let mut kept: Vec<_> = (0..launches)
            .map(|launch| {
                let out = self.cuda.download(&self.outs[launch]).unwrap();
                let channels = self.channels[launch].iter().flat_map(|values| self.cuda.download(values).unwrap());
                let out = out.iter().map(|value| value.to_f64().to_bits());
                Kept(out.chain(channels.map(|value| f64::from(value).to_bits())).collect())
            })
            .collect();
        kept.extend(self.works.iter().map(|work| Kept(work.bits())));
        let period = self.works.len() * SETS;
        let first = self.first.get_or_insert_with(|| std::mem::take(&mut kept));
        if kept.is_empty() {
            // The first round: its own first launches are what the others are compared with.
            let differs = (period..launches).find(|&launch| first[launch] != first[launch % period]);
            return differs.map_or(Ok(()), |launch| Err(format!("launch {launch} of the first round")));
        }
        let differs = (0..kept.len()).find(|&i| kept[i] != first[i]);
        differs.map_or(Ok(()), |i| Err(if i < launches { format!("launch {i}") } else { "all of the last".into() }))
    }

    /// Holds what the last launches left against a strategy in which no CTA waits for another.
    pub(crate) fn check_against_two_read(&mut self) {
        for at in 0..self.works.len() {
            let work = &mut self.works[at];
            let two_read = work.cuda.clone().with_strategy(Some(Strategy::TwoPass));
            let mut workspace = two_read.workspace(&[work.candidate.problem()]).unwrap();
            let exchanged = work.bits();
            work.launch(&two_read, SETS - 1, &mut workspace);
            for (i, (got, want)) in exchanged.iter().zip(work.bits()).enumerate() {
                let (got, want) = (f64::from_bits(*got), f64::from_bits(want));
                // Tolerances are the table's business; this is a few units of a half type, and of what sums are over.
                let allowed = 4e-3 * want.abs().max(1.0);
                assert!((got - want).abs() <= allowed, "{:?}: value {i}: {got}, two-read {want}", work.candidate);
            }
        }
    }
}

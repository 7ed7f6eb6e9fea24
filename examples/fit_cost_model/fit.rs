//! The constants that make the model's times least different from those that were measured.

use batchnorm::bench::cost::{self, Constants, Phase};

use crate::measured::{Measured, Move, Observation, Of, Probe};

/// One of the constants.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    at: fn(&mut Constants) -> &mut f64,
    /// The most that it can be: a share is no more than 1.
    most: f64,
}

impl Field {
    pub(crate) fn of(&self, constants: &Constants) -> f64 {
        let mut copy = *constants;
        *(self.at)(&mut copy)
    }

    /// The constants with this one multiplied.
    fn times(&self, constants: &Constants, factor: f64) -> Constants {
        let mut changed = *constants;
        let value = (self.at)(&mut changed);
        *value = (*value * factor).min(self.most);
        changed
    }
}

macro_rules! field {
    ($name:ident, $most:expr) => {
        Field { name: stringify!($name), at: |constants| &mut constants.$name, most: $most }
    };
}

/// All constants of the model.
pub(crate) const FIELDS: [Field; 21] = [
    field!(dram_efficiency, 1.0),
    field!(pass_efficiency, 1.0),
    field!(stride_64, 1.0),
    field!(stride_32, 1.0),
    field!(l2_speed, f64::INFINITY),
    field!(l2_kept, 1.0),
    field!(sector_bytes, f64::INFINITY),
    field!(sm_bytes_per_ns, f64::INFINITY),
    field!(latency, f64::INFINITY),
    field!(l2_latency, f64::INFINITY),
    field!(instruction, f64::INFINITY),
    field!(launch, f64::INFINITY),
    field!(clustered, f64::INFINITY),
    field!(cooperative, f64::INFINITY),
    field!(merge, f64::INFINITY),
    field!(strided_merge, f64::INFINITY),
    field!(cluster_exchange, f64::INFINITY),
    field!(cluster_partial, f64::INFINITY),
    field!(grid_exchange, f64::INFINITY),
    field!(grid_merge, f64::INFINITY),
    field!(drift, 1.0),
];

/// A constant whose standard error is above this share of it is not determined.
const MOST_ERROR: f64 = 0.5;
/// Times repeat no better than to this share: a residual below it makes nothing more certain.
const NOISE: f64 = 0.01;

/// The evidence of the files for a constant.
pub(crate) struct Fitted {
    /// The observations whose predicted time it bears on.
    pub(crate) observations: Vec<usize>,
    /// The standard error, as a share of it; `None` where it is not determined.
    pub(crate) error: Option<f64>,
}

/// The model's time of what was observed, in nanoseconds.
pub(crate) fn predicted(constants: &Constants, observation: &Observation) -> f64 {
    let limits = &observation.limits;
    match &observation.of {
        Of::Plan(problem, plan) => cost::nanoseconds(constants, problem, limits, plan),
        Of::Probe(_, Probe::Empty) => constants.launch,
        Of::Probe(_, Probe::Move(Move { bytes, loaded, ctas, in_flight, row_bytes, is_warm })) => {
            let latency = if *is_warm { constants.l2_latency } else { constants.latency };
            let phase = Phase {
                dram_bytes: if *is_warm { 0.0 } else { *bytes },
                moved_bytes: *bytes,
                ctas: *ctas,
                row_bytes: *row_bytes,
                walk: loaded / (ctas * in_flight) * latency,
            };
            constants.launch + constants.time(limits, &phase)
        }
        Of::Probe(_, Probe::GridExchange { rounds }) => {
            constants.launch + constants.cooperative + rounds * constants.grid_exchange
        }
        Of::Probe(_, Probe::ClusterExchange { rounds, team, without }) => {
            without + rounds * (constants.cluster_exchange + team * constants.cluster_partial)
        }
    }
}

/// The model's error, as the logarithm of the ratio: 0.1 is 10% too much.
pub(crate) fn residual(constants: &Constants, observation: &Observation) -> f64 {
    (predicted(constants, observation) / observation.ns).ln()
}

/// The root mean square of some residuals.
pub(crate) fn rms(constants: &Constants, observations: &[&Observation]) -> f64 {
    let sum: f64 = observations.iter().map(|observation| residual(constants, observation).powi(2)).sum();
    (sum / observations.len().max(1) as f64).sqrt()
}

/// Fits in two stages: from the probes what they determine, since each is about few constants; then the others from the rows.
/// A constant that no observation determines stays as it is.
pub(crate) fn fit(measured: &Measured) -> (Constants, Vec<Fitted>) {
    let all = &measured.observations;
    let is_probe = |&index: &usize| matches!(all[index].of, Of::Probe(..));
    let (probes, rows): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(is_probe);
    let mut constants = Constants::PLANNED_BY;
    let mut found: Vec<Option<Fitted>> = FIELDS.iter().map(|_| None).collect();
    for stage in [probes, rows] {
        let observations: Vec<&Observation> = stage.iter().map(|&index| &all[index]).collect();
        let mut free: Vec<usize> = (0..FIELDS.len()).filter(|&field| found[field].is_none()).collect();
        // The others are fitted again without the constants that turn out not to be determined.
        let errors = loop {
            let fitted = least(constants, &free, &observations);
            let errors = standard_errors(&fitted, &free, &observations);
            let determined = |(_, error): &(&usize, &f64)| **error <= MOST_ERROR;
            let kept: Vec<usize> = free.iter().zip(&errors).filter(determined).map(|(&field, _)| field).collect();
            if kept.len() == free.len() {
                constants = fitted;
                break errors;
            }
            free = kept;
        };
        for (&field, error) in free.iter().zip(errors) {
            let bears = stage.iter().filter(|&&index| slope(&constants, &FIELDS[field], &all[index]).abs() > NOISE);
            found[field] = Some(Fitted { observations: bears.copied().collect(), error: Some(error) });
        }
    }
    let found = found.into_iter().map(|fitted| fitted.unwrap_or(Fitted { observations: Vec::new(), error: None }));
    (constants, found.collect())
}

/// Coordinate descent on the logarithms of the free constants: each is moved by steps that grow where they help and shrink
/// where they do not.
fn least(start: Constants, free: &[usize], observations: &[&Observation]) -> Constants {
    let sum = |constants: &Constants| rms(constants, observations);
    let mut now = around(start, free, observations);
    let mut least = sum(&now);
    let mut better = |now: &mut Constants, next: Constants| {
        let found = sum(&next);
        let is_less = found < least;
        if is_less {
            (*now, least) = (next, found);
        }
        is_less
    };
    let mut steps = vec![0.2; free.len()];
    for _ in 0..1000 {
        let before = now;
        for (&field, step) in free.iter().zip(&mut steps) {
            let mut moves = [1.0 + *step, 1.0 / (1.0 + *step)].into_iter();
            let moved = moves.any(|factor| {
                let next = FIELDS[field].times(&now, factor);
                better(&mut now, next)
            });
            *step = if moved { (*step * 1.5).min(0.5) } else { *step / 2.0 };
        }
        // Once more as far as all moved together: along a valley that no constant follows alone.
        let together = free
            .iter()
            .fold(now, |moved, &field| FIELDS[field].times(&moved, FIELDS[field].of(&now) / FIELDS[field].of(&before)));
        better(&mut now, together);
        if steps.iter().all(|&step| step < 1e-5) {
            break;
        }
    }
    now
}

/// A coarse look around, since a limit that binds nowhere has no slope. The constant that is moved first may take the place of
/// another, so that each is first once.
fn around(start: Constants, free: &[usize], observations: &[&Observation]) -> Constants {
    const FACTORS: [f64; 8] = [0.1, 0.25, 0.5, 0.7, 1.4, 2.0, 4.0, 10.0];
    let sum = |constants: &Constants| rms(constants, observations);
    let (mut best, mut least) = (start, sum(&start));
    for first in 0..free.len() {
        let (mut now, mut so_far) = (start, sum(&start));
        for &field in [&free[first..], &free[..first]].concat().iter().cycle().take(3 * free.len()) {
            let next = FACTORS.map(|factor| FIELDS[field].times(&now, factor));
            for (next, found) in next.map(|next| (next, sum(&next))) {
                if found < so_far {
                    (now, so_far) = (next, found);
                }
            }
        }
        if so_far < least {
            (best, least) = (now, so_far);
        }
    }
    best
}

/// The change of a predicted time with a constant, both as logarithms.
fn slope(constants: &Constants, field: &Field, observation: &Observation) -> f64 {
    const STEP: f64 = 1.01;
    let at = |factor: f64| predicted(&field.times(constants, factor), observation).ln();
    let (more, less) = (field.times(constants, STEP), field.times(constants, 1.0 / STEP));
    let moved = field.of(&more).ln() - field.of(&less).ln();
    (at(STEP) - at(1.0 / STEP)) / moved
}

/// The standard error of each free constant, as a share of it: the residual over the part of its slopes that no other constant
/// has too. Infinite where there is none.
fn standard_errors(constants: &Constants, free: &[usize], observations: &[&Observation]) -> Vec<f64> {
    let residual = rms(constants, observations).max(NOISE);
    let columns: Vec<Vec<f64>> = free
        .iter()
        .map(|&field| observations.iter().map(|observation| slope(constants, &FIELDS[field], observation)).collect())
        .collect();
    let alone = |index: usize| {
        // Gram and Schmidt: the others made orthogonal, then this one to all of them.
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let others = (0..columns.len()).filter(|&other| other != index);
        for column in others.chain([index]) {
            let mut rest = columns[column].clone();
            for unit in &basis {
                let share = dot(&rest, unit);
                rest.iter_mut().zip(unit).for_each(|(rest, unit)| *rest -= share * unit);
            }
            let length = dot(&rest, &rest).sqrt();
            if column == index {
                return length;
            }
            if length > 1e-9 {
                basis.push(rest.iter().map(|value| value / length).collect());
            }
        }
        0.0
    };
    (0..columns.len()).map(|index| residual / alone(index).max(f64::MIN_POSITIVE)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

//! Random sequences of calls on a layer, right and wrong ones, compared with a model in f64: what is right gives what the
//! model gives; what is refused leaves state, statistics, buffers and the counter bit for bit.

mod calls;
mod draw;
mod keep;
mod model;
mod world;

use batchnorm::verify::Verified;
use batchnorm::{Compute, Element};

use crate::abuse::Trial;
use world::World;

/// The calls of a sequence.
const CALLS: u64 = 16;

/// One sequence on this backend, for data of type `T`.
pub(crate) fn run<B: Verified + Compute<T>, T: Element>(backend: &B, trial: &mut Trial) {
    let mut world = World::<B, T>::new(backend, &mut trial.rng);
    trial.cases = CALLS;
    let mut told = format!("{}: {world}\n", T::DTYPE);
    for _ in 0..CALLS {
        // Kept before it is made: a call that panics or dies is the last.
        let call = trial.rng.u8(..20);
        told += &format!("{}\n", World::<B, T>::name_of(call));
        trial.keep("calls.txt", told.as_bytes());
        world.call(call, &mut trial.rng);
    }
}

//! Grids on streams of different priority: the last tests in order, since nobody promises that they end.
//!
//! A cooperative grid waits for all of its CTAs to be resident. Grids of one priority begin one after the other, so that at
//! most one is resident in part. A stream of higher priority may take multiprocessors while a grid of a lower one has some of
//! its own: where both together need more than the device has, each may then wait for what the other holds.

use batchnorm::{Cuda, Strategy};
use cudarc::driver::result::stream::get_priority_range;

use crate::device::{Device, EMULATED, cuda, has, untracked};
use crate::litmus::plans::{ONE_CHANNEL, Planned, SEVERAL_CHANNELS};
use crate::litmus::work::Turns;
use crate::watchdog::in_time;

/// Launches of each problem on each stream: as many as a round keeps.
const LAUNCHES: usize = if EMULATED { 0 } else { 240 };
const ROUNDS: usize = if EMULATED { 2 } else { 20 };

/// Two team sizes in turn on a stream of the lowest and one of the highest priority at once, each with at most so many
/// multiprocessors.
fn check(cuda: &Cuda, max_sms: u32) {
    let narrow = cuda.clone().with_max_sms(max_sms);
    let (Some(one), Some(several)) = (ONE_CHANNEL.on(&narrow), SEVERAL_CHANNELS.on(&narrow)) else { return };
    let on = |mut planned: Planned| {
        planned.candidate.max_sms = max_sms;
        planned
    };
    let problems = [on(one), on(several)];
    let context = untracked(cuda);
    context.bind_to_thread().unwrap();
    let (lowest, highest) = get_priority_range().unwrap();
    assert!(lowest > highest, "{lowest} {highest}");
    let mut both = [lowest, highest].map(|priority| {
        let stream = Cuda::on(context.new_stream_with_priority(priority).unwrap()).unwrap();
        Turns::<f32>::new(&problems, &stream)
    });
    let launches = both[0].round_len(LAUNCHES);
    both.iter_mut().for_each(|turns| turns.prepare(launches));
    for round in 0..ROUNDS {
        let what = format!("round {round} on two priorities with {max_sms} multiprocessors each, {problems:?}");
        let label = what.clone();
        both = in_time(&what, move || {
            (0..launches).for_each(|launch| both.iter_mut().for_each(|turns| turns.enqueue(launch)));
            for turns in &mut both {
                turns.compare(launches).unwrap_or_else(|which| panic!("{which} has other bits: {label}"));
            }
            both
        });
    }
}

fn with_grids() -> Option<Device> {
    cuda().filter(|cuda| has(&cuda.limits(), Some(Strategy::Grid)))
}

/// Both together fit the device, in any order of their CTAs.
#[test]
fn a_half_of_the_device_for_each_priority() {
    let Some(cuda) = with_grids() else { return };
    check(&cuda, cuda.limits().sms / 2);
}

/// Each would fill the device. Where this hangs, `Cuda::with_max_sms` says what to do.
#[test]
fn b_all_of_the_device_for_each_priority() {
    let Some(cuda) = with_grids() else { return };
    check(&cuda, cuda.limits().sms);
}

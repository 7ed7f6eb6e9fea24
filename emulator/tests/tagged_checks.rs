//! Values with a tag that CTAs of a grid exchange without a fence: what is right, and each way to do it wrong.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, LAUNCH_FAILED, expect_report};

const SEEDS: u64 = 10;
const TAG_BIT: u32 = 1 << 31;

struct Exchange<'a> {
    device: &'a Device,
    ctas: usize,
    slots: u64,
    outside: u64,
    y: u64,
}

impl<'a> Exchange<'a> {
    fn new(device: &'a Device, ctas: usize) -> Self {
        let (slots, outside) = (device.zeros(2 * ctas * 16), device.zeros(4 * ctas));
        Self { device, ctas, slots, outside, y: device.alloc::<u32>(ctas) }
    }

    fn launch(&self, threads: u32, rounds: u32, epoch: u32, how: i32) -> i32 {
        let Self { ctas, slots, outside, y, .. } = *self;
        planted::launch_tagged(slots, outside, y, ctas as u32, threads, rounds, TAG_BIT | epoch, how)
    }

    fn values(&self) -> Vec<u32> {
        self.device.get::<u32>(self.y, self.ctas)
    }
}

#[test]
fn values_go_round_without_a_fence() {
    let device = Device::open(0);
    for (ctas, threads, rounds) in [(8, 256, 100), (16, 64, 50), (4, 1024, 20), (1, 32, 10)] {
        let exchange = Exchange::new(&device, ctas);
        for epoch in [0, rounds] {
            let code = exchange.launch(threads, rounds, epoch, 0);
            assert_eq!(code, 0, "{:?}", cuda_emulator::last_report());
            assert_eq!(exchange.values(), vec![rounds + 1; ctas]);
        }
    }
}

#[test]
fn each_planted_fault_is_found() {
    let device = Device::open(0);
    for (how, words) in [
        (1, &["tagged_kernel"][..]), // as a race, or by the reader who comes too late
        (2, &["race: load of "]),
        (3, &["tagged_kernel"]), // as a race, or by the reader whom nobody wakes
        (4, &["race: load of 4 bytes", "not ordered after a store"]),
        (5, &["deadlock"]),
    ] {
        for seed in 0..SEEDS {
            cuda_emulator::set_seed(seed);
            let code = Exchange::new(&device, 4).launch(64, 4, 0, how);
            expect_report(code, LAUNCH_FAILED, words);
        }
    }
}

/// An epoch that did not move: the next launch would take what this one has left.
#[test]
fn a_tag_of_an_earlier_launch_is_found() {
    let device = Device::open(0);
    for seed in 0..SEEDS {
        cuda_emulator::set_seed(seed);
        let exchange = Exchange::new(&device, 4);
        assert_eq!(exchange.launch(64, 4, 8, 0), 0, "{:?}", cuda_emulator::last_report());
        // Its last two rounds had the tags 10 and 11.
        expect_report(exchange.launch(64, 2, 10, 0), LAUNCH_FAILED, &["a tag that "]);
    }
}

/// Each of its two reports comes by chance: of which thread is first, on threads that the machine lends.
#[test]
fn a_stage_that_is_stored_over_too_early_is_a_race() {
    const MOST: u64 = 1000;
    let device = Device::open(0);
    let mut awaited = vec!["race: store of 16 bytes", "stored over before it was read"];
    for seed in 0..MOST {
        cuda_emulator::set_seed(seed);
        let code = Exchange::new(&device, 4).launch(64, 4, 0, 1);
        let report = cuda_emulator::last_report().unwrap_or_default();
        expect_report(code, LAUNCH_FAILED, &["tagged_kernel"]);
        awaited.retain(|words| !report.contains(words));
        if awaited.is_empty() {
            return;
        }
    }
    panic!("{awaited:?}: not in {MOST} launches");
}

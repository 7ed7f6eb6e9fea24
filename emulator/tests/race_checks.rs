//! The happens-before check, in a CTA, in a warp and between CTAs; and what the seed changes.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, LAUNCH_FAILED, expect_report};

const SEEDS: u64 = 10;

/// Runs `wrong` and `right` with several seeds: the one must be found each time, the other never.
fn under_seeds(wrong: impl Fn() -> i32, right: impl Fn() -> i32, words: &[&str]) {
    for seed in 0..SEEDS {
        cuda_emulator::set_seed(seed);
        assert_eq!(right(), 0, "seed {seed}: {:?}", cuda_emulator::last_report());
        expect_report(wrong(), LAUNCH_FAILED, words);
    }
}

#[test]
fn missing_barrier_between_write_and_read() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(256);
    // The first thread to run may find its neighbour's value missing rather than unordered.
    let wrong = || planted::launch_neighbour(y, 0);
    let right = || planted::launch_neighbour(y, 1);
    under_seeds(wrong, right, &["neighbour_kernel", "values"]);
    assert_eq!(right(), 0);
    assert_eq!(device.get::<f32>(y, 256)[255], 0.0);
}

#[test]
fn missing_barrier_between_read_and_write() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(128);
    under_seeds(
        || planted::launch_reuse(y, 0),
        || planted::launch_reuse(y, 1),
        &["race", "value", "not ordered after a"],
    );
}

#[test]
fn a_warp_barrier_orders_a_warp() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(64);
    let full = u32::MAX;
    // The wrong launches have no barrier; exchange over the border of a warp; and over the border of a mask.
    under_seeds(|| planted::launch_warp(y, 1, 0), || planted::launch_warp(y, 1, full), &["values"]);
    under_seeds(|| planted::launch_warp(y, 32, full), || planted::launch_warp(y, 31, full), &["values"]);
    under_seeds(|| planted::launch_warp(y, 16, 0xffff), || planted::launch_warp(y, 8, 0xffff), &["values"]);
}

#[test]
fn bytes_beside_each_other_are_no_race() {
    let device = Device::open(0);
    let y = device.alloc::<u16>(64);
    under_seeds(|| planted::launch_halves(y, 1), || planted::launch_halves(y, 0), &["race: store of 2 bytes"]);
}

#[test]
fn wide_and_narrow_accesses_meet() {
    let device = Device::open(0);
    let (y, z) = (device.zeros(16), device.alloc::<u32>(1));
    let wrong = || planted::launch_widths(y, z, 0);
    under_seeds(wrong, || planted::launch_widths(y, z, 1), &["race", "not ordered after a"]);
}

#[test]
fn every_reader_counts() {
    let device = Device::open(0);
    let (x, y) = (device.zeros(4), device.alloc::<f32>(2));
    let wrong = || planted::launch_read_write(x, y, 0);
    under_seeds(wrong, || planted::launch_read_write(x, y, 1), &["race", "read_write_kernel"]);
}

#[test]
fn the_last_cta_reads_what_the_others_released() {
    let device = Device::open(0);
    let ctas = 9;
    let partial = device.alloc::<f32>(ctas * 64);
    let (counter, y) = (device.zeros(4), device.alloc::<f32>(64));
    let launch_ctas = |ctas: usize, how| {
        // A broken launch leaves its counter anywhere.
        device.zero(counter, 4);
        planted::launch_last_block(partial, counter, y, ctas as u32, how)
    };
    let launch = |how| launch_ctas(ctas, how);
    assert_eq!(launch(0), 0);
    assert_eq!(device.get::<f32>(y, 64), vec![ctas as f32; 64]);
    under_seeds(|| launch_ctas(2, 4), || launch(0), &["race", "last_block_kernel"]);
    for how in 1..=3 {
        under_seeds(|| launch(how), || launch(0), &["race", "last_block_kernel", "not ordered after a"]);
    }
}

#[test]
fn a_grid_barrier_by_release_and_acquire() {
    let device = Device::open(0);
    for ctas in [1, 2, 8] {
        let values = device.alloc::<f32>(2 * ctas);
        let (counter, y) = (device.zeros(4), device.alloc::<f32>(2 * ctas));
        for seed in 0..SEEDS {
            cuda_emulator::set_seed(seed);
            let code = planted::launch_grid_barrier(values, counter, y, ctas as u32, 1, 0);
            assert_eq!(code, 0, "{ctas} CTAs, seed {seed}: {:?}", cuda_emulator::last_report());
            assert_eq!(device.get::<f32>(y, 2 * ctas), vec![(ctas * (ctas + 1) / 2) as f32; 2 * ctas]);
        }
    }
}

#[test]
fn a_grid_barrier_that_does_not_wait() {
    let device = Device::open(0);
    let ctas = 8;
    let (values, y) = (device.zeros(8 * ctas), device.alloc::<f32>(2 * ctas));
    let mut found = 0;
    for seed in 0..SEEDS {
        cuda_emulator::set_seed(seed);
        let counter = device.zeros(4);
        let code = planted::launch_grid_barrier(values, counter, y, ctas as u32, 1, 1);
        if code != 0 {
            found += 1;
            expect_report(code, LAUNCH_FAILED, &["race", "grid_barrier_kernel"]);
        }
    }
    // Whoever comes last has waited, as it happens; the others have not.
    assert_eq!(found, SEEDS);
}

#[test]
fn a_relaxed_wait_acquires_at_its_end_or_not_at_all() {
    let device = Device::open(0);
    let ctas = 8;
    let (values, y) = (device.zeros(8 * ctas), device.alloc::<f32>(2 * ctas));
    for seed in 0..SEEDS {
        cuda_emulator::set_seed(seed);
        let code = planted::launch_grid_barrier(values, device.zeros(4), y, ctas as u32, 1, 4);
        assert_eq!(code, 0, "seed {seed}: {:?}", cuda_emulator::last_report());
        assert_eq!(device.get::<f32>(y, 2 * ctas), vec![(ctas * (ctas + 1) / 2) as f32; 2 * ctas]);
        let code = planted::launch_grid_barrier(values, device.zeros(4), y, ctas as u32, 1, 3);
        expect_report(code, LAUNCH_FAILED, &["race", "grid_barrier_kernel"]);
    }
}

#[test]
fn persistent_ctas_meet_many_times() {
    let device = Device::open(0);
    for (ctas, threads, rounds) in [(8, 256, 300), (16, 256, 100), (4, 1024, 50), (1, 32, 10)] {
        let (x, counters, y) = (device.alloc::<u32>(2 * ctas), device.zeros(8), device.alloc::<u32>(ctas));
        let code = planted::launch_persistent(x, counters, y, ctas as u32, threads, rounds, 0);
        assert_eq!(code, 0, "{:?}", cuda_emulator::last_report());
        assert_eq!(device.get::<u32>(y, ctas), vec![rounds + 1; ctas]);
    }
}

#[test]
fn a_release_is_no_acquire_and_needs_a_barrier_before_it() {
    let device = Device::open(0);
    let ctas = 4;
    let launch = |how| {
        let (x, counters, y) = (device.alloc::<u32>(2 * ctas), device.zeros(8), device.alloc::<u32>(ctas));
        planted::launch_persistent(x, counters, y, ctas as u32, 64, 4, how)
    };
    for how in [1, 2] {
        under_seeds(|| launch(how), || launch(0), &["persistent_kernel", "of 4 bytes at"]);
    }
}

#[test]
fn deadlocks_end() {
    let device = Device::open(0);
    let ctas = 4;
    let (values, y) = (device.zeros(8 * ctas), device.alloc::<f32>(2 * ctas));
    // Nobody arrives.
    let code = planted::launch_grid_barrier(values, device.zeros(4), y, ctas as u32, 1, 2);
    expect_report(code, LAUNCH_FAILED, &["deadlock: every CTA spins"]);
    // Right, but launched without the promise that all CTAs run at a time.
    let code = planted::launch_grid_barrier(values, device.zeros(4), y, ctas as u32, 0, 0);
    expect_report(code, LAUNCH_FAILED, &["deadlock", "not cooperative"]);
}

#[test]
fn without_the_check_races_pass() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(128);
    cuda_emulator::set_races(false);
    assert_eq!(planted::launch_reuse(y, 0), 0);
    cuda_emulator::set_races(true);
    assert_ne!(planted::launch_reuse(y, 0), 0);
    cuda_emulator::clear_error();
}

#[test]
fn seeds_change_what_is_racy_and_nothing_else() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(64);
    cuda_emulator::set_races(false);
    let winners = |by_order: i32| -> Vec<Vec<u32>> {
        let len = if by_order == 1 { 1 } else { 64 };
        (0..SEEDS)
            .map(|seed| {
                cuda_emulator::set_seed(seed);
                assert_eq!(planted::launch_last_writer(y, by_order), 0);
                device.get::<u32>(y, len)
            })
            .collect()
    };
    let right = winners(0);
    assert!(right.iter().all(|values| *values == right[0]));
    let racy = winners(1);
    assert!(racy.iter().any(|values| *values != racy[0]), "{racy:?}");
    assert_eq!(racy, winners(1), "a seed repeats its order");
    cuda_emulator::set_races(true);
    expect_report(planted::launch_last_writer(y, 1), LAUNCH_FAILED, &["race: store"]);
}

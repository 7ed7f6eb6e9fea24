//! Launches of clusters that are refused, that fit, and that wait for multiprocessors that others hold.

mod driver;

use cuda_emulator::Profile;
use cuda_emulator_planted as planted;
use driver::{
    COOPERATIVE_LAUNCH_TOO_LARGE, Device, ILLEGAL_INSTRUCTION, INVALID_CLUSTER_SIZE, NOT_SUPPORTED, expect_report,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Launches `ctas` CTAs in clusters of `size` and checks their ranks.
fn expect_ranks(device: &Device, ctas: u32, threads: u32, size: u32, allowed: bool, cooperative: bool) {
    let y = device.alloc::<u32>(ctas as usize);
    cuda_emulator::set_races(false); // the threads of a CTA store the same
    let code = planted::launch_sized(y, ctas, threads, 0, size, i32::from(allowed), i32::from(cooperative));
    cuda_emulator::set_races(true);
    assert_eq!(code, 0, "{:?}", cuda_emulator::last_report());
    let want: Vec<u32> = (0..ctas).map(|cta| cta % size.max(1)).collect();
    assert_eq!(device.get::<u32>(y, ctas as usize), want);
}

#[test]
fn sizes_of_clusters() {
    let device = Device::open(0);
    for size in 0..=8 {
        expect_ranks(&device, 3 * size.max(1), 32, size, false, false);
        expect_ranks(&device, 2 * size.max(1), 32, size, false, true);
    }
    expect_ranks(&device, 32, 64, 16, true, false);
    expect_ranks(&device, 48, 64, 12, true, true);
    let y = device.alloc::<u32>(64);
    let launch = |ctas, size, allowed| planted::launch_sized(y, ctas, 32, 0, size, allowed, 0);
    expect_report(launch(16, 16, 0), INVALID_CLUSTER_SIZE, &["sized_kernel", "8 are portable"]);
    expect_report(launch(34, 17, 1), INVALID_CLUSTER_SIZE, &["16 are the limit"]);
    expect_report(launch(6, 4, 0), INVALID_CLUSTER_SIZE, &["no multiple of clusters of 4"]);
}

#[test]
fn a_cluster_lies_on_one_gpc() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(64);
    let launch = |threads, shared, size| planted::launch_sized(y, 2 * size, threads, shared, size, 1, 0);
    // 4 multiprocessors: 8 CTAs need room for two on each.
    cuda_emulator::set_races(false);
    assert_eq!(launch(512, 113 << 10, 8), 0, "{:?}", cuda_emulator::last_report());
    expect_report(launch(512, 114 << 10, 8), INVALID_CLUSTER_SIZE, &["a cluster of 8 CTAs, 1 a multiprocessor"]);
    assert_eq!(launch(512, 114 << 10, 4), 0);
    assert_eq!(launch(256, 0, 16), 0);
    expect_report(launch(257, 0, 16), INVALID_CLUSTER_SIZE, &["does not fit the 4 multiprocessors"]);
}

#[test]
fn active_clusters_are_counted() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(64);
    // The first launch makes the kernel known, with its attributes.
    assert_eq!(planted::launch_sized(y, 16, 1, 113 << 10, 16, 1, 0), INVALID_CLUSTER_SIZE);
    let mut clusters = 0;
    for (threads, shared, size, expected) in [
        (256, 0, 1, 16),
        (256, 0, 2, 8),
        (256, 0, 3, 5),
        (256, 0, 16, 1),
        (512, 0, 16, 0),
        (64, 113 << 10, 8, 1),
        (64, 113 << 10, 4, 2),
        (64, 228 << 10, 4, 0),
    ] {
        assert_eq!(planted::active_clusters(threads, shared, size, &mut clusters), 0);
        assert_eq!(clusters, expected, "{threads} threads, {shared} bytes, clusters of {size}");
    }
    assert_eq!(planted::active_clusters(64, 0, 17, &mut clusters), INVALID_CLUSTER_SIZE);
    cuda_emulator::clear_error();
    let _older = Device::open(Profile::A100Like.ordinal() as i32);
    assert_eq!(planted::active_clusters(64, 0, 2, &mut clusters), NOT_SUPPORTED);
}

#[test]
fn a_cooperative_grid_of_clusters_must_be_resident() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(64);
    // 256 threads: 16 CTAs are resident, but only 5 clusters of 3.
    expect_ranks(&device, 15, 256, 3, false, true);
    let code = planted::launch_sized(y, 18, 256, 0, 3, 0, 1);
    expect_report(code, COOPERATIVE_LAUNCH_TOO_LARGE, &["18 CTAs, 15 are resident"]);
}

#[test]
fn older_devices_have_no_clusters() {
    for profile in [Profile::A100Like, Profile::Ada99, Profile::NoCoop] {
        let ordinal = profile.ordinal() as i32;
        let device = Device::open(ordinal);
        let y = device.alloc::<u32>(64);
        assert_eq!(Device::attribute(ordinal, 120), 0);
        expect_report(planted::launch_sized(y, 4, 32, 0, 2, 0, 0), NOT_SUPPORTED, &["no clusters"]);
        assert_eq!(planted::launch_sized(y, 4, 32, 0, 2, 1, 0), NOT_SUPPORTED, "the attribute");
        // Nor the instructions.
        let code = planted::launch_static_exchange(y, 1, 0, 0);
        expect_report(code, ILLEGAL_INSTRUCTION, &["an instruction of sm_90"]);
    }
    assert_eq!(Device::attribute(Profile::Hopper4.ordinal() as i32, 120), 1);
}

/// Runs `launch` on this thread while another releases `held` as soon as the launch waits for it.
fn while_held(held: cuda_emulator::HeldSms, launch: impl FnOnce() -> i32) -> (i32, bool) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waited = scope.spawn(|| {
            let start = Instant::now();
            while !held.launch_waits() && !over.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(30) {
                std::thread::yield_now();
            }
            let waited = held.launch_waits();
            drop(held);
            waited
        });
        let code = launch();
        over.store(true, Ordering::Relaxed);
        (code, waited.join().unwrap())
    })
}

#[test]
fn launches_wait_for_multiprocessors_that_others_hold() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(1024);
    cuda_emulator::set_races(false);
    // 4 multiprocessors, one CTA of 1024 threads on each.
    let cooperative = |ctas| planted::launch_geometry(y, ctas, 1024, 1);
    assert_eq!(while_held(cuda_emulator::hold_sms(1), || cooperative(4)), (0, true));
    assert_eq!(while_held(cuda_emulator::hold_sms(1), || cooperative(3)), (0, false));
    assert_eq!(while_held(cuda_emulator::hold_sms(4), || cooperative(1)), (0, true));
    // A cooperative launch that can never fit is refused and does not wait. A plain launch waits for one multiprocessor only.
    assert_eq!(while_held(cuda_emulator::hold_sms(1), || cooperative(5)), (COOPERATIVE_LAUNCH_TOO_LARGE, false));
    cuda_emulator::clear_error();
    let plain = || planted::launch_geometry(y, 9, 1024, 0);
    assert_eq!(while_held(cuda_emulator::hold_sms(3), plain), (0, false));
    assert_eq!(while_held(cuda_emulator::hold_sms(4), plain), (0, true));
    // A cluster needs room for itself.
    let cluster = || planted::launch_sized(y, 8, 512, 0, 8, 0, 0);
    assert_eq!(while_held(cuda_emulator::hold_sms(1), cluster), (0, true));
    assert_eq!(planted::launch_sized(y, 8, 512, 0, 8, 0, 0), 0);
    // Holds add up, and concern the thread that asked for them alone.
    let (two, one) = (cuda_emulator::hold_sms(2), cuda_emulator::hold_sms(1));
    assert_eq!(cooperative(1), 0);
    let elsewhere = std::thread::spawn(move || {
        let _device = Device::open(0);
        cuda_emulator::set_races(false);
        planted::launch_geometry(y, 4, 1024, 1)
    });
    assert_eq!(elsewhere.join().unwrap(), 0);
    drop(two);
    assert_eq!(while_held(one, || cooperative(4)), (0, true));
}

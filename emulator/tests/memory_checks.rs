//! Bounds, alignment and memory that nobody wrote: each check finds its planted bug, and the correct twin passes.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, ILLEGAL_ADDRESS, ILLEGAL_STATE, INVALID_VALUE, LAUNCH_FAILED, MISALIGNED_ADDRESS, expect_report};

const N: usize = 100;

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32).collect()
}

#[test]
fn load_behind_an_allocation() {
    let device = Device::open(0);
    let (x, y) = (device.put(&ramp(N)), device.alloc::<f32>(N + 1));
    assert_eq!(planted::launch_copy(x, y, N as i32), 0);
    assert_eq!(device.get::<f32>(y, N), ramp(N));
    let code = planted::launch_copy(x, y, N as i32 + 1);
    expect_report(
        code,
        ILLEGAL_ADDRESS,
        &["copy_kernel", "CTA (1,0,0) thread (36,0,0)", "load of 4 bytes", "byte 400 of"],
    );
}

#[test]
fn store_behind_an_allocation() {
    let device = Device::open(0);
    let (x, y) = (device.put(&ramp(N + 1)), device.alloc::<f32>(N));
    assert_eq!(planted::launch_copy(x, y, N as i32), 0);
    let code = planted::launch_copy(x, y, N as i32 + 1);
    expect_report(code, ILLEGAL_ADDRESS, &["store of 4 bytes", "byte 400 of"]);
}

#[test]
fn load_before_an_allocation_and_of_freed_memory() {
    let device = Device::open(0);
    let (x, y) = (device.put(&ramp(N)), device.alloc::<f32>(N));
    expect_report(planted::launch_copy(x - 4, y, 1), ILLEGAL_ADDRESS, &["byte -4 of"]);
    assert_eq!(planted::launch_copy(x, y, 1), 0);
    assert_eq!(device.free(x), 0);
    expect_report(planted::launch_copy(x, y, 1), ILLEGAL_ADDRESS, &["load"]);
    assert_eq!(device.free(x), INVALID_VALUE, "freed twice");
}

#[test]
fn host_memory_and_null() {
    let device = Device::open(0);
    let host = ramp(N);
    let y = device.alloc::<f32>(N);
    expect_report(planted::launch_copy(host.as_ptr() as u64, y, 1), ILLEGAL_ADDRESS, &["outside of device memory"]);
    expect_report(planted::launch_copy(0, y, 1), ILLEGAL_ADDRESS, &["load of 4 bytes at 0x0"]);
}

#[test]
fn memory_of_another_device() {
    let other = Device::open(1);
    let x = other.put(&ramp(N));
    let device = Device::open(0);
    let y = device.alloc::<f32>(N);
    expect_report(planted::launch_copy(x, y, 1), ILLEGAL_ADDRESS, &["on device 1"]);
}

#[test]
fn sixteen_bytes_want_sixteen() {
    let device = Device::open(0);
    let (x, y) = (device.put(&ramp(N)), device.alloc::<f32>(N));
    for launch in [planted::launch_copy16, planted::launch_copy16_plain] {
        assert_eq!(launch(x, y, 8), 0);
        assert_eq!(launch(x + 16, y + 16, 8), 0);
        expect_report(launch(x + 8, y, 8), MISALIGNED_ADDRESS, &["load of 16 bytes"]);
        expect_report(launch(x, y + 4, 8), MISALIGNED_ADDRESS, &["store of 16 bytes"]);
    }
}

#[test]
fn dynamic_shared_memory_has_an_end() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(128);
    assert_eq!(planted::launch_dynamic_shared(y, 1000, 1000, 0), 0);
    let code = planted::launch_dynamic_shared(y, 1004, 1000, 0);
    expect_report(code, ILLEGAL_ADDRESS, &["dynamic_shared_kernel", "byte 1000 of 1000 of dynamic shared memory"]);
}

#[test]
fn output_that_was_not_written() {
    let device = Device::open(0);
    let (x, y) = (device.put(&ramp(N)), device.alloc::<f32>(N));
    assert_eq!(planted::launch_scale(x, y, N as i32, 1), 0);
    expect_report(
        device.try_get::<f32>(y, N).unwrap_err(),
        ILLEGAL_STATE,
        &["4 of them were never written", "byte 396"],
    );
    cuda_emulator::set_strict_copies(false);
    assert!(device.get::<f32>(y, N)[N - 1].is_nan());
    cuda_emulator::set_strict_copies(true);
    assert_eq!(planted::launch_scale(x, y, N as i32, 0), 0);
    assert_eq!(device.get::<f32>(y, N)[N - 1], 198.0);
}

#[test]
fn read_of_poison() {
    let device = Device::open(0);
    let (x, y) = (device.alloc::<f32>(N), device.alloc::<f32>(N));
    let code = planted::launch_copy(x, y, N as i32);
    expect_report(code, LAUNCH_FAILED, &["never written", "load of 4 bytes"]);
}

#[test]
fn shared_memory_is_poison_in_every_cta() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(128);
    for _ in 0..3 {
        assert_eq!(planted::launch_shared_poison(y, 1), 0, "{:?}", cuda_emulator::last_report());
        assert_eq!(device.get::<f32>(y, 128), vec![4.0; 128]);
        let code = planted::launch_shared_poison(y, 0);
        expect_report(code, LAUNCH_FAILED, &["never written", "byte 0 of shared variable", "value"]);
    }
}

#[test]
fn traffic_is_counted_to_the_byte() {
    let device = Device::open(0);
    let (x, y) = (device.put(&ramp(N)), device.alloc::<f32>(N));
    let bytes = 4 * N as u64;
    for passes in [1, 2] {
        let (x_before, y_before) = (cuda_emulator::traffic_of(x).unwrap(), cuda_emulator::traffic_of(y).unwrap());
        cuda_emulator::reset_traffic();
        assert_eq!(planted::launch_passes(x, y, N as i32, passes), 0);
        let traffic = cuda_emulator::traffic();
        assert_eq!((traffic.loaded, traffic.stored), (passes as u64 * bytes, bytes));
        let (x_after, y_after) = (cuda_emulator::traffic_of(x).unwrap(), cuda_emulator::traffic_of(y).unwrap());
        assert_eq!(x_after.loaded - x_before.loaded, passes as u64 * bytes);
        assert_eq!((x_after.stored, y_after.loaded), (0, 0));
        assert_eq!(y_after.stored - y_before.stored, bytes);
    }
}

/// The values of `enum How` in kernels/early.cu.
#[test]
fn early_launches_wait_before_they_touch_global_memory() {
    let device = Device::open(0);
    let (x, y, counter) = (device.put(&ramp(N)), device.alloc::<f32>(N), device.zeros(4));
    let early = |programmatic, how| planted::launch_early(x, y, counter, N as i32, programmatic, how);
    assert_eq!(early(1, 0), 0, "{:?}", cuda_emulator::last_report());
    assert_eq!(device.get::<f32>(y, N), ramp(N));
    let words = "before grid_dependency_wait";
    for (how, access) in
        [(1, "load of 4 bytes"), (2, "load of 4 bytes"), (3, "store of 4 bytes"), (4, "of 4 bytes"), (5, "of 4 bytes")]
    {
        assert_eq!(early(0, how), 0, "in order, {how}: {:?}", cuda_emulator::last_report());
        expect_report(early(1, how), LAUNCH_FAILED, &["early_kernel", access, words]);
    }
}

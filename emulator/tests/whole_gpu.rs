//! The profile of a whole GPU: clusters over GPCs of several sizes, grids of hundreds of CTAs.

mod driver;

use cuda_emulator::Profile;
use cuda_emulator_planted as planted;
use driver::{COOPERATIVE_LAUNCH_TOO_LARGE, Device, INVALID_CLUSTER_SIZE, expect_report};

#[test]
fn clusters_lie_on_gpcs_of_several_sizes() {
    let device = Device::open(Profile::H100.ordinal() as i32);
    let y = device.alloc::<u32>(64);
    assert_eq!(planted::launch_sized(y, 16, 1, 227 << 10, 16, 1, 0), 0, "a first launch makes the kernel known");
    let mut clusters = 0;
    for (shared, size, expected) in [
        (227 << 10, 2, 66),
        (227 << 10, 4, 31),
        (227 << 10, 8, 15),
        (227 << 10, 16, 7), // not on the GPC of 14
        (113 << 10, 2, 132),
        (113 << 10, 4, 66),
        (113 << 10, 8, 31),
        (113 << 10, 16, 15),
    ] {
        assert_eq!(planted::active_clusters(256, shared, size, &mut clusters), 0);
        assert_eq!(clusters, expected, "{shared} bytes, clusters of {size}");
    }
    assert_eq!(planted::active_clusters(256, 0, 17, &mut clusters), INVALID_CLUSTER_SIZE);
    cuda_emulator::clear_error();
}

/// More CTAs in all than the emulator has workers: launches of other host threads wait until theirs are free.
#[test]
fn grids_that_fill_the_device_from_several_threads() {
    let launch = || {
        let device = Device::open(Profile::H100.ordinal() as i32);
        let ctas = 264;
        let (values, counter, y) = (device.alloc::<f32>(2 * ctas), device.zeros(4), device.alloc::<f32>(2 * ctas));
        let code = planted::launch_grid_barrier(values, counter, y, ctas as u32, 1, 0);
        assert_eq!(code, 0, "{:?}", cuda_emulator::last_report());
        assert_eq!(device.get::<f32>(y, 2 * ctas), vec![(ctas * (ctas + 1) / 2) as f32; 2 * ctas]);
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(launch))));
    let device = Device::open(Profile::H100.ordinal() as i32);
    let y = device.alloc::<f32>(1);
    let code = planted::launch_geometry(y, 265, 1024, 1);
    expect_report(code, COOPERATIVE_LAUNCH_TOO_LARGE, &["265 CTAs, 132 are resident"]);
}

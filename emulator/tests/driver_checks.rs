//! The driver: what it refuses, what it says of itself, and faults on demand.

mod driver;

use cuda_emulator::Profile;
use cuda_emulator_planted as planted;
use driver::{
    COOPERATIVE_LAUNCH_TOO_LARGE, Device, ILLEGAL_ADDRESS, INVALID_CONFIGURATION, INVALID_VALUE, NO_BINARY_FOR_GPU,
    NOT_SUPPORTED, OUT_OF_MEMORY, STREAM_CAPTURE_UNSUPPORTED, driver_call, expect_report,
};
use std::ffi::c_void;

#[test]
fn both_names_lead_to_one_device() {
    for name in ["libcuda.so", "libcuda.so.1"] {
        // SAFETY: the library is loaded already; its initializers have run.
        let library = unsafe { libloading::Library::new(name) }.unwrap();
        // SAFETY: the driver API gives the function this type.
        let version = unsafe { library.get::<unsafe extern "C" fn(&mut i32) -> i32>(b"cuDriverGetVersion") }.unwrap();
        let mut number = 0;
        // SAFETY: as above.
        assert_eq!(unsafe { version(&mut number) }, 0);
        assert_eq!(number, 13000);
    }
}

#[test]
fn devices_say_that_they_are_emulated() {
    let _device = Device::open(0);
    let names = ["hopper4", "a100like", "ada99", "nocoop", "turing", "memory", "h100"];
    let opt_in = [227, 163, 99, 99, 64, 227, 227];
    let capability = [(9, 0), (8, 0), (8, 9), (8, 6), (7, 5), (9, 0), (9, 0)];
    for profile in Profile::ALL {
        let at = profile.ordinal();
        let ordinal = at as i32;
        assert_eq!(Device::name(ordinal), format!("emulated ({})", names[at]));
        assert_eq!(Device::attribute(ordinal, 97), opt_in[at] * 1024);
        assert_eq!((Device::attribute(ordinal, 75), Device::attribute(ordinal, 76)), capability[at]);
        assert_eq!(Device::attribute(ordinal, 95), i32::from(profile != Profile::NoCoop));
    }
}

#[test]
fn no_time_is_told() {
    let _device = Device::open(0);
    let mut events = [std::ptr::null_mut::<c_void>(); 2];
    for event in &mut events {
        assert_eq!(driver_call!(cuEventCreate(event => &mut *mut c_void, 0 => u32)), 0);
        assert_eq!(driver_call!(cuEventRecord(*event => *mut c_void, std::ptr::null_mut() => *mut c_void)), 0);
    }
    let mut time = 0.0;
    let [start, end] = events;
    let code = driver_call!(cuEventElapsedTime(&mut time => &mut f32, start => *mut c_void, end => *mut c_void));
    assert_eq!(code, NOT_SUPPORTED);
    assert_eq!(cuda_emulator::live().events, 2);
    for event in events {
        assert_eq!(driver_call!(cuEventDestroy_v2(event => *mut c_void)), 0);
    }
    assert_eq!(cuda_emulator::live().events, 0);
}

#[test]
fn capture_is_refused_with_its_code() {
    let _device = Device::open(0);
    let mut stream = std::ptr::null_mut::<c_void>();
    assert_eq!(driver_call!(cuStreamCreate(&mut stream => &mut *mut c_void, 1 => u32)), 0);
    assert_eq!(driver_call!(cuStreamBeginCapture_v2(stream => *mut c_void, 0 => u32)), STREAM_CAPTURE_UNSUPPORTED);
    let mut status = 9;
    assert_eq!(driver_call!(cuStreamIsCapturing(stream => *mut c_void, &mut status => &mut u32)), 0);
    assert_eq!(status, 0);
    assert_eq!(cuda_emulator::live().streams, 1);
    assert_eq!(driver_call!(cuStreamDestroy_v2(stream => *mut c_void)), 0);
    assert_eq!(cuda_emulator::live().streams, 0);
    assert_ne!(driver_call!(cuStreamSynchronize(stream => *mut c_void)), 0, "a stream that is gone");
}

#[test]
fn what_is_not_freed_is_seen() {
    let device = Device::open(0);
    let before = cuda_emulator::live();
    let (kept, freed) = (device.alloc::<u8>(1000), device.alloc::<u8>(24));
    assert_eq!(device.free(freed), 0);
    let after = cuda_emulator::live();
    assert_eq!((after.allocations - before.allocations, after.bytes - before.bytes), (1, 1000));
    // Nobody else's count: another thread sees none.
    let elsewhere = std::thread::spawn(cuda_emulator::live).join().unwrap();
    assert_eq!(elsewhere.allocations, 0);
    assert_eq!(device.free(kept), 0);
    assert_eq!(cuda_emulator::live(), before);
}

#[test]
fn memory_ends() {
    let device = Device::open(Profile::Memory.ordinal() as i32);
    let half = device.try_alloc(32 << 20).unwrap();
    assert_eq!(device.try_alloc((32 << 20) + 1), Err(OUT_OF_MEMORY));
    let rest = device.try_alloc(32 << 20).unwrap();
    assert_eq!(device.try_alloc(1), Err(OUT_OF_MEMORY));
    for address in [half, rest] {
        assert_eq!(device.free(address), 0);
    }
    assert_eq!(device.try_alloc(0), Err(INVALID_VALUE));
    let all = device.try_alloc(64 << 20).unwrap();
    assert_eq!(device.free(all), 0);
}

#[test]
fn a_default_pool_has_a_release_threshold() {
    const RELEASE_THRESHOLD: i32 = 4;
    let pool_of = |ordinal: i32| {
        let mut pool = std::ptr::null_mut::<c_void>();
        let code = driver_call!(cuDeviceGetDefaultMemPool(&mut pool => &mut *mut c_void, ordinal => i32));
        (code, pool)
    };
    for profile in Profile::ALL {
        let ordinal = profile.ordinal() as i32;
        let device = Device::open(ordinal);
        let (code, pool) = pool_of(ordinal);
        let mut address = 0;
        let allocated = driver_call!(
            cuMemAllocAsync(&mut address => &mut u64, 64 => usize, std::ptr::null_mut() => *mut c_void)
        );
        if profile == Profile::NoCoop {
            assert_eq!((Device::attribute(ordinal, 115), code, allocated), (0, NOT_SUPPORTED, NOT_SUPPORTED));
            continue;
        }
        assert_eq!((Device::attribute(ordinal, 115), code, allocated), (1, 0, 0));
        assert_eq!(device.free(address), 0);
        let (mut threshold, attribute) = (9u64, RELEASE_THRESHOLD);
        let (mut call, other) = (
            || {
                let code = driver_call!(
                    cuMemPoolGetAttribute(pool => *mut c_void, attribute => i32, &mut threshold => &mut u64)
                );
                (code, threshold)
            },
            attribute + 1,
        );
        assert_eq!(call(), (0, 0), "the default gives everything back");
        let mut most = u64::MAX;
        let set = |pool: *mut c_void, attribute: i32, value: &mut u64| driver_call!(cuMemPoolSetAttribute(pool => *mut c_void, attribute => i32, value => &mut u64));
        assert_eq!(set(pool, attribute, &mut most), 0);
        assert_eq!(call(), (0, u64::MAX));
        assert_eq!(set(pool, other, &mut most), INVALID_VALUE);
        assert_eq!(set(std::ptr::null_mut(), attribute, &mut most), INVALID_VALUE);
        most = 0;
        assert_eq!(set(pool, attribute, &mut most), 0);
        assert_eq!(call(), (0, 0));
    }
    assert_ne!(pool_of(99).0, 0);
}

#[test]
fn shared_memory_wants_an_opt_in() {
    for profile in [Profile::Hopper4, Profile::A100Like, Profile::Ada99] {
        let ordinal = profile.ordinal() as i32;
        let device = Device::open(ordinal);
        let most = Device::attribute(ordinal, 97) as u32;
        let y = device.alloc::<f32>(128);
        assert_eq!(planted::launch_no_opt_in(y, 48 << 10), 0);
        let code = planted::launch_no_opt_in(y, (48 << 10) + 1);
        expect_report(code, INVALID_VALUE, &["no_opt_in_kernel", "49152 are allowed"]);
        assert_eq!(planted::launch_dynamic_shared(y, most as i32, most, 1), 0, "{:?}", cuda_emulator::last_report());
        assert_eq!(planted::launch_dynamic_shared(y, 4, most + 1, 1), INVALID_VALUE);
        cuda_emulator::clear_error();
    }
}

#[test]
fn grids_have_limits() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(1024);
    assert_eq!(planted::launch_geometry(y, 1, 1024, 0), 0);
    for (ctas, threads) in [(1, 1025), (1, 0), (0, 32), (1 << 31, 32)] {
        let code = planted::launch_geometry(y, ctas, threads, 0);
        expect_report(code, INVALID_CONFIGURATION, &["refused"]);
    }
}

#[test]
fn a_cooperative_grid_must_be_resident() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(1024);
    let mut blocks = 0;
    for (threads, bytes, expected) in [(256, 0, 4), (1024, 0, 1), (32, 0, 32), (256, 48 << 10, 4), (64, 40 << 10, 5)] {
        assert_eq!(planted::occupancy(threads, bytes, &mut blocks), 0);
        assert_eq!(blocks, expected, "{threads} threads, {bytes} bytes");
    }
    let code = planted::launch_geometry(y, 4 + 1, 1024, 1);
    expect_report(code, COOPERATIVE_LAUNCH_TOO_LARGE, &["5 CTAs, 4 are resident"]);
    cuda_emulator::set_races(false); // the CTAs write the same values
    assert_eq!(planted::launch_geometry(y, 4, 1024, 1), 0);
    assert_eq!(planted::launch_geometry(y, 5, 1024, 0), 0);

    let without = Device::open(Profile::NoCoop.ordinal() as i32);
    let y = without.alloc::<f32>(1024);
    assert_eq!(planted::launch_geometry(y, 1, 32, 0), 0);
    expect_report(planted::launch_geometry(y, 1, 32, 1), NOT_SUPPORTED, &["no cooperative launch"]);
}

#[test]
fn old_devices_have_no_kernels() {
    let device = Device::open(Profile::Turing.ordinal() as i32);
    let y = device.alloc::<f32>(32);
    expect_report(planted::launch_geometry(y, 1, 32, 0), NO_BINARY_FOR_GPU, &["older than sm_80"]);
}

#[test]
fn every_call_can_fail() {
    let device = Device::open(0);
    let before = cuda_emulator::calls();
    let work = || -> Result<(), i32> {
        let y = device.try_alloc(128)?;
        let launched = planted::launch_no_opt_in(y, 0);
        let read = if launched == 0 { device.try_get::<f32>(y, 32).map(|_| ()) } else { Err(launched) };
        let freed = device.free(y);
        read?;
        if freed == 0 { Ok(()) } else { Err(freed) }
    };
    work().unwrap();
    let calls = cuda_emulator::calls() - before;
    assert_eq!(calls, 4);
    for k in 1..=calls {
        cuda_emulator::fail_call(k, 999);
        assert_eq!(work(), Err(999), "call {k}");
        assert!(!cuda_emulator::fault_pending());
    }
    // The failed free freed nothing.
    assert_eq!(cuda_emulator::live().allocations, 1);
    cuda_emulator::fail_call(calls + 1, 999);
    work().unwrap();
    assert!(cuda_emulator::fault_pending());
    cuda_emulator::clear_faults();
    assert_eq!(work(), Ok(()));
}

#[test]
fn a_failed_launch_stays_with_its_thread() {
    let device = Device::open(0);
    let (x, y) = (device.put(&[1.0f32; 64]), device.alloc::<f32>(64));
    let sync = || driver_call!(cuCtxSynchronize());
    assert_eq!(planted::launch_copy(0, y, 64), ILLEGAL_ADDRESS);
    assert_eq!(sync(), ILLEGAL_ADDRESS);
    assert_eq!(planted::launch_copy(x, y, 64), ILLEGAL_ADDRESS);
    assert_eq!(device.try_alloc(4), Err(ILLEGAL_ADDRESS));
    std::thread::spawn(move || {
        let _device = Device::open(0);
        assert_eq!(planted::launch_copy(x, y, 64), 0);
    })
    .join()
    .unwrap();
    // Memory is freed, and the error reported all the same.
    let live = cuda_emulator::live().allocations;
    assert_eq!(device.free(x), ILLEGAL_ADDRESS);
    assert_eq!(cuda_emulator::live().allocations, live - 1);
    cuda_emulator::clear_error();
    assert_eq!((sync(), cuda_emulator::last_report()), (0, None));
}

#[test]
fn launches_of_many_threads_run_side_by_side() {
    let threads: Vec<_> = (0..8)
        .map(|seed| {
            std::thread::spawn(move || {
                let device = Device::open(seed % 3);
                cuda_emulator::set_seed(seed as u64);
                let values: Vec<f32> = (0..1000).map(|i| (i % 5) as f32).collect();
                let (x, sums) = (device.put(&values), device.alloc::<f32>(3));
                for _ in 0..50 {
                    cuda_emulator::reset_traffic();
                    let code = planted::launch_block_sums(x, sums, 1000, 3, 96);
                    assert_eq!(code, 0, "{:?}", cuda_emulator::last_report());
                    assert_eq!(device.get::<f32>(sums, 3).iter().sum::<f32>(), 2000.0);
                    assert_eq!(cuda_emulator::traffic(), cuda_emulator::Traffic { loaded: 4000, stored: 12 });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

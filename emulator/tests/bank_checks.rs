//! Wavefronts of shared memory: planted bank conflicts are counted, and accesses without any are ideal.

mod driver;

use cuda_emulator::{Wavefronts, count_wavefronts, set_seed, wavefronts, worst_wavefronts};
use cuda_emulator_planted as planted;
use driver::Device;

const THREADS: u32 = 64;

/// The wavefronts of a launch.
fn counted(launch: impl FnOnce() -> i32) -> Wavefronts {
    count_wavefronts(true);
    assert_eq!(launch(), 0, "{:?}", cuda_emulator::last_report());
    count_wavefronts(false);
    wavefronts()
}

fn found(needed: u64, ideal: u64) -> Wavefronts {
    Wavefronts { needed, ideal }
}

#[test]
fn a_stride_of_eight_slots_is_an_eight_way_conflict() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(3 * THREADS as usize);
    // A store and a load; two warps of four phases each; three CTAs.
    let phases = 2 * 2 * 4 * 3;
    for seed in 0..3 {
        set_seed(seed);
        for (stride, ways) in [(8, 8), (64, 8), (12, 4), (10, 2), (9, 1), (65, 1)] {
            let seen = counted(|| planted::launch_rows(y, 3, THREADS, stride, 1));
            assert_eq!(seen, found(ways * phases, phases), "stride {stride}");
        }
    }
    count_wavefronts(true);
    assert_eq!(planted::launch_rows(y, 1, THREADS, 64, 1), 0);
    let (place, worst) = worst_wavefronts().expect("there are accesses");
    assert!(place.contains("rows_kernel<Slot>"), "{place}");
    assert_eq!(worst, found(64, 8));
}

/// Accesses that are not aligned to 16 bytes go word by word, 32 lanes a phase: each bank of a slot's first words is that of four lanes
/// at best.
#[test]
fn words_that_lie_together_are_apart_for_nvcc() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(THREADS as usize);
    // A store and a load of four words; two warps.
    let phases = 2 * 4 * 2;
    assert_eq!(counted(|| planted::launch_rows(y, 1, THREADS, 64, 0)), found(8 * phases, phases));
    assert_eq!(counted(|| planted::launch_rows(y, 1, THREADS, 9, 0)), found(4 * phases, phases));
}

/// The accesses of a loop are told apart, also where each warp takes another number of turns and where lanes meet in between.
/// The last load is of one word.
#[test]
fn each_turn_of_a_loop_is_an_access_of_its_own() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(THREADS as usize);
    for seed in 0..3 {
        set_seed(seed);
        for shuffles in [0, 1] {
            for (bytes, phases_a_warp) in [(2, 1), (4, 1), (8, 2)] {
                let phases = (5 + 4) * 2 * phases_a_warp;
                // Eight bytes of all lanes that load the same are one phase in each half warp.
                let broadcast = 2 * phases_a_warp;
                for (stride, ways) in [(1, 1), (2, 2), (4, 4), (8, 8), (3, 1), (33, 1)] {
                    let ways = match bytes {
                        2 => [1, ways / 2][usize::from(ways > 1)], // two neighbours have one word
                        _ => ways,
                    };
                    if bytes == 2 && stride % 2 == 1 && stride > 1 {
                        continue; // words of odd strides overlap irregularly
                    }
                    let seen = counted(|| planted::launch_words(y, THREADS, stride, 5, shuffles, bytes));
                    let context = format!("{bytes} bytes, stride {stride}, {shuffles}");
                    assert_eq!(seen, found(ways * phases + broadcast, phases + broadcast), "{context}");
                }
            }
        }
    }
}

#[test]
fn lanes_that_do_not_take_part_are_left_out() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(1);
    // Two warps' stores and a load.
    assert_eq!(counted(|| planted::launch_some_lanes(y, 3)), found(3, 3));
}

#[test]
fn nothing_is_counted_unless_asked_for() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(THREADS as usize);
    assert_eq!(counted(|| planted::launch_some_lanes(y, 32)), found(3, 3));
    assert_eq!(planted::launch_some_lanes(y, 32), 0);
    assert_eq!(wavefronts(), found(3, 3), "it was switched off");
    count_wavefronts(true);
    assert_eq!((wavefronts(), worst_wavefronts()), (found(0, 0), None), "it begins at 0");
    count_wavefronts(false);
}

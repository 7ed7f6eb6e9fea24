//! Collectives: right results, and every way not to come together.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, LAUNCH_FAILED, expect_report};

#[test]
fn shuffles_that_diverge() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(32);
    let expected: [(i32, Option<&str>); 8] = [
        (0, None),
        (1, Some("deadlock")),
        (2, Some("other masks")),
        (3, Some("reads from a lane that is not in the mask")),
        (4, Some("not in its own mask")),
        (5, None),
        (6, None),
        (7, Some("has exited")),
    ];
    for seed in 0..5 {
        cuda_emulator::set_seed(seed);
        for (how, wrong) in expected {
            let code = planted::launch_shuffle(y, how);
            match wrong {
                Some(words) => expect_report(code, LAUNCH_FAILED, &["shuffle_kernel", words]),
                None => assert_eq!(code, 0, "{how}: {:?}", cuda_emulator::last_report()),
            }
        }
    }
}

#[test]
fn barriers_that_not_everyone_reaches() {
    let device = Device::open(0);
    let y = device.alloc::<f32>(64);
    assert_eq!(planted::launch_barrier(y, 0), 0);
    assert_eq!(planted::launch_barrier(y, 2), 0);
    let words = ["barrier_kernel", "deadlock", "of 64 threads 63 are at __syncthreads, 1 in a warp collective"];
    expect_report(planted::launch_barrier(y, 1), LAUNCH_FAILED, &words);
}

#[test]
fn collectives_give_what_the_manual_says() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(64 * 12);
    assert_eq!(planted::launch_collectives(y), 0);
    let got = device.get::<u32>(y, 64 * 12);
    let thirds = (0..32).filter(|lane| lane % 3 == 0).fold(0, |bits, lane| bits | 1u32 << lane);
    for t in 0..64u32 {
        let (lane, warp) = (t % 32, t / 32 * 32);
        let expected = [
            thirds,
            1,
            0,
            warp + 5,
            warp + lane / 8 * 8 + 5,
            warp + (lane ^ 9),
            if lane + 3 < 32 { t + 3 } else { t },
            if lane % 16 >= 3 { t - 3 } else { t },
            t ^ 1,
            13,
            1,
            0,
        ];
        assert_eq!(got[t as usize * 12..][..12], expected, "thread {t}");
    }
}

#[test]
fn threads_know_where_they_are() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(24 * 30);
    assert_eq!(planted::launch_position(y), 0);
    let got = device.get::<u32>(y, 24 * 30);
    for cta in 0..24 {
        for thread in 0..30 {
            let block = cta % 2 + 10 * (cta / 2 % 3) + 100 * (cta / 6);
            let expected = block + 1000 * (thread % 5) + 10000 * (thread / 5 % 3) + 100_000 * (thread / 15);
            assert_eq!(got[(cta * 30 + thread) as usize], expected);
        }
    }
}

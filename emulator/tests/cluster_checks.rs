//! Clusters: right exchanges, barriers and sizes, and each planted bug found.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, ILLEGAL_ADDRESS, LAUNCH_FAILED, MISALIGNED_ADDRESS, expect_report};

const SEEDS: u64 = 6;

/// The values of `enum How` in kernels/cluster.cu.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
enum How {
    Right,
    NoStart,
    NoFence,
    NoExpect,
    NoWait,
    OneMailbox,
    WrongParity,
    NoBarrier,
    EarlyExit,
    Beyond,
    Misaligned,
    NoInit,
    InitTwice,
    LateExpect,
    TooManyBytes,
    PlainWrite,
    WrongRank,
    PlainBarrier,
    GlobalByAsync,
    TwoArrivals,
    LateSend,
    Unordered,
    LateRead,
    Leave,
    RelaxedStart,
    RelaxedNoFence,
    RelaxedGlobal,
}

struct Exchange {
    device: Device,
    ctas: u32,
    threads: u32,
    size: u32,
    rounds: u32,
    cooperative: bool,
}

impl Exchange {
    fn new(size: u32) -> Exchange {
        Exchange { device: Device::open(0), ctas: 2 * size, threads: 64, size, rounds: 4, cooperative: false }
    }

    fn run(&self, how: How) -> (i32, u64) {
        let y = self.device.alloc::<u32>((self.ctas * self.threads) as usize);
        let scratch = self.device.zeros(4 * self.ctas as usize);
        let cooperative = i32::from(self.cooperative);
        let (ctas, threads, size, rounds) = (self.ctas, self.threads, self.size, self.rounds);
        let code = planted::launch_exchange(y, scratch, ctas, threads, size, rounds, cooperative, how as i32);
        (code, y)
    }

    fn expect_right(&self, how: How) {
        for seed in 0..SEEDS {
            cuda_emulator::set_seed(seed);
            let (code, y) = self.run(how);
            assert_eq!(code, 0, "{how:?}, seed {seed}: {:?}", cuda_emulator::last_report());
            let sum = self.size * (self.size + 1) / 2 * self.size.pow(self.rounds - 1);
            let len = (self.ctas * self.threads) as usize;
            assert_eq!(self.device.get::<u32>(y, len), vec![sum; len], "{how:?}, seed {seed}");
        }
    }

    fn expect_found(&self, how: How, code: i32, words: &[&str]) {
        for seed in 0..SEEDS {
            cuda_emulator::set_seed(seed);
            expect_report(self.run(how).0, code, words);
        }
    }
}

#[test]
fn exchanges_of_all_sizes() {
    for size in [1, 2, 3, 4, 8] {
        Exchange::new(size).expect_right(How::Right);
        Exchange::new(size).expect_right(How::LateExpect);
        Exchange::new(size).expect_right(How::RelaxedStart);
    }
    Exchange { rounds: 9, threads: 256, ctas: 8, ..Exchange::new(4) }.expect_right(How::Right);
    Exchange { cooperative: true, ..Exchange::new(4) }.expect_right(How::Right);
}

#[test]
fn what_is_sent_before_the_receiver_is_ready() {
    let exchange = Exchange::new(4);
    exchange.expect_found(How::NoStart, LAUNCH_FAILED, &["exchange_kernel", "st.async to an mbarrier"]);
    exchange.expect_found(How::Unordered, LAUNCH_FAILED, &["no cluster barrier orders before it"]);
    exchange.expect_found(How::NoFence, LAUNCH_FAILED, &["no fence_mbarrier_init"]);
    exchange.expect_found(How::RelaxedNoFence, LAUNCH_FAILED, &["no fence_mbarrier_init"]);
    exchange.expect_found(How::NoInit, LAUNCH_FAILED, &["mbarrier"]);
    exchange.expect_found(How::InitTwice, LAUNCH_FAILED, &["mbarrier_init of an mbarrier in use"]);
}

#[test]
fn waits_that_never_end() {
    let exchange = Exchange::new(4);
    let missing = ["deadlock", "1 of 1 arrivals"];
    exchange.expect_found(How::NoExpect, LAUNCH_FAILED, &missing);
    exchange.expect_found(How::TooManyBytes, LAUNCH_FAILED, &["deadlock", "0 of 1 arrivals and 16 bytes are missing"]);
}

#[test]
fn the_wrong_phase() {
    // It is over already, so the slots are read too early; in a second round it never ends.
    for rounds in [1, 4] {
        Exchange { rounds, ..Exchange::new(4) }.expect_found(How::WrongParity, LAUNCH_FAILED, &["exchange_kernel"]);
    }
}

#[test]
fn slots_read_too_early() {
    let exchange = Exchange::new(4);
    exchange.expect_found(How::NoWait, LAUNCH_FAILED, &["exchange_kernel", "of 4 bytes at"]);
    exchange.expect_found(
        How::LateRead,
        LAUNCH_FAILED,
        &["race: load of 4 bytes", "not ordered after a store by the st.async"],
    );
}

#[test]
fn slots_written_too_early() {
    for size in [2, 4, 8] {
        let exchange = Exchange::new(size);
        exchange.expect_found(How::OneMailbox, LAUNCH_FAILED, &["race", "st.async"]);
    }
    Exchange::new(2).expect_found(How::PlainWrite, LAUNCH_FAILED, &["race", "not ordered after a store"]);
}

#[test]
fn every_thread_has_read_before_one_sends() {
    let exchange = Exchange { threads: 256, ..Exchange::new(2) };
    exchange.expect_found(How::NoBarrier, LAUNCH_FAILED, &["race", "st.async"]);
    exchange.expect_found(How::LateSend, LAUNCH_FAILED, &["race: st.async of 16 bytes", "not ordered after a load"]);
}

#[test]
fn nobody_leaves_while_data_comes() {
    Exchange::new(4).expect_found(How::EarlyExit, LAUNCH_FAILED, &["exit"]);
    Exchange::new(4).expect_found(How::Leave, LAUNCH_FAILED, &["a CTA exits"]);
}

#[test]
fn mailboxes_have_bounds() {
    let exchange = Exchange::new(4);
    let words = ["st.async out of bounds of shared memory", "byte 144 of 144 of dynamic shared memory"];
    exchange.expect_found(How::Beyond, ILLEGAL_ADDRESS, &words);
    exchange.expect_found(How::Misaligned, MISALIGNED_ADDRESS, &["misaligned st.async"]);
    exchange.expect_found(How::WrongRank, ILLEGAL_ADDRESS, &["a rank that the cluster does not have"]);
}

#[test]
fn mailboxes_in_static_shared_memory() {
    let device = Device::open(0);
    let y = device.alloc::<u32>(16 * 64);
    for seed in 0..SEEDS {
        cuda_emulator::set_seed(seed);
        assert_eq!(planted::launch_static_exchange(y, 16, 8, 0), 0, "{:?}", cuda_emulator::last_report());
        assert_eq!(device.get::<u32>(y, 16 * 64), vec![280; 16 * 64]);
        let code = planted::launch_static_exchange(y, 16, 8, 1);
        expect_report(code, ILLEGAL_ADDRESS, &["st.async out of bounds"]);
    }
}

#[test]
fn mbarriers_are_no_plain_memory() {
    let exchange = Exchange::new(2);
    exchange.expect_found(How::PlainBarrier, LAUNCH_FAILED, &["plain access to an mbarrier"]);
    exchange.expect_found(How::TwoArrivals, LAUNCH_FAILED, &["more arrivals at an mbarrier than its count"]);
}

#[test]
fn only_what_is_sent_is_ordered() {
    let words = ["exchange_kernel", "load of 4 bytes", "allocation"];
    Exchange::new(2).expect_found(How::GlobalByAsync, LAUNCH_FAILED, &words);
    Exchange::new(2).expect_found(How::RelaxedGlobal, LAUNCH_FAILED, &words);
}

#[test]
fn cluster_barriers() {
    let device = Device::open(0);
    let (ctas, threads, size) = (12u32, 96u32, 4u32);
    let expected: [(i32, Option<&str>); 8] = [
        (0, None),
        (1, Some("of 4 bytes at")),
        (2, Some("cluster_wait without cluster_arrive")),
        (3, Some("cluster_arrive twice")),
        (4, Some("exits between cluster_arrive and cluster_wait")),
        (5, Some("deadlock")),
        (6, None),
        (7, Some("of 4 bytes at")),
    ];
    let len = (ctas * threads) as usize;
    for seed in 0..SEEDS {
        cuda_emulator::set_seed(seed);
        for (how, wrong) in expected {
            let (x, y) = (device.alloc::<u32>(len), device.alloc::<u32>(len));
            let code = planted::launch_cluster_barrier(x, y, ctas, threads, size, how);
            match wrong {
                Some(words) => expect_report(code, LAUNCH_FAILED, &["cluster_barrier_kernel", words]),
                None => assert_eq!(code, 0, "{how}: {:?}", cuda_emulator::last_report()),
            }
            if how == 0 {
                let want: Vec<u32> = (0..len as u32).map(|i| i / threads / size * size).collect();
                assert_eq!(device.get::<u32>(y, len), want);
            }
        }
    }
}

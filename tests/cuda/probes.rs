//! The probes: every kind runs (where the emulated device sees each access), and sizes that the device or the buffers do not
//! have are refused.

use batchnorm::Error;
use batchnorm::bench::{Probe, Probes, Storing};

use crate::device::cuda;

/// Bytes of each buffer.
const BYTES: usize = 4 << 20;

#[test]
fn every_kind_runs() {
    let Some(cuda) = cuda() else { return };
    let limits = cuda.limits();
    let mut probes = Probes::new(&cuda, BYTES).unwrap();
    assert_eq!(probes.bytes(), BYTES);
    let mut all = vec![Probe::Empty, Probe::Copy, Probe::TwoReadOneWrite, Probe::TwoReadTwoWrite];
    for threads in [32, 256] {
        // Bytes of which no CTA, no batch and no set is whole.
        let by = |in_flight| Probe::CopyBy { ctas: 3, threads, in_flight, bytes: 50_000, sets: 3 };
        all.extend([4, 8, 16].map(by));
    }
    all.extend([16, 64, 4096].map(|strip_bytes| Probe::Strided { row_bytes: 4096, strip_bytes }));
    if limits.cooperative {
        all.extend([0, 1, 3].map(|rounds| Probe::GridExchange { team: 2, rounds }));
        for by in [Storing::Members, Storing::Neighbours] {
            // Teams that do not fill their part of the device, and nobody; so many vectors that a CTA begins again.
            for team in [0, 1, limits.sms - 1] {
                all.push(Probe::GridExchangeBesideStores { team, rounds: 2, vectors: 3, by });
            }
        }
        all.push(Probe::GridExchangeBesideStores { team: 2, rounds: 9, vectors: 40, by: Storing::Members });
    }
    if limits.clusters[0][0] > 0 {
        all.extend([0, 1, 5].map(|rounds| Probe::ClusterExchange { team: 2, rounds }));
    }
    for probe in all {
        for _ in 0..4 {
            probes.launch(probe).unwrap_or_else(|error| panic!("{probe:?}: {error}"));
        }
        cuda.synchronize().unwrap_or_else(|error| panic!("{probe:?}: {error}"));
    }
}

#[test]
fn sizes_that_are_not_there_are_refused() {
    let Some(cuda) = cuda() else { return };
    let limits = cuda.limits();
    let mut probes = Probes::new(&cuda, 1 << 15).unwrap();
    let by = |ctas, threads, in_flight, bytes, sets| Probe::CopyBy { ctas, threads, in_flight, bytes, sets };
    let grid = 2 * limits.sms;
    let exchange = |team, by| Probe::GridExchangeBesideStores { team, rounds: 1, vectors: 1, by };
    let mut table = vec![
        (by(0, 64, 4, 64, 1), "a grid of at least 1 CTA", 0),
        (by(1, 96, 4, 64, 1), "a power of two from 32 to 256 threads", 96),
        (by(1, 16, 4, 64, 1), "a power of two from 32 to 256 threads", 16),
        (by(1, 512, 4, 64, 1), "a power of two from 32 to 256 threads", 512),
        (by(1, 64, 5, 64, 1), "4, 8 or 16 vectors in flight", 5),
        (by(1, 64, 4, 0, 1), "a multiple of 16 bytes", 0),
        (by(1, 64, 4, 24, 1), "a multiple of 16 bytes", 24),
        (by(1, 64, 4, 1 << 14, 3), "1 to 2 sets of 16384 bytes, as buffers of 32768 have", 3),
        (by(1, 64, 4, 64, 0), "1 to 512 sets of 64 bytes, as buffers of 32768 have", 0),
        (by(1, 64, 4, 1 << 63, 2), "1 to 0 sets of 9223372036854775808 bytes, as buffers of 32768 have", 2),
        (Probe::Strided { row_bytes: 4096, strip_bytes: 8 }, "strips of a power of two from 16 to 4096 bytes", 8),
        (Probe::Strided { row_bytes: 0, strip_bytes: 16 }, "rows that divide 32768 bytes into strips of 16", 0),
        (Probe::Strided { row_bytes: 48, strip_bytes: 16 }, "rows that divide 32768 bytes into strips of 16", 48),
        (Probe::ClusterExchange { team: 3, rounds: 1 }, "a cluster of at most ", 3),
    ];
    let (of_grid, of_sms) = (format!("a team of 1 to {grid} CTAs"), format!("a team of 1 to {} CTAs", limits.sms));
    let bytes = format!("buffers of at least {} bytes", grid * 256 * 16);
    if limits.cooperative {
        table.push((Probe::GridExchange { team: 0, rounds: 1 }, &of_grid, 0));
        table.push((Probe::GridExchange { team: grid + 1, rounds: 1 }, &of_grid, u64::from(grid + 1)));
        table.push((exchange(grid + 1, Storing::Members), &of_grid, u64::from(grid + 1)));
        table.push((exchange(limits.sms + 1, Storing::Neighbours), &of_sms, u64::from(limits.sms + 1)));
    }
    for (probe, words, given) in table {
        match probes.launch(probe) {
            Err(Error::Probe { expected, actual, .. }) => {
                assert!(expected.starts_with(words) && actual == given, "{probe:?}: expected {expected}, got {actual}");
            }
            other => panic!("{probe:?}: {other:?}"),
        }
    }
    if limits.cooperative {
        let mut small = Probes::new(&cuda, 1 << 12).unwrap();
        for by in [Storing::Members, Storing::Neighbours] {
            let refused = small.launch(exchange(1, by)).unwrap_err();
            assert!(matches!(&refused, Error::Probe { expected, actual: 4096, .. } if *expected == bytes), "{refused}");
        }
    }
    // A refused launch has left no error behind.
    probes.launch(Probe::Copy).unwrap();
    cuda.synchronize().unwrap();
}

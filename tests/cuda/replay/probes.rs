//! The probes: exchanges again and again, and streams.

use batchnorm::Cuda;
use batchnorm::bench::{Probe, Probes, Storing};
use batchnorm::plan::Plan;

use crate::device::cuda;

/// The probes, with rounds enough for every receive buffer, both phases of its barrier and every stage of a grid to be used again.
#[test]
fn every_probe() {
    let Some(cuda) = cuda() else { return };
    let limits = cuda.limits();
    let mut all = vec![Probe::Empty, Probe::Copy, Probe::TwoReadOneWrite, Probe::TwoReadTwoWrite];
    let by = |in_flight| Probe::CopyBy { ctas: 3, threads: 64, in_flight, bytes: 2000, sets: 3 };
    all.extend([4, 8, 16].map(by));
    all.extend([16, 64].map(|strip_bytes| Probe::Strided { row_bytes: 256, strip_bytes }));
    // Small buffers: what they hold is in every file.
    launch_all(&cuda, 1 << 13, &all);
    let teams = clusters(&cuda);
    let exchanges = teams.iter().flat_map(|&team| [1, 5, 8].map(|rounds| Probe::ClusterExchange { team, rounds }));
    launch_all(&cuda, 1 << 13, &exchanges.collect::<Vec<_>>());
    if limits.cooperative {
        let ctas = Plan::MIN_CTAS * limits.sms;
        let exchanges = [2, 4, 8, 16, ctas].into_iter().filter(|&team| team <= ctas);
        let exchanges = exchanges.flat_map(|team| [5, 8].map(|rounds| Probe::GridExchange { team, rounds }));
        launch_all(&cuda, 1 << 13, &exchanges.collect::<Vec<_>>());
        let with_stores = Probe::GridExchangeBesideStores { team: 2, rounds: 5, vectors: 3, by: Storing::Members };
        launch_all(&cuda, (ctas * Plan::MAX_THREADS) as usize * 16, &[with_stores]);
    }
}

/// The exchanges of clusters that a small device does not have, and one exchange of all CTAs of a large one.
#[cfg(feature = "emulate")]
#[test]
fn of_a_whole_gpu() {
    if cuda().is_none() {
        return;
    }
    let cuda = crate::device::emulated("h100");
    let teams = clusters(&cuda);
    assert_eq!(teams, [2, 4, 8, 16]);
    let teams = if super::every() == 1 { &teams[..] } else { &teams[3..] };
    let exchanges = teams.iter().map(|&team| Probe::ClusterExchange { team, rounds: 5 });
    let of_grid = Probe::GridExchange { team: Plan::MIN_CTAS * cuda.limits().sms, rounds: 5 };
    launch_all(&cuda, 1 << 13, &exchanges.chain([of_grid]).collect::<Vec<_>>());
}

/// Cluster sizes that the device has.
fn clusters(cuda: &Cuda) -> Vec<u32> {
    let known = [2, 4, 8, 16].into_iter().zip(cuda.limits().clusters[0]);
    known.filter(|&(_, clusters)| clusters > 0).map(|(size, _)| size).collect()
}

/// Launches the probes over buffers of so many bytes.
fn launch_all(cuda: &Cuda, bytes: usize, all: &[Probe]) {
    let mut probes = Probes::new(cuda, bytes).unwrap();
    for &probe in all {
        #[cfg(feature = "emulate")]
        cuda_emulator::reset_traffic();
        probes.launch(probe).and_then(|()| cuda.synchronize()).unwrap_or_else(|error| panic!("{probe:?}: {error}"));
        #[cfg(feature = "emulate")]
        if let Probe::ClusterExchange { team, .. } = probe {
            // Each CTA stores its sum.
            let stored = cuda_emulator::traffic().stored;
            assert!(stored > 0 && stored.is_multiple_of(4 * u64::from(team)), "{probe:?}: {stored} bytes");
        }
    }
}

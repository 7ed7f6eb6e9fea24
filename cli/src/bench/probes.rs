//! The best that a GPU can do, independent of any row: which probes there are, how they are named in the JSON, and their times.

use batchnorm::bench::{Probe, Storing};
use batchnorm::plan::DeviceLimits;
use serde_json::{Value, json};

use super::report::samples_json;
use super::subject::Samples;

/// Seconds of a probe at most: there are many, and each launch takes little.
pub(super) const SECONDS: f64 = 0.06;
/// Parts of the buffers that a copy by few CTAs takes in turn: it would be long over all of them.
const PARTS: usize = 4;

/// Bytes that the probes move, and exchanges that they do.
pub(super) struct Sizes {
    /// Bytes of each buffer.
    pub(super) bytes: usize,
    /// Bytes of a row of the strided copies; it divides `bytes`.
    row_bytes: usize,
    /// Bytes of the copies that L2 holds.
    warm: [usize; 3],
    /// Exchanges of a launch: enough for the launch itself to take little of the time.
    rounds: u32,
}

impl Sizes {
    /// The sizes of probes that are timed: buffers of at least these bytes, which leave nothing in L2.
    pub(super) fn cold(bytes: u64) -> Self {
        let row_bytes = 4096;
        let bytes = (bytes as usize).next_multiple_of(PARTS * row_bytes);
        Self { bytes, row_bytes, warm: [4 << 20, 8 << 20, 16 << 20], rounds: 256 }
    }

    /// The sizes of probes that only have to run.
    pub(super) fn small() -> Self {
        Self { bytes: 1 << 16, row_bytes: 1 << 12, warm: [1 << 12, 1 << 13, 1 << 14], rounds: 4 }
    }
}

/// Every probe: launches, streams, copies by part of the device, strides, exchanges of grids and clusters.
pub(super) fn all(limits: &DeviceLimits, sizes: &Sizes) -> Vec<Probe> {
    let &Sizes { bytes, row_bytes, warm, rounds } = sizes;
    let (sms, grid) = (limits.sms, 2 * limits.sms);
    // An eighth to four CTAs an SM.
    let ctas = [sms / 8, sms / 4, sms / 2, sms, 2 * sms, 4 * sms].map(|ctas| ctas.max(1));
    let by = |ctas, threads, in_flight| {
        let bytes = bytes / PARTS;
        Probe::CopyBy { ctas, threads, in_flight, bytes, sets: PARTS }
    };
    let again = |ctas, bytes, sets| Probe::CopyBy { ctas, threads: 256, in_flight: 8, bytes, sets };

    let mut probes = vec![Probe::Empty, Probe::Copy, Probe::TwoReadOneWrite, Probe::TwoReadTwoWrite];
    probes.extend(ctas.iter().flat_map(|&ctas| [64, 128, 256].map(|threads| by(ctas, threads, 8))));
    // Few SMs are limited by their own bandwidth with this much in flight.
    probes.extend(ctas[..4].iter().map(|&ctas| by(ctas, 256, 16)));
    for size in warm {
        probes.extend([again(ctas[0], size, 1), again(grid, size, 1), again(grid, size, (bytes / size).max(1))]);
    }
    probes.extend([16, 32, 64, 128, 256].map(|strip_bytes| Probe::Strided { row_bytes, strip_bytes }));
    probes.push(Probe::GridExchange { team: grid, rounds: 0 });
    probes.extend([2, 8, 32, grid / 4, grid / 2, grid].map(|team| Probe::GridExchange { team, rounds }));
    for by in [Storing::Members, Storing::Neighbours] {
        for vectors in [8, 32] {
            // The stores alone, and with exchanges.
            let exchange = |team| Probe::GridExchangeBesideStores { team, rounds, vectors, by };
            probes.extend([0, grid / 4].map(exchange));
        }
    }
    probes.extend(
        [2, 4, 8, 16].into_iter().flat_map(|team| [0, rounds].map(|rounds| Probe::ClusterExchange { team, rounds })),
    );
    probes
}

/// One probe in the JSON.
pub(super) fn told(probe: Probe, bytes: usize, limits: &DeviceLimits, samples: Result<Samples, String>) -> Value {
    // Whether the launches touch so much that L2 answers none; null where the probe moves nothing.
    let cold = moved_bytes(probe, bytes).map(|moved| (moved * sets(probe)) as u64 >= 2 * limits.l2_bytes);
    let mut told = json!({ "probe": named(probe, bytes), "cold": cold });
    match samples {
        Ok(samples) => told["seconds"] = samples_json(&samples),
        Err(reason) => told["reason"] = reason.into(),
    }
    told
}

/// The kind of a probe and its parameters, by name.
fn named(probe: Probe, buffer_bytes: usize) -> Value {
    match probe {
        Probe::Empty => json!({ "kind": "empty" }),
        Probe::Copy => json!({ "kind": "copy", "bytes": buffer_bytes }),
        Probe::TwoReadOneWrite => json!({ "kind": "two-read-one-write", "bytes": buffer_bytes }),
        Probe::TwoReadTwoWrite => json!({ "kind": "two-read-two-write", "bytes": buffer_bytes }),
        Probe::CopyBy { ctas, threads, in_flight, bytes, sets } => json!({
            "kind": "copy-by", "ctas": ctas, "threads": threads, "in_flight": in_flight, "bytes": bytes, "sets": sets,
        }),
        Probe::Strided { row_bytes, strip_bytes } => json!({
            "kind": "strided", "row_bytes": row_bytes, "strip_bytes": strip_bytes, "bytes": buffer_bytes,
        }),
        Probe::GridExchange { team, rounds } => json!({ "kind": "grid-exchange", "team": team, "rounds": rounds }),
        Probe::GridExchangeBesideStores { team, rounds, vectors, by } => json!({
            "kind": "grid-exchange-beside-stores", "team": team, "rounds": rounds, "vectors": vectors,
            "by": match by {
                Storing::Members => "members",
                Storing::Neighbours => "neighbours",
            },
        }),
        Probe::ClusterExchange { team, rounds } => {
            json!({ "kind": "cluster-exchange", "team": team, "rounds": rounds })
        }
    }
}

/// Parts of the buffers that the launches of a probe take in turn.
pub(super) fn sets(probe: Probe) -> usize {
    if let Probe::CopyBy { sets, .. } = probe { sets } else { 1 }
}

/// Bytes that a probe reads and writes; `None` where moving them is not what it measures.
fn moved_bytes(probe: Probe, buffer_bytes: usize) -> Option<usize> {
    match probe {
        Probe::CopyBy { bytes, .. } => Some(2 * bytes),
        Probe::Copy | Probe::Strided { .. } => Some(2 * buffer_bytes),
        Probe::TwoReadOneWrite => Some(3 * buffer_bytes),
        Probe::TwoReadTwoWrite => Some(4 * buffer_bytes),
        Probe::Empty
        | Probe::GridExchange { .. }
        | Probe::GridExchangeBesideStores { .. }
        | Probe::ClusterExchange { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject::Way;
    use super::*;

    const H200: DeviceLimits = DeviceLimits::KNOWN[2].1;

    #[test]
    fn no_probe_comes_twice() {
        let probes = all(&H200, &Sizes::cold(4 * H200.l2_bytes));
        for (i, probe) in probes.iter().enumerate() {
            assert!(!probes[..i].contains(probe), "{probe:?}");
        }
    }

    #[test]
    fn a_probe_is_an_object_with_all_its_samples() {
        let probe = Probe::CopyBy { ctas: 16, threads: 64, in_flight: 8, bytes: 4 << 20, sets: 1 };
        let samples = Samples::from([(Way::Graph, vec![1.0, 4.0, 2.0])]);
        let object = json!({
            "probe": { "kind": "copy-by", "ctas": 16, "threads": 64, "in_flight": 8, "bytes": 4194304, "sets": 1 },
            "cold": false,
            "seconds": { "graph": { "median": 2.0, "min": 1.0, "max": 4.0, "samples": [1.0, 4.0, 2.0] } },
        });
        assert_eq!(told(probe, 1 << 30, &H200, Ok(samples)), object);
        let sets = Probe::CopyBy { ctas: 16, threads: 64, in_flight: 8, bytes: 4 << 20, sets: 32 };
        let object = json!({ "probe": { "kind": "copy-by", "ctas": 16, "threads": 64, "in_flight": 8, "bytes": 4194304, "sets": 32 },
            "cold": true, "reason": "no device" });
        assert_eq!(told(sets, 1 << 30, &H200, Err("no device".into())), object);
        let empty = json!({ "probe": { "kind": "empty" }, "cold": null, "reason": "no device" });
        assert_eq!(told(Probe::Empty, 1 << 30, &H200, Err("no device".into())), empty);
    }
}

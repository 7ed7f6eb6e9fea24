//! The planner on its own: no GPU, no kernel. The walk of kernels/common/tile_iterator.cuh is repeated here, to see that every
//! element has exactly one owner.

mod abuse;
mod random;

use std::collections::BTreeMap;

use abuse::Part;
use batchnorm::bench::cost::{self, Constants};
use batchnorm::op::Problem;
use batchnorm::plan::{Access, DeviceLimits, Plan, Tiling};
use batchnorm::{Dtype, Epilogue, Layout, Op, Shape, StatisticsKind, Strategy};
use proptest::prelude::*;
use proptest::strategy::Strategy as Strategy_;

const HOPPER: DeviceLimits = DeviceLimits::KNOWN[1].1;
const SMALL: DeviceLimits =
    DeviceLimits { sms: 4, cooperative: false, clusters: [[2, 1, 0, 0], [4, 2, 1, 0]], l2_bytes: 1 << 20, ..HOPPER };
/// Every known device, and a small one that cannot launch cooperatively.
const DEVICES: [DeviceLimits; 7] = {
    let mut devices = [SMALL; 7];
    let mut i = 0;
    while i < DeviceLimits::KNOWN.len() {
        devices[i] = DeviceLimits::KNOWN[i].1;
        i += 1;
    }
    devices
};
const FORCED: [Option<Strategy>; 5] =
    [None, Some(Strategy::Block), Some(Strategy::Cluster), Some(Strategy::Grid), Some(Strategy::TwoPass)];

fn problem(op: Op, dims: &[usize], layout: Layout, dtype: Dtype, epilogue: Epilogue<()>) -> Problem {
    let epilogue = if op.takes_epilogue() { epilogue } else { Epilogue::IDENTITY };
    Problem::new(op, Shape::new(dims, layout).unwrap(), dtype, epilogue, 1e-5, None).unwrap()
}

/// The flat vector that a thread owns in a iteration, as kernels/common/tile_iterator.cuh has it.
fn owned(t: &Tiling, tile: i64, split: i64, thread: i64, iteration: i64) -> Option<i64> {
    let begin = split * t.chunk;
    match t.access {
        Access::Contiguous | Access::ScalarContiguous => {
            let end = (t.rows * t.width).min(begin + t.chunk);
            let index = begin + thread + iteration * i64::from(t.threads);
            (index < end).then(|| index / t.width * t.row_vectors + tile * t.width + index % t.width)
        }
        Access::Strided | Access::ScalarStrided => {
            let row_stride = i64::from(t.threads) / t.width;
            let (row_of_thread, col) = (thread / t.width, tile * t.width + thread % t.width);
            let row = begin + row_of_thread + iteration * row_stride;
            let owns = row_of_thread < row_stride && col < t.row_vectors && row < t.rows.min(begin + t.chunk);
            owns.then(|| row * t.row_vectors + col)
        }
    }
}

/// The channel of an element, from its place in memory.
fn channel(shape: Shape, index: usize) -> usize {
    match shape.layout() {
        Layout::ChannelsFirst => index / shape.s() % shape.c(),
        Layout::ChannelsLast => index % shape.c(),
    }
}

/// The channel that the kernels think an element has.
fn channel_of_element(t: &Tiling, tile: i64, thread: i64, element: i64, vector: i64) -> usize {
    let within = match t.access {
        Access::Contiguous | Access::ScalarContiguous => 0,
        Access::Strided | Access::ScalarStrided => (thread % t.width * vector + element) / i64::from(t.inner),
    };
    (tile * i64::from(t.tile_channels) + within) as usize
}

fn check_owners(problem: &Problem, plan: &Plan) {
    let (t, shape) = (&plan.tiling, problem.shape());
    let vector = i64::from(t.vector_len(problem.dtype()));
    let mut owners = vec![0u32; shape.len()];
    for tile in 0..i64::from(t.tiles) {
        for split in 0..i64::from(t.splits) {
            for thread in 0..i64::from(t.threads) {
                let mut ended = false;
                for iteration in 0..t.iterations() {
                    let Some(offset) = owned(t, tile, split, thread, iteration) else {
                        ended = true;
                        continue;
                    };
                    assert!(!ended, "a thread's valid iterations come first: {plan:?}");
                    for element in 0..vector {
                        let index = (offset * vector + element) as usize;
                        owners[index] += 1;
                        assert_eq!(
                            channel_of_element(t, tile, thread, element, vector),
                            channel(shape, index),
                            "{plan:?}"
                        );
                    }
                }
            }
        }
    }
    assert!(owners.iter().all(|&owners| owners == 1), "{shape} {plan:?}");
}

fn check_limits(problem: &Problem, limits: &DeviceLimits, plan: &Plan) {
    let t = &plan.tiling;
    assert!(t.shared_bytes <= limits.shared_per_cta, "{plan:?}");
    assert!(t.threads.is_power_of_two() && (32..=Plan::MAX_THREADS).contains(&t.threads), "{plan:?}");
    assert!(t.tile_channels.next_power_of_two() <= t.threads, "{plan:?}");
    assert!(u64::from(t.tiles) * u64::from(t.splits) < 1 << 31, "{plan:?}");
    assert!(t.tiles as usize * t.tile_channels as usize >= problem.shape().c(), "{plan:?}");
    assert!(t.iterations() < 1 << 31, "{plan:?}");
    match plan.strategy {
        Strategy::Block => assert_eq!(t.splits, 1, "{plan:?}"),
        Strategy::Cluster => {
            let mut sizes = [2, 4, 8, 16].into_iter().zip(limits.clusters[0].into_iter().zip(limits.clusters[1]));
            assert!(sizes.any(|(size, clusters)| size == t.splits && clusters.0.max(clusters.1) > 0), "{plan:?}");
        }
        Strategy::Grid => {
            assert!(limits.cooperative && t.exchanges() <= Plan::MAX_EXCHANGES, "{plan:?}");
            // All of it is resident.
            let by_shared = limits.shared_per_sm / (t.shared_bytes + limits.shared_reserved);
            let by_threads = Plan::MIN_CTAS * Plan::MAX_THREADS / t.threads;
            assert!(t.teams * t.splits <= by_shared.min(by_threads) * limits.sms, "{plan:?}");
        }
        Strategy::TwoPass => {}
    }
    assert!(t.teams <= t.tiles && (t.teams == t.tiles || plan.strategy == Strategy::Grid), "{plan:?}");
    let tensors = match (plan.strategy, problem.op()) {
        (Strategy::TwoPass, _) | (_, Op::Moments) => 0,
        (_, Op::Backward(StatisticsKind::Batch)) => 2,
        (_, Op::Train | Op::Infer | Op::Backward(StatisticsKind::Running)) => 1,
    };
    let held = i64::from(t.smem_iters);
    if tensors == 0 {
        assert_eq!(held, 0, "{plan:?}");
    } else if plan.strategy == Strategy::Grid {
        assert!(held > 0 && held <= t.iterations(), "{plan:?}");
    } else {
        assert_eq!(held, t.iterations(), "{plan:?}");
    }
    let vector_bytes = i64::from(t.vector_len(problem.dtype()) * problem.dtype().bytes());
    assert!(i64::from(t.shared_bytes) >= held * tensors * i64::from(t.threads) * vector_bytes, "{plan:?}");
    let partials = (plan.workspace_bytes - Plan::HEAD_BYTES) / Plan::PARTIAL_BYTES;
    let needs = match (plan.strategy, problem.op()) {
        (Strategy::Block | Strategy::Cluster, _) | (_, Op::Infer) => 0,
        (Strategy::Grid, _) => 2 * (t.splits + 1) as usize * (t.teams * t.tile_channels) as usize,
        (Strategy::TwoPass, Op::Backward(StatisticsKind::Batch)) if problem.epilogue().recomputes_v() => {
            2 * t.splits as usize * problem.shape().c()
        }
        (Strategy::TwoPass, _) => t.splits as usize * problem.shape().c(),
    };
    assert_eq!(partials, needs, "{plan:?}");
    assert!(plan.predicted_ns.is_finite() && plan.predicted_ns > 0.0, "{plan:?}");
}

/// A dtype of each size: a plan depends on the size alone.
fn one_of_each_size() -> impl Iterator<Item = Dtype> {
    let sizes: BTreeMap<_, _> = Dtype::ON_CUDA.iter().copied().map(|dtype| (dtype.bytes(), dtype)).collect();
    sizes.into_values()
}

#[test]
fn every_element_of_the_table_has_one_owner() {
    for n in [1, 2, 19] {
        for c in [1, 3, 7, 33, 64, 129] {
            for s in [&[][..], &[2], &[7, 7], &[14, 14], &[33, 4]] {
                for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
                    let dims = match layout {
                        Layout::ChannelsFirst => [&[n, c], s].concat(),
                        Layout::ChannelsLast => [&[n], s, &[c]].concat(),
                    };
                    for dtype in one_of_each_size() {
                        let problem = problem(Op::Train, &dims, layout, dtype, Epilogue::IDENTITY);
                        let four_sms = DeviceLimits { cooperative: true, ..SMALL };
                        for plan in Plan::candidates(&problem, &four_sms) {
                            check_limits(&problem, &four_sms, &plan);
                            check_owners(&problem, &plan);
                        }
                    }
                }
            }
        }
    }
}

fn shapes() -> impl Strategy_<Value = (Vec<usize>, Layout)> {
    let spatial = prop::collection::vec(1usize..20, 0..=3);
    let layout = prop_oneof![Just(Layout::ChannelsFirst), Just(Layout::ChannelsLast)];
    (1usize..40, 1usize..300, spatial, layout).prop_map(|(n, c, s, layout)| {
        let dims = match layout {
            Layout::ChannelsFirst => [&[n, c], &s[..]].concat(),
            Layout::ChannelsLast => [&[n], &s[..], &[c]].concat(),
        };
        (dims, layout)
    })
}

#[test]
fn any_plan_keeps_its_limits_and_owns_each_element_once() {
    let part = Part { name: "plans", test: "any_plan_keeps_its_limits_and_owns_each_element_once", few: 1 };
    let ops = prop::sample::select(Op::ALL);
    let dtypes = prop::sample::select(Dtype::ON_CUDA);
    let devices = prop::sample::select(&DEVICES[..]);
    let strategies = prop::sample::select(FORCED.to_vec());
    let any = (shapes(), ops, dtypes, devices, strategies);
    random::hold(&part, 300, &any, |((dims, layout), op, dtype, limits, forced)| {
        let problem = problem(op, &dims, layout, dtype, Epilogue::RELU);
        if let Ok(plan) = Plan::new(&problem, &limits, forced) {
            check_limits(&problem, &limits, &plan);
            check_owners(&problem, &plan);
            if op.needs_batch_statistics() {
                prop_assert!(forced.is_none_or(|forced| plan.strategy == forced));
            }
        } else {
            prop_assert!(forced.is_some() && forced != Some(Strategy::TwoPass));
        }
        Ok(())
    });
}

/// Thousands of shapes on every known device: the choice keeps its limits, and is never predicted to take longer than reading
/// twice.
#[test]
fn no_choice_is_slower_than_two_read() {
    let mut plans = 0;
    for n in [1, 2, 3, 8, 19, 32, 64, 256] {
        for c in [1, 3, 8, 64, 100, 256, 1000, 2048, 4096, 65536] {
            for s in [1, 2, 7 * 7, 14 * 14, 28 * 28, 33 * 4, 56 * 56, 112 * 112] {
                for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
                    for (op, dtype, epilogue) in [
                        (Op::Moments, Dtype::F32, Epilogue::IDENTITY),
                        (Op::Train, Dtype::F16, Epilogue::IDENTITY),
                        (Op::Train, Dtype::F32, Epilogue::ADD_RELU),
                        (Op::Backward(StatisticsKind::Batch), Dtype::Bf16, Epilogue::RELU),
                        (Op::Backward(StatisticsKind::Batch), Dtype::F32, Epilogue::ADD_RELU),
                    ] {
                        let dims = if layout == Layout::ChannelsFirst { [n, c, s] } else { [n, s, c] };
                        let problem = problem(op, &dims, layout, dtype, epilogue);
                        for limits in DEVICES {
                            let plan = Plan::new(&problem, &limits, None).unwrap();
                            let twice = Plan::new(&problem, &limits, Some(Strategy::TwoPass)).unwrap();
                            check_limits(&problem, &limits, &plan);
                            assert!(plan.predicted_ns <= twice.predicted_ns, "{plan:?} {twice:?}");
                            plans += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(plans > 40_000, "{plans}");
}

/// Every batch norm of ResNet-50 up to a batch of 256, channels first, reads x once on an H100, backward included.
#[test]
fn resnet50_reads_once() {
    let rows = batchnorm::bench::rows().unwrap().into_iter().filter(|row| row.suite == "resnet50");
    for row in rows.filter(|row| row.shape.layout() == Layout::ChannelsFirst) {
        for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
            let problem = problem(op, row.shape.dims(), Layout::ChannelsFirst, row.dtype, Epilogue::RELU);
            let plan = Plan::new(&problem, &HOPPER, None).unwrap();
            assert_ne!(plan.strategy, Strategy::TwoPass, "{op:?} {row:?}");
            assert_eq!(i64::from(plan.tiling.smem_iters), plan.tiling.iterations(), "{op:?} {row:?}");
        }
    }
}

/// Sizes that no test has the memory for: beyond 2^31 and 2^32 elements in all, in one channel, in one row.
#[test]
fn offsets_beyond_32_bits_stay_exact() {
    for dims in [
        &[1, 1, (1usize << 33) + 8][..],
        &[1 << 20, 1, 1 << 13],
        &[3, 5, (1 << 31) + 16],
        &[1 << 26, 64],
        &[1 << 16, 64, 1 << 11],
        &[7, 3, (1 << 30) + 1],
    ] {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            // The channels stay the same: more than 2^32 of them are refused.
            let dims = match layout {
                Layout::ChannelsFirst => dims.to_vec(),
                Layout::ChannelsLast => [&dims[..1], &dims[2..], &dims[1..2]].concat(),
            };
            for &op in Op::ALL {
                let problem = problem(op, &dims, layout, Dtype::F16, Epilogue::IDENTITY);
                let plan = Plan::new(&problem, &HOPPER, None).unwrap();
                check_limits(&problem, &HOPPER, &plan);
                let t = &plan.tiling;
                let vector = i64::from(t.vector_len(Dtype::F16));
                let whole = match t.access {
                    Access::Contiguous | Access::ScalarContiguous => t.rows * t.width,
                    Access::Strided | Access::ScalarStrided => t.rows,
                };
                assert!(t.chunk * i64::from(t.splits) >= whole, "{plan:?}");
                assert!(t.chunk * (i64::from(t.splits) - 1) < whole, "{plan:?}");
                assert_eq!(t.rows * t.row_vectors * vector, problem.shape().len() as i64, "{plan:?}");
                // The very last vector is the last valid iteration of the last CTA, and of nobody else.
                let last = t.rows * t.row_vectors - 1;
                let (tile, split) = (i64::from(t.tiles) - 1, i64::from(t.splits) - 1);
                let owners = (0..i64::from(t.threads)).flat_map(|thread| {
                    let tail = t.iterations().saturating_sub(3).max(0)..t.iterations();
                    tail.filter_map(move |iteration| owned(t, tile, split, thread, iteration))
                });
                // A last chunk may end early: its last vector is looked for where it must be.
                let steps_back = (t.chunk * i64::from(t.splits) - whole) / i64::from(t.threads).max(1);
                if steps_back == 0 {
                    assert_eq!(owners.filter(|&offset| offset == last).count(), 1, "{plan:?}");
                }
            }
        }
    }
}

/// A layer reserves for its largest batch, and may then be given any smaller one.
#[test]
fn a_workspace_is_enough_for_every_smaller_batch() {
    for (c, s) in [(1, &[7, 7][..]), (1, &[100, 100]), (3, &[32, 32]), (64, &[56, 56]), (64, &[]), (500, &[3])] {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            for &dtype in Dtype::ON_CUDA {
                for &op in Op::ALL {
                    let of = |n| {
                        let dims = match layout {
                            Layout::ChannelsFirst => [&[n, c], s].concat(),
                            Layout::ChannelsLast => [&[n], s, &[c]].concat(),
                        };
                        problem(op, &dims, layout, dtype, Epilogue::RELU)
                    };
                    let enough = Plan::most_workspace_bytes(&of(512), &HOPPER, None);
                    assert!(enough <= (2 << 20) + Plan::HEAD_BYTES);
                    for n in (1..=64).chain([241, 242, 255, 256, 511, 512]) {
                        let needed = Plan::new(&of(n), &HOPPER, None).unwrap().workspace_bytes;
                        assert!(needed <= enough, "{n} of {c} x {s:?} {layout:?} {dtype}: {needed}, not {enough}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_channel_keeps_every_sm_busy() {
    for (dims, layout) in [
        (&[64, 1, 512, 512][..], Layout::ChannelsFirst),
        (&[1 << 22, 1], Layout::ChannelsLast),
        (&[256, 56, 56, 8], Layout::ChannelsLast),
        (&[1 << 20, 3], Layout::ChannelsLast),
    ] {
        for &op in Op::ALL {
            let problem = problem(op, dims, layout, Dtype::F16, Epilogue::IDENTITY);
            let plan = Plan::new(&problem, &HOPPER, None).unwrap();
            assert!(plan.tiling.tiles * plan.tiling.splits >= HOPPER.sms, "{op:?} {dims:?} {plan:?}");
        }
    }
}

#[test]
fn block_reads_once_where_tiles_fit_and_fill_the_device() {
    let plan = |dims: &[usize], layout| {
        Plan::new(&problem(Op::Train, dims, layout, Dtype::F16, Epilogue::IDENTITY), &HOPPER, None).unwrap()
    };
    let first = Layout::ChannelsFirst;
    assert_eq!(plan(&[32, 512, 28, 28], first).strategy, Strategy::Block);
    assert_ne!(plan(&[32, 2048, 7, 7], first).strategy, Strategy::TwoPass);
    // A tile of 1.6 MB fits no SM, but a team of sixteen; one of 6.4 MB needs a good part of the device.
    let of_some = plan(&[256, 64, 56, 56], first);
    assert!(matches!(of_some.strategy, Strategy::Cluster | Strategy::Grid) && of_some.tiling.splits <= 16, "{of_some}");
    assert_eq!(plan(&[256, 64, 112, 112], first).strategy, Strategy::Grid);
}

#[test]
fn a_forced_strategy_that_cannot_hold_the_problem_is_refused() {
    let large = problem(Op::Train, &[256, 64, 56, 56], Layout::ChannelsFirst, Dtype::F16, Epilogue::IDENTITY);
    let error = Plan::new(&large, &HOPPER, Some(Strategy::Block)).unwrap_err();
    let tile = 256 * 56 * 56 * 2;
    assert_eq!(
        error.to_string(),
        format!("strategy block: expected a channel tile of at most 232448 bytes on chip, got {tile}")
    );
    Plan::new(&large, &HOPPER, Some(Strategy::TwoPass)).unwrap();
}

#[test]
fn for_an_empty_problem_nothing_is_planned() {
    for dims in [&[0, 3][..], &[2, 3, 0], &[0, 3, 0, 5]] {
        for (op, limits) in Op::ALL.iter().copied().flat_map(|op| DEVICES.map(|limits| (op, limits))) {
            let problem = problem(op, dims, Layout::ChannelsFirst, Dtype::F16, Epilogue::RELU);
            for forced in FORCED {
                let plan = Plan::new(&problem, &limits, forced).unwrap();
                assert_eq!(
                    (plan.tiling.tiles, plan.tiling.iterations(), plan.predicted_ns),
                    (0, 0, 0.0),
                    "{problem:?}"
                );
                assert_eq!(Plan::candidates(&problem, &limits), [plan]);
                let most = Plan::most_workspace_bytes(&problem, &limits, forced);
                assert!(most >= plan.workspace_bytes, "{problem:?}");
            }
        }
    }
}

/// Shapes on both sides of every threshold: one element, one row, one channel more or less.
#[test]
fn plans_change_over_at_their_thresholds_and_stay_within_limits() {
    for limits in DEVICES {
        // The largest tile that block holds, in elements of one channel.
        let fits = |s: usize| {
            let problem = problem(Op::Train, &[1, 2, s], Layout::ChannelsFirst, Dtype::F32, Epilogue::IDENTITY);
            Plan::new(&problem, &limits, Some(Strategy::Block)).is_ok()
        };
        let (mut low, mut high) = (1, 1 << 20);
        while high - low > 4 {
            let middle = (low + high) / 2 / 4 * 4;
            if fits(middle) { low = middle } else { high = middle }
        }
        assert!(fits(low) && !fits(high) && low * 4 > limits.shared_per_cta as usize - 8192, "{low} {high}");
        for s in [low - 4, low - 1, low, low + 1, high, high + 1] {
            for &op in Op::ALL {
                let problem = problem(op, &[1, 2, s], Layout::ChannelsFirst, Dtype::F32, Epilogue::IDENTITY);
                let plan = Plan::new(&problem, &limits, None).unwrap();
                check_limits(&problem, &limits, &plan);
                check_owners(&problem, &plan);
            }
        }
    }
}

#[test]
fn limits_that_no_device_has_panic_nowhere() {
    // Numbers that divide, and those that multiply.
    let hostile = |field: usize, value: u32| {
        let mut limits = HOPPER;
        match field {
            0 => limits.sms = value,
            1 => limits.shared_per_sm = value,
            2 => limits.shared_per_cta = value,
            3 => limits.shared_reserved = value,
            4 => limits.threads_per_sm = value,
            5 => limits.ctas_per_sm = value,
            6 => limits.l2_bytes = u64::from(value) << 32 | u64::from(value),
            7 => limits.memory_gb_per_s = value,
            8 => limits.clusters = [[value; 4]; 2],
            _ => {
                limits = DeviceLimits {
                    sms: value,
                    shared_per_sm: value,
                    shared_per_cta: value,
                    shared_reserved: value,
                    threads_per_sm: value,
                    ctas_per_sm: value,
                    l2_bytes: u64::from(value),
                    memory_gb_per_s: value,
                    clusters: [[value; 4]; 2],
                    ..HOPPER
                }
            }
        }
        limits
    };
    for limits in (0..10).flat_map(|field| [0, 1, 1 << 31, u32::MAX].map(|value| hostile(field, value))) {
        for dims in [&[2, 3][..], &[32, 64, 56, 56], &[1, 1 << 20, 2], &[1 << 40, 1], &[1, 1, 1]] {
            for &op in Op::ALL {
                for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
                    let problem = problem(op, dims, layout, Dtype::F16, Epilogue::ADD_RELU);
                    for forced in FORCED {
                        if let Ok(plan) = Plan::new(&problem, &limits, forced) {
                            assert!(plan.tiling.iterations() > 0 && plan.tiling.splits > 0, "{limits:?}, {plan:?}");
                        }
                        Plan::most_workspace_bytes(&problem, &limits, forced);
                    }
                    Plan::candidates(&problem, &limits);
                }
            }
        }
    }
    let shape = Shape::nchw(2, 64, 8, 8).unwrap();
    let problem = Problem::new(Op::Train, shape, Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap();
    let tiling = Plan::new(&problem, &HOPPER, None).unwrap().tiling;
    for access in [Access::Contiguous, Access::Strided] {
        Tiling { access, width: 0, threads: 0, ..tiling }.iterations();
    }
}

/// A residual is read once: with it inference moves three tensors for two.
#[test]
fn a_residual_is_one_tensor() {
    let ns = |epilogue| {
        let problem = problem(Op::Infer, &[256, 64, 112, 112], Layout::ChannelsFirst, Dtype::F16, epilogue);
        Plan::new(&problem, &HOPPER, None).unwrap().predicted_ns
    };
    let ratio = ns(Epilogue::ADD) / ns(Epilogue::IDENTITY);
    assert!((1.45..1.5).contains(&ratio), "{ratio}");
}

/// A tile of narrow rows that are whole rows is contiguous memory; cut out of longer rows it takes longer.
#[test]
fn only_a_part_of_a_row_can_be_narrow() {
    let problem = problem(Op::Infer, &[256, 56, 56, 24], Layout::ChannelsLast, Dtype::F16, Epilogue::IDENTITY);
    let plans = cost::plans(&Constants::PLANNED_BY, &problem, &HOPPER, Strategy::TwoPass);
    let whole = plans.into_iter().find(|plan| plan.tiling.width == plan.tiling.row_vectors).unwrap();
    let cut = Plan { tiling: Tiling { row_vectors: 2 * whole.tiling.row_vectors, ..whole.tiling }, ..whole };
    let ns = |plan| cost::nanoseconds(&Constants::PLANNED_BY, &problem, &HOPPER, plan);
    assert!(ns(&cut) > 1.05 * ns(&whole), "{} {}", ns(&cut), ns(&whole));
}

/// A derivative that takes any value leaves fewer loads in flight: where few CTAs run, that shows.
#[test]
fn fewer_loads_in_flight_take_longer() {
    let ns = |epilogue| {
        let op = Op::Backward(StatisticsKind::Batch);
        let problem = problem(op, &[32, 64, 28, 28], Layout::ChannelsFirst, Dtype::F16, epilogue);
        Plan::new(&problem, &HOPPER, Some(Strategy::Block)).unwrap().predicted_ns
    };
    assert!(ns(Epilogue::SILU) > 1.1 * ns(Epilogue::RELU), "{} {}", ns(Epilogue::SILU), ns(Epilogue::RELU));
}

/// The text in journals and messages names every number that says what was launched.
#[test]
fn a_plan_is_one_line() {
    let shape = Shape::nchw(256, 64, 56, 56).unwrap();
    let problem = Problem::new(Op::Train, shape, Dtype::F16, Epilogue::IDENTITY, 1e-5, None).unwrap();
    let plan = Plan::new(&problem, &DeviceLimits::KNOWN[1].1, Some(Strategy::Cluster)).unwrap();
    let t = plan.tiling;
    let wanted = format!(
        "cluster Contiguous threads={} tiles=64 splits={} teams={} smem_iters={}/{} shared_bytes={}",
        t.threads,
        t.splits,
        t.teams,
        t.smem_iters,
        t.iterations(),
        t.shared_bytes
    );
    assert_eq!(plan.to_string(), wanted);
}

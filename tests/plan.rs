//! The planner on its own: no GPU, no kernel. The walk of kernels/ownership.cuh is repeated here, to see that every
//! element has exactly one owner.

mod random;

use batchnorm::{DeviceLimits, Dtype, Epilogue, Form, Layout, Op, Plan, Problem, Shape, Strategy, Tiling};
use proptest::prelude::*;
use proptest::strategy::Strategy as Strategy_;

const HOPPER: DeviceLimits = DeviceLimits {
    compute_capability: (9, 0),
    sms: 132,
    shared_per_sm: 233_472,
    shared_per_cta: 232_448,
    shared_reserved: 1024,
    threads_per_sm: 2048,
    ctas_per_sm: 32,
    l2_bytes: 50 << 20,
    cooperative: true,
};
const AMPERE: DeviceLimits = DeviceLimits {
    compute_capability: (8, 0),
    sms: 108,
    shared_per_sm: 167_936,
    shared_per_cta: 166_912,
    l2_bytes: 40 << 20,
    ..HOPPER
};
const ADA: DeviceLimits = DeviceLimits {
    compute_capability: (8, 9),
    sms: 128,
    shared_per_sm: 102_400,
    shared_per_cta: 101_376,
    threads_per_sm: 1536,
    ctas_per_sm: 24,
    l2_bytes: 72 << 20,
    ..HOPPER
};
const SMALL: DeviceLimits = DeviceLimits { sms: 4, cooperative: false, l2_bytes: 1 << 20, ..HOPPER };
const DEVICES: [DeviceLimits; 4] = [HOPPER, AMPERE, ADA, SMALL];
const OPS: [Op; 5] = [Op::Moments, Op::Train, Op::Infer, Op::Backward, Op::BackwardFrozen];
const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

fn problem(op: Op, dims: &[usize], layout: Layout, dtype: Dtype, epilogue: Epilogue<()>) -> Problem {
    let epilogue = if op == Op::Moments { Epilogue::Identity } else { epilogue };
    Problem::new(op, Shape::new(dims, layout).unwrap(), dtype, epilogue, 1e-5, None).unwrap()
}

/// The flat vector that a thread owns in a step, as kernels/ownership.cuh has it.
fn owned(t: &Tiling, strip: i64, split: i64, thread: i64, step: i64) -> Option<i64> {
    let begin = split * t.chunk;
    match t.form {
        Form::Rows | Form::ScalarRows => {
            let end = (t.rows * t.width).min(begin + t.chunk);
            let index = begin + thread + step * i64::from(t.threads);
            (index < end).then(|| index / t.width * t.row_vectors + strip * t.width + index % t.width)
        }
        Form::Columns | Form::ScalarColumns => {
            let row_step = i64::from(t.threads) / t.width;
            let (row_of_thread, col) = (thread / t.width, strip * t.width + thread % t.width);
            let row = begin + row_of_thread + step * row_step;
            let owns = row_of_thread < row_step && col < t.row_vectors && row < t.rows.min(begin + t.chunk);
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
fn channel_of_lane(t: &Tiling, strip: i64, thread: i64, lane: i64, vector: i64) -> usize {
    let within = match t.form {
        Form::Rows | Form::ScalarRows => 0,
        Form::Columns | Form::ScalarColumns => (thread % t.width * vector + lane) / i64::from(t.span),
    };
    (strip * i64::from(t.strip_channels) + within) as usize
}

fn check_owners(problem: &Problem, plan: &Plan) {
    let (t, shape) = (&plan.tiling, problem.shape());
    let vector = i64::from(t.vector_len(problem.dtype()));
    let mut owners = vec![0u32; shape.len()];
    for strip in 0..i64::from(t.strips) {
        for split in 0..i64::from(t.splits) {
            for thread in 0..i64::from(t.threads) {
                let mut ended = false;
                for step in 0..t.steps() {
                    let Some(offset) = owned(t, strip, split, thread, step) else {
                        ended = true;
                        continue;
                    };
                    assert!(!ended, "a thread's valid steps come first: {plan:?}");
                    for lane in 0..vector {
                        let index = (offset * vector + lane) as usize;
                        owners[index] += 1;
                        assert_eq!(channel_of_lane(t, strip, thread, lane, vector), channel(shape, index), "{plan:?}");
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
    assert!(t.strip_channels.next_power_of_two() <= t.threads, "{plan:?}");
    assert!(u64::from(t.strips) * u64::from(t.splits) < 1 << 31, "{plan:?}");
    assert!(t.strips as usize * t.strip_channels as usize >= problem.shape().c(), "{plan:?}");
    assert!(t.steps() < 1 << 31, "{plan:?}");
    if plan.strategy == Strategy::Block {
        assert_eq!(t.splits, 1, "{plan:?}");
    }
    let partials = (plan.workspace_bytes - Plan::TICKET_BYTES) / Plan::PARTIAL_BYTES;
    let needs = match (plan.strategy, problem.op(), problem.epilogue()) {
        (Strategy::Block, ..) | (_, Op::Infer, _) => 0,
        (Strategy::TwoRead, Op::Backward, Epilogue::Relu) => 2,
        (Strategy::TwoRead, ..) => 1,
    };
    assert_eq!(partials, needs * t.splits as usize * problem.shape().c(), "{plan:?}");
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
                    for dtype in [Dtype::F32, Dtype::Bf16] {
                        for forced in [None, Some(Strategy::Block), Some(Strategy::TwoRead)] {
                            let problem = problem(Op::Train, &dims, layout, dtype, Epilogue::Identity);
                            let plan = Plan::new(&problem, &SMALL, forced).unwrap();
                            check_limits(&problem, &SMALL, &plan);
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

proptest! {
    #![proptest_config(random::config(300))]

    #[test]
    fn any_plan_keeps_its_limits_and_owns_each_element_once(
        (dims, layout) in shapes(),
        op in prop::sample::select(&OPS[..]),
        dtype in prop::sample::select(&DTYPES[..]),
        limits in prop::sample::select(&DEVICES[..]),
        forced in prop::sample::select(vec![None, Some(Strategy::Block), Some(Strategy::TwoRead)]),
    ) {
        let problem = problem(op, &dims, layout, dtype, Epilogue::Relu);
        if let Ok(plan) = Plan::new(&problem, &limits, forced) {
            check_limits(&problem, &limits, &plan);
            check_owners(&problem, &plan);
            if matches!(op, Op::Train | Op::Backward) {
                prop_assert!(forced.is_none_or(|forced| plan.strategy == forced));
            }
        } else {
            prop_assert_eq!(forced, Some(Strategy::Block));
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
            for op in OPS {
                let problem = problem(op, &dims, layout, Dtype::F16, Epilogue::Identity);
                let plan = Plan::new(&problem, &HOPPER, None).unwrap();
                check_limits(&problem, &HOPPER, &plan);
                let t = &plan.tiling;
                let vector = i64::from(t.vector_len(Dtype::F16));
                let whole = match t.form {
                    Form::Rows | Form::ScalarRows => t.rows * t.width,
                    Form::Columns | Form::ScalarColumns => t.rows,
                };
                assert!(t.chunk * i64::from(t.splits) >= whole, "{plan:?}");
                assert!(t.chunk * (i64::from(t.splits) - 1) < whole, "{plan:?}");
                assert_eq!(t.rows * t.row_vectors * vector, problem.shape().len() as i64, "{plan:?}");
                // The very last vector is the last valid step of the last CTA, and of nobody else.
                let last = t.rows * t.row_vectors - 1;
                let (strip, split) = (i64::from(t.strips) - 1, i64::from(t.splits) - 1);
                let owners = (0..i64::from(t.threads)).flat_map(|thread| {
                    let tail = t.steps().saturating_sub(3).max(0)..t.steps();
                    tail.filter_map(move |step| owned(t, strip, split, thread, step))
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
            for dtype in DTYPES {
                for op in [Op::Moments, Op::Train, Op::Backward, Op::BackwardFrozen] {
                    let of = |n| {
                        let dims = match layout {
                            Layout::ChannelsFirst => [&[n, c], s].concat(),
                            Layout::ChannelsLast => [&[n], s, &[c]].concat(),
                        };
                        problem(op, &dims, layout, dtype, Epilogue::Relu)
                    };
                    let enough = Plan::most_workspace_bytes(&of(512), &HOPPER, None);
                    assert!(enough <= (2 << 20) + Plan::TICKET_BYTES);
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
        for op in OPS {
            let problem = problem(op, dims, layout, Dtype::F16, Epilogue::Identity);
            let plan = Plan::new(&problem, &HOPPER, None).unwrap();
            assert!(plan.tiling.strips * plan.tiling.splits >= HOPPER.sms, "{op:?} {dims:?} {plan:?}");
        }
    }
}

#[test]
fn block_reads_once_where_strips_fit_and_fill_the_device() {
    let plan = |dims: &[usize], layout| {
        Plan::new(&problem(Op::Train, dims, layout, Dtype::F16, Epilogue::Identity), &HOPPER, None).unwrap()
    };
    let first = Layout::ChannelsFirst;
    assert_eq!(plan(&[32, 512, 28, 28], first).strategy, Strategy::Block);
    assert_eq!(plan(&[32, 2048, 7, 7], first).strategy, Strategy::Block);
    // A strip of 1.6 MB fits no SM.
    assert_eq!(plan(&[256, 64, 56, 56], first).strategy, Strategy::TwoRead);
}

#[test]
fn a_forced_strategy_that_cannot_hold_the_problem_is_refused() {
    let large = problem(Op::Train, &[256, 64, 56, 56], Layout::ChannelsFirst, Dtype::F16, Epilogue::Identity);
    let error = Plan::new(&large, &HOPPER, Some(Strategy::Block)).unwrap_err();
    let strip = 256 * 56 * 56 * 2;
    assert_eq!(
        error.to_string(),
        format!("strategy block: expected a strip of at most 232448 bytes on chip, got {strip}")
    );
    Plan::new(&large, &HOPPER, Some(Strategy::TwoRead)).unwrap();
}

/// On both sides of every threshold: one element, one row, one channel more or less.
#[test]
fn plans_change_over_at_their_thresholds_and_stay_within_limits() {
    for limits in DEVICES {
        // The largest strip that block holds, in elements of one channel.
        let fits = |s: usize| {
            let problem = problem(Op::Train, &[1, 2, s], Layout::ChannelsFirst, Dtype::F32, Epilogue::Identity);
            Plan::new(&problem, &limits, Some(Strategy::Block)).is_ok()
        };
        let (mut low, mut high) = (1, 1 << 20);
        while high - low > 4 {
            let middle = (low + high) / 2 / 4 * 4;
            if fits(middle) { low = middle } else { high = middle }
        }
        assert!(fits(low) && !fits(high) && low * 4 > limits.shared_per_cta as usize - 8192, "{low} {high}");
        for s in [low - 4, low - 1, low, low + 1, high, high + 1] {
            for op in OPS {
                let problem = problem(op, &[1, 2, s], Layout::ChannelsFirst, Dtype::F32, Epilogue::Identity);
                let plan = Plan::new(&problem, &limits, None).unwrap();
                check_limits(&problem, &limits, &plan);
                check_owners(&problem, &plan);
            }
        }
    }
}

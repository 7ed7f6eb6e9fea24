//! The planner's choices, held against a finer model of the device (model.rs): none may take much longer than another plan would.

mod model;

use batchnorm::bench::cost::{self, Constants};
use batchnorm::op::Problem;
use batchnorm::plan::{DeviceLimits, Plan};
use batchnorm::{Dtype, Epilogue, Layout, Op, Shape, StatisticsKind, Strategy};
use model::{AS_SKETCHED, FORMER, Kernels, TODAY, microseconds};

const H200: DeviceLimits = DeviceLimits::KNOWN[2].1;

/// The batch norms of ResNet-50: name, channels, and the width and height of a plane.
const RESNET50: [(&str, usize, usize); 12] = [
    ("stem", 64, 112),
    ("stage1", 64, 56),
    ("stage1-out", 256, 56),
    ("stage2-in", 128, 56),
    ("stage2", 128, 28),
    ("stage2-out", 512, 28),
    ("stage3-in", 256, 28),
    ("stage3", 256, 14),
    ("stage3-out", 1024, 14),
    ("stage4-in", 512, 14),
    ("stage4", 512, 7),
    ("stage4-out", 2048, 7),
];

/// Training passes on f16, forward and backward, in both layouts and for three batches.
fn rows() -> Vec<(String, Problem)> {
    let mut rows = Vec::new();
    for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            for n in [32, 64, 256] {
                for (name, c, side) in RESNET50 {
                    let dims = match layout {
                        Layout::ChannelsFirst => [n, c, side, side],
                        Layout::ChannelsLast => [n, side, side, c],
                    };
                    let shape = Shape::new(&dims, layout).unwrap();
                    let problem = Problem::new(op, shape, Dtype::F16, Epilogue::IDENTITY, 1e-5, None).unwrap();
                    rows.push((format!("{} {layout} {name} {n}", op.name()), problem));
                }
            }
        }
    }
    rows
}

/// The plans that the planner would choose by these constants, of each strategy and in all.
fn choices(constants: &Constants, problem: &Problem) -> (Vec<Plan>, Plan) {
    let shortest = |plans: Vec<Plan>| plans.into_iter().min_by(|a, b| a.predicted_ns.total_cmp(&b.predicted_ns));
    let of = |&strategy: &Strategy| shortest(cost::plans(constants, problem, &H200, strategy));
    let candidates: Vec<Plan> = Strategy::ALL.iter().filter_map(of).collect();
    let chosen = shortest(candidates.clone()).unwrap();
    (candidates, chosen)
}

/// The choices among some plans of every row.
#[derive(Default)]
struct Regrets {
    /// The rows with more than is allowed, each with the time of the choice as a multiple of the best.
    beyond: Vec<(String, f64)>,
    worst: f64,
    sum: f64,
}

impl Regrets {
    const ALLOWED: f64 = 1.08;

    fn add(&mut self, row: &str, us: impl Fn(&Plan) -> f64, chosen: &Plan, others: &[Plan]) {
        let best = others.iter().map(&us).fold(f64::INFINITY, f64::min);
        let regret = us(chosen) / best;
        self.worst = self.worst.max(regret);
        self.sum += regret - 1.0;
        let is_allowed = regret <= Self::ALLOWED;
        if !is_allowed {
            println!("{row}: {chosen} takes {:.1} us, the best {best:.1}", us(chosen));
            self.beyond.push((row.into(), regret));
        }
    }
}

/// The regrets of a planner by these constants with these kernels: among the best of each strategy, and among all plans.
fn regrets(name: &str, constants: &Constants, kernels: &Kernels) -> [Regrets; 2] {
    let rows = rows();
    let (mut by_strategy, mut by_plan) = (Regrets::default(), Regrets::default());
    for (row, problem) in &rows {
        let (candidates, chosen) = choices(constants, problem);
        let us = |plan: &Plan| microseconds(kernels, &H200, problem, plan);
        by_strategy.add(row, us, &chosen, &candidates);
        let all: Vec<Plan> =
            Strategy::ALL.iter().flat_map(|&strategy| cost::plans(constants, problem, &H200, strategy)).collect();
        by_plan.add(row, us, &chosen, &all);
    }
    for (among, found) in [("strategies", &by_strategy), ("plans", &by_plan)] {
        let mean = 1.0 + found.sum / rows.len() as f64;
        println!("{name}, among {among}: {} beyond, worst {:.3}, mean {mean:.4}", found.beyond.len(), found.worst);
    }
    [by_strategy, by_plan]
}

#[test]
fn no_choice_takes_much_longer_than_the_best_plan() {
    for (row, problem) in rows() {
        assert_eq!(choices(&Constants::PLANNED_BY, &problem).1, Plan::new(&problem, &H200, None).unwrap(), "{row}");
    }
    for found in regrets("today's kernels", &Constants::PLANNED_BY, &TODAY) {
        assert!(found.beyond.is_empty(), "{:?}", found.beyond);
    }
}

/// The model that this one comes from moves rows of 16 bytes as well as any. It takes such a plan for the best of three rows.
#[test]
fn rows_of_half_a_sector_are_chosen_nowhere() {
    let [by_strategy, _] = regrets("today's kernels as sketched", &Constants::PLANNED_BY, &AS_SKETCHED);
    let beyond: Vec<&str> = by_strategy.beyond.iter().map(|(row, _)| &**row).collect();
    let of_narrow_rows =
        ["train channels-last stage1 32", "train channels-last stage2 64", "backward channels-last stage2 32"];
    assert_eq!(beyond, of_narrow_rows);
}

/// With other kernels the constants change, and the model's formula stays.
#[test]
fn constants_of_other_kernels_choose_as_well() {
    let former = Constants {
        merge: 3600.0,
        strided_merge: 4200.0,
        cluster_exchange: 600.0,
        cluster_partial: 55.0,
        grid_exchange: 2675.0,
        grid_merge: 1000.0,
        drift: 0.1,
        l2_latency: 4.0 * 350.0, // partials were read one by one
        ..Constants::PLANNED_BY
    };
    let [by_strategy, _] = regrets("former kernels", &former, &FORMER);
    assert!(by_strategy.beyond.is_empty(), "{:?}", by_strategy.beyond);
}

/// Warps take turns to load and to compute, so that few of them leave memory idle.
#[test]
fn what_streams_has_eight_warps_on_an_sm() {
    for (row, problem) in rows() {
        let plan = Plan::new(&problem, &H200, None).unwrap();
        let t = &plan.tiling;
        let x_bytes = problem.shape().len() as u32 * problem.dtype().bytes();
        if x_bytes < 25 << 20 {
            continue; // less than L2 holds
        }
        let resident = (H200.shared_per_sm / (t.shared_bytes + H200.shared_reserved)).min(512 / t.threads);
        let warps = resident.min((t.tiles * t.splits).div_ceil(H200.sms)) * t.threads / 32;
        assert!(warps >= 8, "{row}: {plan}");
    }
}

//! One below, at, and one above every size at which the planner changes its mind.

use batchnorm::op::Problem;
use batchnorm::plan::Plan;
use batchnorm::verify::{Case, Group, Input};
use batchnorm::{Cuda, Dtype, Epilogue, Layout, Op, Shape, StatisticsKind, Strategy};

use crate::device::cuda;
use crate::journal::{Judged, assert_none, check as check_cases, under_every_strategy};

fn around(size: usize) -> [usize; 3] {
    [size - 1, size, size + 1]
}

/// The failures of a shape under all strategies.
#[must_use]
fn check(cuda: &Cuda, dims: &[usize], layout: Layout, dtype: Dtype) -> Vec<String> {
    let group = Group { shape: Shape::new(dims, layout).unwrap(), dtype, input: Input::Normal };
    let reports = check_cases(&under_every_strategy(cuda), &group.cases(), 0);
    assert!(!reports.is_empty());
    Judged::of(&reports).failures
}

/// The change from columns to rows: rows of 128 bytes.
#[test]
fn the_length_of_a_row() {
    let Some(cuda) = cuda() else { return };
    let mut failures = Vec::new();
    for s in around(32) {
        failures.extend(check(&cuda, &[3, 4, s], Layout::ChannelsFirst, Dtype::F32));
    }
    for s in around(64) {
        failures.extend(check(&cuda, &[3, 8, s], Layout::ChannelsFirst, Dtype::F16));
    }
    assert_none(&failures);
}

/// The whole row of channels in one CTA, or several tiles of it: 256 vectors, and as many single elements.
#[test]
fn the_width_of_a_tile() {
    let Some(cuda) = cuda() else { return };
    let mut failures = Vec::new();
    for c in around(256).into_iter().chain([1020, 1024, 1028]) {
        failures.extend(check(&cuda, &[5, c], Layout::ChannelsLast, Dtype::F32));
    }
    for c in [2040, 2048, 2056] {
        failures.extend(check(&cuda, &[3, c], Layout::ChannelsLast, Dtype::Bf16));
    }
    // Planes of so many vectors that one thread a column is not enough for a group of channels.
    for s in around(255) {
        failures.extend(check(&cuda, &[2, 4, s], Layout::ChannelsFirst, Dtype::F32));
    }
    assert_none(&failures);
}

/// One CTA for a channel, or several: eight vectors a thread.
#[test]
fn the_length_of_a_chunk() {
    let Some(cuda) = cuda() else { return };
    let mut failures = Vec::new();
    for threads in [64, 128, 256] {
        for vectors in around(8 * threads) {
            failures.extend(check(&cuda, &[1, 1, 4 * vectors], Layout::ChannelsFirst, Dtype::F32));
        }
    }
    assert_none(&failures);
}

/// The largest tile that one CTA keeps in shared memory, of x in a forward pass and of x and dy in a backward one.
#[test]
fn the_capacity_of_a_cta() {
    let Some(cuda) = cuda() else { return };
    let mut failures = Vec::new();
    for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
        let holds = |s: usize| {
            let shape = Shape::new(&[1, 2, s], Layout::ChannelsFirst).unwrap();
            let problem = Problem::new(op, shape, Dtype::F16, Epilogue::IDENTITY, 1e-5, None).unwrap();
            Plan::new(&problem, &cuda.limits(), Some(Strategy::Block)).is_ok()
        };
        let (mut held, mut not) = (8, 1 << 20);
        while not - held > 8 {
            let middle = (held + not) / 16 * 8;
            *(if holds(middle) { &mut held } else { &mut not }) = middle;
        }
        assert!(holds(held) && !holds(held + 8));
        for s in [held - 8, held, held + 8] {
            let shape = Shape::new(&[1, 2, s], Layout::ChannelsFirst).unwrap();
            let group = Group { shape, dtype: Dtype::F16, input: Input::Normal };
            // One case without relu and one with it, of this operation alone: tiles of this size take their time.
            let of_op = |case: &Case| case.op == op && case.affine && case.tracking.is_none();
            let cases: Vec<Case> = group.cases().into_iter().filter(of_op).take(2).collect();
            let reports = check_cases(std::slice::from_ref(&*cuda), &cases, 0);
            assert_eq!(reports.len(), 2);
            failures.extend(Judged::of(&reports).failures);
        }
    }
    assert_none(&failures);
}

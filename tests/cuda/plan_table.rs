//! Tables of measured plans on a device: what they plan, and when they plan nothing.

use std::time::Instant;

use batchnorm::op::Problem;
use batchnorm::plan::{Measure, Plan, PlanTable};
use batchnorm::verify::{Case, Group, Input, Inputs, Journal, Verified, run};
use batchnorm::{Backend, Cuda, Dtype, Epilogue, Layout, Op, Shape, StatisticsKind, Strategy};

use crate::device;

const OPS: [Op; 3] = [Op::Train, Op::Backward(StatisticsKind::Batch), Op::Infer];

fn shape() -> Shape {
    Shape::new(&[6, 12, 5, 5], Layout::ChannelsFirst).unwrap()
}

fn problem(op: Op, shape: Shape) -> Problem {
    Problem::new(op, shape, Dtype::F32, Epilogue::RELU, 1e-5, None).unwrap()
}

/// The plan of most predicted time: never the planner's own where there is another one.
fn worst(cuda: &Cuda, problem: &Problem) -> Plan {
    *Plan::shortlist(problem, &cuda.limits(), usize::MAX).last().unwrap()
}

/// A table with the worst plan of each of these.
fn table(cuda: &Cuda, problems: &[Problem]) -> PlanTable {
    let mut table = cuda.plan_table(Measure::CountedBytes).unwrap();
    problems.iter().for_each(|problem| table.insert(problem, worst(cuda, problem), Vec::new()).unwrap());
    table
}

fn case(op: Op) -> Case {
    let group = Group { shape: shape(), dtype: Dtype::F32, input: Input::Normal };
    let is_asked = |case: &Case| (case.op, case.epilogue, case.affine) == (op, Epilogue::RELU, true);
    group.cases().into_iter().find(is_asked).unwrap()
}

/// The bits of what a case gives.
fn bits(cuda: &Cuda, case: &Case) -> Vec<(&'static str, Vec<u64>)> {
    let inputs = Inputs::<f32>::new(&case.group);
    let outputs = run(cuda, case, &inputs, &inputs.dy, 0).unwrap();
    outputs.into_iter().map(|(name, values)| (name, values.iter().map(|value| value.to_bits()).collect())).collect()
}

#[test]
fn a_table_plans_its_problems_and_no_others() {
    let Some(cuda) = device::cuda() else { return };
    let problems = OPS.map(|op| problem(op, shape()));
    let text = table(&cuda, &problems).to_json();
    let tuned = || (*cuda).clone().with_plans(PlanTable::parse(&text).unwrap()).unwrap();
    let (one, other) = (tuned(), tuned());
    for (op, problem) in OPS.into_iter().zip(&problems) {
        let plan = worst(&cuda, problem);
        assert_ne!(cuda.plan(problem).unwrap(), plan);
        assert_eq!(one.plan(problem).unwrap(), plan);
        // Right by the oracle, as it is launched; and the same bits again, of another backend with the same table.
        let (case, journal) = (case(op), Journal::new(Instant::now()));
        let reports = Cuda::check_all(core::slice::from_ref(&one), &[case], 0, &journal).unwrap();
        assert!(reports[0].result.is_ok() && reports[0].plan == Some(plan), "{}", reports[0]);
        assert_eq!(bits(&one, &case), bits(&one, &case));
        assert_eq!(bits(&one, &case), bits(&other, &case));
    }
    let larger = Shape::new(&[7, 12, 5, 5], Layout::ChannelsFirst).unwrap();
    for others in [problem(Op::Train, larger), problems[0].with_offset(1)] {
        assert_eq!(one.plan(&others).unwrap(), cuda.plan(&others).unwrap());
    }
}

/// Plans of a table are those of the whole device, so that fewer multiprocessors have the planner's; in whatever order that is said.
#[test]
fn fewer_multiprocessors_and_a_forced_strategy_have_the_planners_plans() {
    let Some(cuda) = device::cuda() else { return };
    let cuda = (*cuda).clone();
    let problem = problem(Op::Train, shape());
    let (table, plan) = (std::sync::Arc::new(table(&cuda, &[problem])), worst(&cuda, &problem));
    let with = |cuda: Cuda| cuda.with_plans(std::sync::Arc::clone(&table)).unwrap();
    let sms = cuda.limits().sms;
    for narrow in [with(cuda.clone()).with_max_sms(sms - 1), with(cuda.clone().with_max_sms(sms - 1))] {
        assert!(narrow.plans().is_none());
        let planned = Plan::new(&problem, &narrow.limits(), None).unwrap();
        assert_eq!(narrow.plan(&problem).unwrap(), planned);
        assert_eq!(narrow.limits().sms, sms - 1);
        // As it was without the limit.
        assert_eq!(narrow.with_max_sms(u32::MAX).plan(&problem).unwrap(), plan);
    }
    let two_pass = Some(Strategy::TwoPass);
    for forced in [with(cuda.clone()).with_strategy(two_pass), with(cuda.clone().with_strategy(two_pass))] {
        assert_eq!(forced.plan(&problem).unwrap(), Plan::new(&problem, &cuda.limits(), two_pass).unwrap());
        assert_eq!(forced.with_strategy(None).plan(&problem).unwrap(), plan);
    }
    for all in [with(cuda.clone()).with_max_sms(sms), with(cuda.clone().with_max_sms(sms))] {
        assert_eq!(all.plan(&problem).unwrap(), plan);
        assert_eq!(all.plans(), Some(&*table));
    }
    // A later table takes the place of an earlier one.
    let empty = with(cuda.clone()).with_plans(cuda.plan_table(Measure::Nanoseconds).unwrap()).unwrap();
    assert_eq!(empty.plan(&problem).unwrap(), cuda.plan(&problem).unwrap());
}

/// Memory that was made for the planner's plans is enough for a table's.
#[test]
fn a_workspace_is_enough_for_a_tables_plans() {
    let Some(cuda) = device::cuda() else { return };
    let problem = problem(Op::Backward(StatisticsKind::Batch), shape());
    let bytes = cuda.workspace(&[problem]).unwrap().bytes();
    for plan in Plan::all(&problem, &cuda.limits()) {
        let mut table = cuda.plan_table(Measure::CountedBytes).unwrap();
        table.insert(&problem, plan, Vec::new()).unwrap();
        let tuned = (*cuda).clone().with_plans(table).unwrap();
        assert!(tuned.workspace_bytes(&problem).unwrap() <= bytes);
        assert_eq!(tuned.workspace(&[problem]).unwrap().bytes(), bytes);
    }
}

#[cfg(feature = "emulate")]
#[test]
fn a_table_of_another_device_is_refused() {
    let _shared = device::shared();
    let [hopper, a100] = ["hopper4", "a100like"].map(device::emulated);
    let table = table(&hopper, &[problem(Op::Train, shape())]);
    let error = a100.clone().with_plans(table.clone()).unwrap_err();
    assert!(matches!(error, batchnorm::Error::ForeignPlanTable { .. }));
    let words = "plan table: expected the device \"emulated (a100like)\", got \"emulated (hopper4)\"";
    assert!(error.to_string().starts_with(words), "{error}");
    // Whatever a hand made of it: plans of other limits, or of other kernels.
    for (from, to, words) in [
        ("\"sms\":4", "\"sms\":5", "limits of the device sms 4, got sms 5"),
        ("\"version\": \"", "\"version\": \"9", "version of this crate \"0."),
        ("\"kernels\": \"", "\"kernels\": \"0", "hash of the kernels \""),
    ] {
        let text = PlanTable::new(table.origin().clone(), table.measure()).to_json().replace(from, to);
        let error = hopper.clone().with_plans(PlanTable::parse(&text).unwrap()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

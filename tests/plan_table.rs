//! Tables of measured plans, without a device: what is written is read again, and what a hand or chance made of a file is refused.

mod abuse;
mod random;

use abuse::Part;
use batchnorm::op::Problem;
use batchnorm::plan::{Candidate, DeviceLimits, Measure, Origin, Plan, PlanTable};
use batchnorm::{Dtype, Epilogue, Error, Layout, Op, Shape, StatisticsKind};
use proptest::prelude::*;
use serde_json::{Value, json};

const LIMITS: DeviceLimits = DeviceLimits::KNOWN[1].1;

fn origin() -> Origin {
    Origin {
        version: "0.1.0".into(),
        kernels: "0123456789abcdef".into(),
        device: "a device".into(),
        limits: LIMITS,
        driver: 13_000,
    }
}

fn problem(op: Op, dims: &[usize], layout: Layout, dtype: Dtype) -> Problem {
    Problem::new(op, Shape::new(dims, layout).unwrap(), dtype, Epilogue::RELU, 1e-5, None).unwrap()
}

fn problems() -> Vec<Problem> {
    use Layout::{ChannelsFirst, ChannelsLast};
    vec![
        problem(Op::Train, &[32, 64, 56, 56], ChannelsFirst, Dtype::F16),
        problem(Op::Backward(StatisticsKind::Batch), &[8, 14, 14, 96], ChannelsLast, Dtype::F32),
        problem(Op::Infer, &[4096, 256], ChannelsFirst, Dtype::Bf16),
        problem(Op::Infer, &[4096, 256], ChannelsFirst, Dtype::Bf16).with_offset(1),
    ]
}

/// A table in which the plan is never the planner's own, and the last candidate was left out.
fn table() -> PlanTable {
    let mut table = PlanTable::new(origin(), Measure::Nanoseconds);
    for problem in problems() {
        let plans = Plan::shortlist(&problem, &LIMITS, 8);
        let (last, measured) = plans.split_last().unwrap();
        let measured = measured.iter().enumerate();
        let mut candidates: Vec<Candidate> =
            measured.map(|(i, &plan)| Candidate { plan, outcome: Ok(9000.1 - i as f64) }).collect();
        candidates.push(Candidate { plan: *last, outcome: Err("y[3]: got 1, \"want\" 2\n".into()) });
        table.insert(&problem, plans[plans.len() - 2], candidates).unwrap();
    }
    table
}

fn refusal(text: &str) -> String {
    let error = PlanTable::parse(text).unwrap_err();
    assert!(matches!(error, Error::PlanTable { .. }), "{error}");
    error.to_string()
}

/// The refusal of a table in which this was changed.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut json: Value = serde_json::from_str(&table().to_json()).unwrap();
    change(&mut json);
    refusal(&json.to_string())
}

#[test]
fn what_is_written_is_read_again() {
    let table = table();
    let text = table.to_json();
    assert_eq!(text.lines().count(), 1 + 7 + 1 + problems().len() + 2, "a line each of its rows");
    let again = PlanTable::parse(&text).unwrap();
    assert_eq!(again, table);
    assert_eq!(again.to_json(), text);
    for problem in problems() {
        let plans = Plan::shortlist(&problem, &LIMITS, 8);
        assert_eq!(again.plan_of(&problem), Some(plans[plans.len() - 2]));
        let other = problem.with_offset(1);
        assert_eq!(again.plan_of(&other).is_some(), problem.dtype() == Dtype::Bf16, "{other:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.json");
    table.save(&path).unwrap();
    assert_eq!(PlanTable::load(&path).unwrap(), table);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A measured number is read as it was written, to the last bit: a reader that rounds twice is a digit off for one in a hundred.
#[test]
fn measured_numbers_keep_every_bit() {
    let problem = problems()[0];
    let plans = Plan::shortlist(&problem, &LIMITS, 2);
    let mut rng = fastrand::Rng::with_seed(1);
    for trial in 0..2000 {
        let mut table = PlanTable::new(origin(), Measure::Nanoseconds);
        let candidates = plans.iter().map(|&plan| Candidate { plan, outcome: Ok(rng.f64() * 1e7) }).collect();
        table.insert(&problem, plans[0], candidates).unwrap();
        assert_eq!(PlanTable::parse(&table.to_json()).unwrap(), table, "trial {trial}");
    }
}

#[test]
fn a_row_serves_every_way_to_write_its_shape() {
    let table = table();
    let planes = problem(Op::Train, &[32, 64, 3136], Layout::ChannelsFirst, Dtype::F16);
    assert!(table.plan_of(&planes).is_some());
    let last = problem(Op::Train, &[32, 3136, 64], Layout::ChannelsLast, Dtype::F16);
    assert_eq!(table.plan_of(&last), None);
    let more = problem(Op::Train, &[33, 64, 3136], Layout::ChannelsFirst, Dtype::F16);
    assert_eq!(table.plan_of(&more), None);
}

#[test]
fn a_table_has_the_planners_own_plans_alone() {
    let problem = problems()[0];
    let mut table = PlanTable::new(origin(), Measure::Nanoseconds);
    let best = Plan::new(&problem, &LIMITS, None).unwrap();
    // Fields that tell no plan from another are not taken from the caller.
    let mut forged = best;
    (forged.workspace_bytes, forged.predicted_ns, forged.tiling.shared_bytes) = (0, -1.0, 1 << 20);
    table.insert(&problem, forged, Vec::new()).unwrap();
    assert_eq!(table.plan_of(&problem), Some(best));
    let error = table.insert(&problem, best, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("row 2: expected a problem that the table has not yet, got train relu f16"), "{error}");
    let other = problems()[1];
    let error = table.insert(&other, best, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("row 2: expected one of the ") && error.contains(" threads="), "{error}");
    let empty = problem_of_no_value();
    assert!(table.insert(&empty, best, Vec::new()).unwrap_err().to_string().contains("one of the 0 plans"));
    assert_eq!(table.rows().len(), 1);
}

fn problem_of_no_value() -> Problem {
    problem(Op::Train, &[0, 64, 56, 56], Layout::ChannelsFirst, Dtype::F16)
}

#[test]
fn what_a_hand_made_of_a_table_is_refused() {
    type Change = Box<dyn FnOnce(&mut Value)>;
    fn set(path: &'static str, value: Value) -> Change {
        Box::new(move |json| *json.pointer_mut(path).unwrap() = value)
    }
    fn add(path: &'static str, name: &'static str, value: Value) -> Change {
        Box::new(move |json| {
            json.pointer_mut(path).unwrap().as_object_mut().unwrap().insert(name.into(), value);
        })
    }
    fn remove(path: &'static str, name: &'static str) -> Change {
        Box::new(move |json| {
            json.pointer_mut(path).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        })
    }
    let long = "é".repeat(2000);
    for (change, words) in [
        (set("/format", json!(2)), "format: expected 1, got 2"),
        (remove("", "format"), "table: expected a field \"format\", got none"),
        (remove("", "rows"), "table: expected a field \"rows\", got none"),
        (add("", "more", json!(1)), "got \"more\""),
        (set("/version", json!(1)), "table, version: expected a text"),
        (set("/device", json!(long)), "table, device: expected a text of at most 1024 characters, got "),
        (set("/limits", json!([])), "table, limits: expected an object, got []"),
        (remove("/limits", "sms"), "table, limits: expected a field \"sms\", got none"),
        (add("/limits", "smss", json!(1)), "got \"smss\""),
        (set("/limits/sms", json!(-1)), "table, limits, sms: expected a whole number of at most 32 bits, got -1"),
        (set("/limits/sms", json!(1u64 << 32)), "got 4294967296"),
        (set("/limits/sms", json!(1.5)), "got 1.5"),
        (set("/limits/compute_capability", json!([9])), "expected two numbers, major and minor, got [9]"),
        (set("/limits/cooperative", json!("yes")), "expected true or false, got \"yes\""),
        (remove("/limits/clusters/one_cta_per_sm", "8"), "one_cta_per_sm: expected a field \"8\""),
        (set("/measured", json!("seconds")), "measured: expected one of nanoseconds, counted_bytes, got \"seconds\""),
        (set("/rows", json!({})), "table, rows: expected a list"),
        (set("/rows/1", json!(7)), "row 2: expected an object, got 7"),
        (set("/rows/1/op", json!("silly")), "row 2, op: expected one of moments, train, infer, backward"),
        (set("/rows/1/dtype", json!("f64")), "row 2, dtype: expected one of f32, f16, bf16, got \"f64\""),
        (set("/rows/1/layout", json!("nchw")), "row 2, layout: expected one of channels-first, channels-last"),
        (set("/rows/1/n", json!(u64::MAX)), "row 2: expected a problem, got shape ["),
        (set("/rows/1/c", json!(0)), "row 2: expected a problem, got shape"),
        (set("/rows/1/n", json!(0)), "expected one of the 0 plans of"),
        (set("/rows/1/epilogue", json!("add-relu6")), "row 2, epilogue: expected one of identity"),
        (set("/rows/1/alignment", json!(3)), "aligned to 4 bytes, got"),
        (set("/rows/1/alignment", json!(64)), "aligned to 16 bytes, got"),
        (set("/rows/0/alignment", json!(2)), "row 1, candidate 1: expected one of the"),
        (set("/rows/1/plan/strategy", json!("grids")), "row 2: expected one of the"),
        (set("/rows/1/plan/threads", json!(96)), "row 2: expected one of the"),
        (set("/rows/1/plan/threads", json!(256.0)), "row 2: expected one of the"),
        (set("/rows/1/plan/smem_iters", json!(100_000)), "\"smem_iters\":100000"),
        (set("/rows/1/plan", Value::Null), "row 2: expected one of the"),
        (add("/rows/1/plan", "shared_bytes", json!(0)), "row 2: expected one of the"),
        (remove("/rows/1/plan", "teams"), "row 2: expected one of the"),
        (add("/rows/1", "note", json!("mine")), "row 2: expected the fields op, dtype,"),
        (set("/rows/1/candidates/0/measured", json!(-1)), "row 2: expected nanoseconds of at least 0, got -1"),
        (set("/rows/1/candidates/0/measured", json!("1")), "row 2, candidate 1, measured: expected a number"),
        (remove("/rows/1/candidates/0", "measured"), "row 2, candidate 1: expected a field \"measured\", got none"),
        (add("/rows/1/candidates/0", "left_out", json!("why")), "candidate 1: expected the fields plan, left_out"),
    ] {
        let text = changed(change);
        assert!(text.starts_with("plan table, ") && text.contains(words), "{words}: {text}");
        assert!(text.chars().count() < 600 && !text.contains('\n'), "{text}");
    }
    let twice = changed(|json| {
        let row = json["rows"][0].clone();
        json["rows"].as_array_mut().unwrap().push(row);
    });
    assert!(twice.contains("row 5: expected a problem that the table has not yet, got train relu f16"), "{twice}");
    let twice = changed(|json| json["rows"][0]["candidates"][1] = json["rows"][0]["candidates"][0].clone());
    assert!(twice.contains("row 1: expected each candidate once, got "), "{twice}");
    // A plan that failed, and one of another problem.
    let failed = changed(|json| {
        let candidates = json["rows"][0]["candidates"].as_array().unwrap();
        json["rows"][0]["plan"] = candidates.last().unwrap()["plan"].clone();
    });
    assert!(failed.contains("row 1: expected a plan that is a measured candidate, got "), "{failed}");
    let swapped = changed(|json| json["rows"][0]["plan"] = json["rows"][1]["plan"].clone());
    assert!(swapped.contains("row 1: expected one of the "), "{swapped}");
    // Plans of other limits are none of these.
    let narrow = changed(|json| json["limits"]["sms"] = json!(3));
    assert!(narrow.contains("expected one of the "), "{narrow}");
}

#[test]
fn texts_that_are_no_table() {
    for (text, words) in [
        ("", "text: expected JSON, got EOF"),
        ("[]", "table: expected an object, got []"),
        ("null", "table: expected an object, got null"),
        ("{\"format\": 1, \"format\": 1}", "text: expected each key once in an object, got \"format\" twice in one"),
        ("{\"format\": 1} x", "text: expected JSON, got trailing characters"),
    ] {
        let text = refusal(text);
        assert!(text.contains(words), "{text}");
    }
    assert!(refusal(&"[".repeat(100_000)).contains("recursion limit"));
    assert!(refusal(&" ".repeat((1 << 25) + 1)).contains("text: expected at most 33554432 bytes, got more"));
    let whole = table().to_json();
    for end in (0..whole.len() - 1).step_by(97) {
        refusal(&whole[..end]);
    }
}

#[test]
fn files_that_are_no_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.json");
    let missing = PlanTable::load(&path).unwrap_err().to_string();
    assert!(missing.contains("plans.json: No such file"), "{missing}");
    std::fs::write(&path, b"{\"format\": \xff}").unwrap();
    let text = PlanTable::load(&path).unwrap_err().to_string();
    assert!(text.contains("plans.json: plan table, text: expected UTF-8, got invalid utf-8"), "{text}");
    std::fs::write(&path, "{}").unwrap();
    let text = PlanTable::load(&path).unwrap_err().to_string();
    assert!(text.ends_with("plans.json: plan table, table: expected a field \"format\", got none"), "{text}");
    assert!(PlanTable::load(folder.path()).is_err());
}

#[test]
fn a_table_of_another_device_or_build_is_refused() {
    let table = table();
    origin().check(&table).unwrap();
    Origin { driver: 12_080, ..origin() }.check(&table).unwrap();
    let narrow = DeviceLimits { sms: 131, ..LIMITS };
    for (other, words) in [
        (Origin { device: "another".into(), ..origin() }, "expected the device \"another\", got \"a device\""),
        (Origin { version: "0.2.0".into(), ..origin() }, "expected the version of this crate \"0.2.0\", got \"0.1.0\""),
        (
            Origin { kernels: "f".into(), ..origin() },
            "expected the hash of the kernels \"f\", got \"0123456789abcdef\"",
        ),
        (Origin { limits: narrow, ..origin() }, "expected the limits of the device sms 131, got sms 132"),
    ] {
        let error = other.check(&table).unwrap_err();
        assert!(matches!(error, Error::ForeignPlanTable { .. }));
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A workspace has room for whatever plan a table may have, of this batch and of smaller ones.
#[test]
fn a_workspace_is_enough_for_every_plan() {
    for (_, limits) in DeviceLimits::KNOWN {
        for op in [Op::Moments, Op::Train, Op::Infer, Op::Backward(StatisticsKind::Batch)] {
            for (dims, layout) in [
                (&[64, 64, 28, 28][..], Layout::ChannelsFirst),
                (&[64, 28, 28, 64], Layout::ChannelsLast),
                (&[64, 7, 7, 2048], Layout::ChannelsLast),
                (&[64, 9, 3], Layout::ChannelsFirst),
                (&[4096, 100], Layout::ChannelsFirst),
            ] {
                for dtype in [Dtype::F32, Dtype::F16] {
                    let of = |n: usize| {
                        let dims = [&[n], &dims[1..]].concat();
                        let epilogue = if op.takes_epilogue() { Epilogue::SILU } else { Epilogue::IDENTITY };
                        Problem::new(op, Shape::new(&dims, layout).unwrap(), dtype, epilogue, 1e-5, None).unwrap()
                    };
                    for offset in [0, 1] {
                        let bytes = Plan::most_workspace_bytes(&of(dims[0]).with_offset(offset), limits, None);
                        for n in [1, 2, 3, 17, dims[0] / 2, dims[0]] {
                            for plan in Plan::all(&of(n).with_offset(offset), limits) {
                                assert!(plan.workspace_bytes <= bytes, "{:?}, n={n}: {plan}", of(n));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The outcome of reading a text: refused, or a table of the planner's plans.
fn read(text: &str) -> Result<(), TestCaseError> {
    let Ok(parsed) = PlanTable::parse(text) else { return Ok(()) };
    for row in parsed.rows() {
        // The problems of the table as it was, of which a row may be left.
        for problem in problems().iter().filter(|problem| parsed.plan_of(problem) == Some(*row.plan())) {
            prop_assert!(Plan::all(problem, &parsed.origin().limits).contains(row.plan()));
        }
    }
    prop_assert_eq!(PlanTable::parse(&parsed.to_json()).unwrap(), parsed);
    Ok(())
}

/// A piece of a table that is another one: numbers, words, signs, nothing.
#[test]
fn no_text_panics() {
    let part = Part { name: "tables", test: "no_text_panics", few: 1 };
    let text = table().to_json();
    let with = prop_oneof!["[0-9]{1,20}", "[-+.eE\\[\\]{}\":,a-z]{1,3}", "\\PC{0,8}", Just(String::new())];
    let change = (any::<prop::sample::Index>(), with, 0usize..6);
    random::hold(&part, 600, &prop::collection::vec(change, 1..4), |changes| {
        let mut bytes = text.clone().into_bytes();
        for (at, with, cut) in changes {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + cut);
            bytes.splice(at..end, with.into_bytes());
        }
        read(&String::from_utf8_lossy(&bytes))
    });
}

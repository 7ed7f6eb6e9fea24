//! The findings of the fit, as text: the constants, then predicted against measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use batchnorm::Strategy;
use batchnorm::bench::cost::Constants;

use crate::fit::{FIELDS, Fitted, predicted, residual, rms};
use crate::measured::{Measured, Observation, Of, Task};

/// Each constant: today's value, the fitted one with its standard error, and what it was fitted from.
pub(crate) fn constants(measured: &Measured, found: &Constants, fitted: &[Fitted]) -> String {
    let mut text = format!(
        "{:<17} {:>9} {:>9} {:>6} {:>6} {:>8} {:>8}  from\n",
        "constant", "today", "fitted", "+-", "times", "samples", "residual"
    );
    for (field, Fitted { observations, error }) in FIELDS.iter().zip(fitted) {
        let (name, today) = (field.name, field.of(&Constants::PLANNED_BY));
        let Some(error) = error else {
            let _ = writeln!(text, "{name:<17} {today:>9.4} {:>9}  these files do not determine it", "-");
            continue;
        };
        let of: Vec<&Observation> = observations.iter().map(|&index| &measured.observations[index]).collect();
        let samples: usize = of.iter().map(|observation| observation.samples).sum();
        let mut from: BTreeMap<String, usize> = BTreeMap::new();
        of.iter().for_each(|observation| *from.entry(source(observation)).or_default() += 1);
        let from = from.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ");
        let (value, rms) = (field.of(found), percent(rms(found, &of)));
        let (error, times) = (percent(*error), of.len());
        let _ =
            writeln!(text, "{name:<17} {today:>9.4} {value:>9.4} {error:>6} {times:>6} {samples:>8} {rms:>8}  {from}");
    }
    text + "residual: root mean square of what the model is off by, over the times that the constant bears on\n"
}

/// Every row by every strategy, predicted against measured, and what the planner would have chosen.
pub(crate) fn rows(measured: &Measured, found: &Constants) -> String {
    let mut text = String::new();
    for task in &measured.tasks {
        let _ = writeln!(text, "{}", task.name);
        let chosen = chosen(measured, task, found);
        for &index in &task.observations {
            let observation = &measured.observations[index];
            let (strategy, us) = (source(observation), observation.ns / 1e3);
            let off = 100.0 * residual(found, observation).exp_m1();
            let choice = if index == chosen { "  chosen" } else { "" };
            let us_predicted = predicted(found, observation) / 1e3;
            let _ = writeln!(text, "  {strategy:<9} {us:>9.2} us, predicted {us_predicted:>9.2} {off:>+7.1}%{choice}");
        }
        let _ = writeln!(text, "  regret {}", percent(regret(measured, task, found)));
    }
    text
}

/// The model's error by strategy, and the cost of its choices, with today's constants and the fitted ones.
pub(crate) fn summary(measured: &Measured, found: &Constants) -> String {
    let mut text = String::new();
    for (name, constants) in [("today's", &Constants::PLANNED_BY), ("fitted", found)] {
        let _ = writeln!(text, "by the {name} constants:");
        for &strategy in Strategy::ALL {
            let is_its =
                |observation: &&Observation| matches!(observation.of, Of::Plan(_, plan) if plan.strategy == strategy);
            let of = measured.observations.iter().filter(is_its);
            let mut off: Vec<f64> = of.map(|observation| residual(constants, observation).exp_m1().abs()).collect();
            off.sort_by(f64::total_cmp);
            if let (Some(worst), count) = (off.last(), off.len()) {
                let (median, worst) = (percent(off[count / 2]), percent(*worst));
                let _ = writeln!(text, "  {strategy:<9} off by {median} (median), {worst} (worst), of {count} rows");
            }
        }
        // There is nothing to choose where only one strategy was measured.
        let choices: Vec<&Task> = measured.tasks.iter().filter(|task| task.observations.len() > 1).collect();
        let regrets: Vec<f64> = choices.iter().map(|task| regret(measured, task, constants)).collect();
        if regrets.is_empty() {
            continue;
        }
        let best = regrets.iter().filter(|&&regret| regret == 0.0).count();
        let mean = percent(regrets.iter().sum::<f64>() / regrets.len() as f64);
        let worst = percent(regrets.iter().copied().fold(0.0, f64::max));
        let _ = writeln!(
            text,
            "  the best strategy is chosen on {best} of {} rows; regret {mean} (mean), {worst} (worst)",
            regrets.len()
        );
    }
    text
}

/// The observation whose plan the model says is the shortest.
fn chosen(measured: &Measured, task: &Task, constants: &Constants) -> usize {
    let ns = |&index: &usize| predicted(constants, &measured.observations[index]);
    let least = task.observations.iter().copied().reduce(|best, next| if ns(&next) < ns(&best) { next } else { best });
    least.unwrap_or_default()
}

/// The time that the chosen plan took beyond the best that was measured, as a share.
pub(crate) fn regret(measured: &Measured, task: &Task, constants: &Constants) -> f64 {
    let best = task.observations.iter().map(|&index| measured.observations[index].ns).fold(f64::INFINITY, f64::min);
    measured.observations[chosen(measured, task, constants)].ns / best - 1.0
}

/// The kind of a probe, or the strategy of a plan.
fn source(observation: &Observation) -> String {
    match &observation.of {
        Of::Probe(kind, _) => kind.clone(),
        Of::Plan(_, plan) => plan.strategy.to_string(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

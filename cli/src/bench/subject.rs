//! The subjects that are timed, and in which order.

use std::collections::BTreeMap;

use batchnorm::plan::Plan;
use batchnorm::verify::Journal;

/// The way in which an operation is called and timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// One call after the other on the CPU.
    Call,
    /// Replays of a graph of many launches, by the device's clock.
    Graph,
    /// Launches back to back, by the device's clock.
    Eager,
    /// The time that a call takes the host.
    Host,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Graph => "graph",
            Self::Eager => "eager",
            Self::Host => "host",
        }
    }
}

/// Seconds an operation, sample by sample.
pub(crate) type Samples = BTreeMap<Way, Vec<f64>>;

/// Why a subject has no samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not there, or cannot do it, or something else failed.
    Failed(String),
    /// It computes something else than the CPU path.
    Wrong(String),
}

impl Reason {
    pub(crate) fn text(&self) -> &str {
        let (Self::Failed(text) | Self::Wrong(text)) = self;
        text
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<batchnorm::Error> for Reason {
    fn from(error: batchnorm::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Something that is timed on one task.
pub(crate) trait Subject {
    /// The name, such as `batchnorm`, `copy` or `torch`.
    fn name(&self) -> String;

    /// The parts that its time includes.
    fn includes(&self) -> String;

    /// The strategy that plans it, as one word: of what plans nothing its name.
    fn strategy(&self) -> String {
        self.name().replace(' ', "-")
    }

    /// The plan behind its times, where it has one.
    fn plan(&self) -> Option<Plan> {
        None
    }

    /// Takes samples for about so many seconds; or says why there are none.
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason>;

    /// Releases memory that other subjects need, at the end of its turn. It is allocated again in the next turn.
    fn release(&mut self) {}
}

/// The rounds in which all subjects are measured. Even, so that each is as often early as late.
const ROUNDS: usize = 4;

/// A subject's samples, or why there are none.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) includes: String,
    pub(crate) plan: Option<Plan>,
    pub(crate) samples: Result<Samples, Reason>,
}

/// The order of measuring: subjects are interleaved, each has one turn a round.
pub(crate) struct Turns<'a> {
    pub(crate) journal: &'a Journal,
    /// The work in words, for the journal.
    pub(crate) what: &'a str,
    /// Whether the device has a time of its own. Samples of one that has not are thrown away.
    pub(crate) is_timed: bool,
    /// Asks the device whether it is lost.
    pub(crate) is_lost: &'a dyn Fn() -> bool,
}

impl Turns<'_> {
    /// Measures all subjects in turns: A B C, C B A, A B C, C B A. Who fails once is not asked again, and when the device is lost
    /// nobody is.
    pub(crate) fn measure(&self, subjects: &mut [Box<dyn Subject>], seconds: f64) -> Vec<Outcome> {
        let of = |subject: &dyn Subject| Outcome {
            name: subject.name(),
            includes: subject.includes(),
            plan: subject.plan(),
            samples: Ok(Samples::new()),
        };
        let mut outcomes: Vec<Outcome> = subjects.iter().map(|subject| of(&**subject)).collect();
        let rounds = if self.is_timed { ROUNDS } else { 2 };
        for round in 0..rounds {
            let mut turns: Vec<_> = subjects.iter_mut().zip(&mut outcomes).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for (subject, outcome) in turns {
                let Ok(all) = &mut outcome.samples else { continue };
                match self.turn(&mut **subject, outcome.plan.as_ref(), seconds / rounds as f64) {
                    Ok(samples) => samples.into_iter().for_each(|(way, more)| all.entry(way).or_default().extend(more)),
                    Err(reason) => outcome.samples = Err(reason),
                }
            }
        }
        outcomes
    }

    fn turn(&self, subject: &mut dyn Subject, plan: Option<&Plan>, seconds: f64) -> Result<Samples, Reason> {
        let strategy = subject.strategy();
        let plan = plan.map_or_else(|| "no plan".into(), ToString::to_string);
        let call = || {
            let samples = subject.measure(seconds);
            subject.release();
            samples
        };
        let lost = |samples: &Result<Samples, Reason>| {
            let failed = samples.as_ref().err().filter(|_| (self.is_lost)());
            failed.map(|reason| reason.text().to_owned())
        };
        let samples = self.journal.run(&strategy, &plan, self.what, call, lost);
        let mut samples = samples.ok_or_else(|| "not reached: the device was lost".to_owned())?;
        match &mut samples {
            Ok(samples) if !self.is_timed => samples.values_mut().for_each(Vec::clear),
            Ok(_) => {}
            Err(reason) => self.journal.failed(&strategy, &plan, self.what, reason.text()),
        }
        samples
    }
}

/// The median, range and number of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: usize,
}

impl Summary {
    /// `None` of no samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1], samples: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    struct Named(&'static str, Rc<RefCell<String>>, usize);

    impl Subject for Named {
        fn name(&self) -> String {
            self.0.into()
        }
        fn includes(&self) -> String {
            String::new()
        }
        fn measure(&mut self, _: f64) -> Result<Samples, Reason> {
            self.1.borrow_mut().push_str(self.0);
            self.2 -= 1;
            if self.2 == 0 { Err("no more".to_owned().into()) } else { Ok(Samples::from([(Way::Call, vec![1.0])])) }
        }
    }

    /// The order in which a, b and c are asked, where b fails the second time; and what they gave.
    fn turns(is_timed: bool, is_lost: bool) -> (String, Vec<Outcome>, Journal) {
        let order = Rc::new(RefCell::new(String::new()));
        let named = |name, times| Box::new(Named(name, Rc::clone(&order), times)) as Box<dyn Subject>;
        let journal = Journal::new(std::time::Instant::now());
        let is_lost = || is_lost;
        let turns = Turns { journal: &journal, what: "a row", is_timed, is_lost: &is_lost };
        let outcomes = turns.measure(&mut [named("a", 9), named("b", 2), named("c", 9)], 1.0);
        let order = order.borrow().clone();
        (order, outcomes, journal)
    }

    #[test]
    fn subjects_take_turns_and_a_failed_one_rests() {
        let (order, outcomes, journal) = turns(true, false);
        assert_eq!(order, "abccbaacca");
        assert_eq!(outcomes[0].samples.as_ref().unwrap()[&Way::Call].len(), 4);
        assert_eq!(outcomes[1].samples, Err(Reason::Failed("no more".into())));
        assert_eq!(journal.lost(), None);
    }

    #[test]
    fn a_device_without_a_time_leaves_ways_and_no_samples() {
        let (order, outcomes, _) = turns(false, false);
        assert_eq!(order, "abccba");
        assert_eq!(outcomes[0].samples, Ok(Samples::from([(Way::Call, Vec::new())])));
    }

    #[test]
    fn nobody_is_asked_when_the_device_is_lost() {
        let (order, outcomes, journal) = turns(true, true);
        assert_eq!(order, "abccb");
        let lost = journal.lost().unwrap();
        assert_eq!((&*lost.strategy, &*lost.what, &*lost.why), ("b", "a row", "no more"));
        assert_eq!(outcomes[0].samples, Err(Reason::Failed("not reached: the device was lost".into())));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of(&[]), None);
        let summary = Summary::of(&[4.0, 1.0, 2.0]).unwrap();
        assert_eq!((summary.median, summary.min, summary.max, summary.samples), (2.0, 1.0, 4.0, 3));
        assert_eq!(Summary::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }
}

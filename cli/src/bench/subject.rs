//! What is timed, and in which order.

use std::collections::BTreeMap;

/// How an operation is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// One call after the other on the CPU.
    Call,
    /// Replays of a graph of many launches, by the device's clock.
    Graph,
    /// Launches back to back, by the device's clock.
    Eager,
    /// What a call takes the host.
    Host,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Graph => "graph",
            Self::Eager => "eager",
            Self::Host => "host",
        }
    }
}

/// Seconds an operation, sample by sample.
pub(super) type Samples = BTreeMap<Way, Vec<f64>>;

/// Something that is timed on one task.
pub(super) trait Subject {
    /// Such as `batchnorm`, `copy` or `torch`.
    fn name(&self) -> String;

    /// What its time includes.
    fn includes(&self) -> String;

    /// Takes samples for about so many seconds; or says why there are none.
    fn measure(&mut self, seconds: f64) -> Result<Samples, String>;

    /// Its turn is over: what others need more than it does goes back, to be made again for the next turn.
    fn rest(&mut self) {}
}

/// The rounds in which all subjects are measured. Even, so that each is as often early as late.
const ROUNDS: usize = 4;

/// A subject's samples, or why there are none.
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) includes: String,
    pub(super) samples: Result<Samples, String>,
}

/// Measures all subjects in turns: A B C, C B A, A B C, C B A. Who fails once is not asked again.
pub(super) fn in_turns(subjects: &mut [Box<dyn Subject>], seconds: f64) -> Vec<Outcome> {
    let of = |subject: &dyn Subject| Outcome {
        name: subject.name(),
        includes: subject.includes(),
        samples: Ok(Samples::new()),
    };
    let mut outcomes: Vec<Outcome> = subjects.iter().map(|subject| of(&**subject)).collect();
    for round in 0..ROUNDS {
        let mut turns: Vec<_> = subjects.iter_mut().zip(&mut outcomes).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for (subject, outcome) in turns {
            let Ok(all) = &mut outcome.samples else { continue };
            let samples = subject.measure(seconds / ROUNDS as f64);
            subject.rest();
            match samples {
                Ok(samples) => samples.into_iter().for_each(|(way, more)| all.entry(way).or_default().extend(more)),
                Err(reason) => outcome.samples = Err(reason),
            }
        }
    }
    outcomes
}

/// The middle of some samples, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) samples: usize,
}

impl Spread {
    /// `None` of no samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
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
        fn measure(&mut self, _: f64) -> Result<Samples, String> {
            self.1.borrow_mut().push_str(self.0);
            self.2 -= 1;
            if self.2 == 0 { Err("no more".into()) } else { Ok(Samples::from([(Way::Call, vec![1.0])])) }
        }
    }

    #[test]
    fn subjects_take_turns_and_a_failed_one_rests() {
        let order = Rc::new(RefCell::new(String::new()));
        let named = |name, times| Box::new(Named(name, Rc::clone(&order), times)) as Box<dyn Subject>;
        let outcomes = in_turns(&mut [named("a", 9), named("b", 2), named("c", 9)], 1.0);
        assert_eq!(*order.borrow(), "abccbaacca");
        assert_eq!(outcomes[0].samples.as_ref().unwrap()[&Way::Call].len(), 4);
        assert_eq!(outcomes[1].samples, Err("no more".into()));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[4.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.samples), (2.0, 1.0, 4.0, 3));
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }
}

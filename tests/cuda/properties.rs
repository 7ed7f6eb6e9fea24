//! Properties of any shape, layout, dtype, alignment, strategy and order of threads.

use batchnorm::verify::{Group, Input};
use batchnorm::{Cuda, Dtype, Layout, Shape, Strategy as Plans};
use proptest::prelude::*;

use crate::abuse::Part;
use crate::device::{EMULATED, STRATEGIES, cuda};
use crate::journal::{self, Judged};
use crate::random;

fn shape() -> impl Strategy<Value = Shape> {
    let spatial = prop::collection::vec(1usize..10, 0..=3);
    let layout = prop_oneof![Just(Layout::ChannelsFirst), Just(Layout::ChannelsLast)];
    (1usize..20, 1usize..90, spatial, layout)
        .prop_map(|(n, c, s, layout)| {
            let dims = match layout {
                Layout::ChannelsFirst => [&[n, c], &s[..]].concat(),
                Layout::ChannelsLast => [&[n], &s[..], &[c]].concat(),
            };
            Shape::new(&dims, layout).unwrap()
        })
        .prop_filter("small enough for a device of threads that are functions", |shape| shape.len() < 20_000)
}

fn group() -> impl Strategy<Value = Group> {
    let inputs = [&[Input::Normal][..], &Input::SPECIAL].concat();
    let dtypes = prop::sample::select(Dtype::ON_CUDA.to_vec());
    (shape(), dtypes, prop::sample::select(inputs))
        .prop_filter("the dtype can hold the input", |(_, dtype, input)| input.suits(*dtype))
        .prop_map(|(shape, dtype, input)| Group { shape, dtype, input })
}

/// Fails by the first failure, with its strategy and plan.
fn check(cuda: &Cuda, group: &Group, start: usize) -> Result<(), TestCaseError> {
    let reports = journal::check(std::slice::from_ref(cuda), &group.cases(), start);
    prop_assert!(!reports.is_empty());
    match Judged::of(&reports).failures.into_iter().next() {
        Some(failure) => Err(TestCaseError::fail(format!("{start} elements behind: {failure}"))),
        None => Ok(()),
    }
}

#[test]
fn any_group_is_within_its_tolerance_anywhere() {
    let Some(cuda) = cuda() else { return };
    let test = "properties::any_group_is_within_its_tolerance_anywhere";
    let part = Part { name: "operations-cuda", test, few: 1 };
    let strategies = prop::sample::select::<Option<Plans>>(STRATEGIES.to_vec());
    let any = (group(), 0usize..9, strategies, any::<u64>());
    // The abuse run, which CI makes behind this, has minutes for others.
    random::hold(&part, if EMULATED { 20 } else { 2000 }, &any, |(group, start, strategy, seed)| {
        #[cfg(feature = "emulate")]
        cuda_emulator::set_seed(seed);
        #[cfg(not(feature = "emulate"))]
        let _ = seed;
        check(&cuda.clone().with_strategy(strategy), &group, start)
    });
}

//! Properties of any shape, layout and dtype: random groups against the oracle, a second formula that shares no code with
//! the reference.

mod abuse;
mod random;

use abuse::Part;
use batchnorm::verify::{Group, Input, Verified};
use batchnorm::{Cpu, Dtype, Layout, Shape};
use proptest::prelude::*;

/// A shape of 2 to 5 dimensions that is small, but passes the lanes and parts of the reference now and then.
fn shape() -> impl Strategy<Value = Shape> {
    let spatial = prop::collection::vec(1usize..12, 0..=3);
    let layout = prop_oneof![Just(Layout::ChannelsFirst), Just(Layout::ChannelsLast)];
    (1usize..40, 1usize..70, spatial, layout).prop_map(|(n, c, s, layout)| {
        let dims = match layout {
            Layout::ChannelsFirst => [&[n, c], &s[..]].concat(),
            Layout::ChannelsLast => [&[n], &s[..], &[c]].concat(),
        };
        Shape::new(&dims, layout).unwrap()
    })
}

fn group() -> impl Strategy<Value = Group> {
    let inputs = [&[Input::Normal][..], &Input::SPECIAL].concat();
    (shape(), prop::sample::select(Dtype::ALL), prop::sample::select(inputs))
        .prop_filter("the dtype can hold the input", |(_, dtype, input)| input.suits(*dtype))
        .prop_map(|(shape, dtype, input)| Group { shape, dtype, input })
}

#[test]
fn any_group_is_within_its_tolerance() {
    let part = Part { name: "operations", test: "any_group_is_within_its_tolerance", few: 1 };
    // The abuse run, which CI makes behind this, has minutes for others.
    random::hold(&part, 80, &group(), |group| {
        for report in Cpu.check(&group).unwrap() {
            prop_assert!(report.result.is_ok(), "{}: {}", report.case, report.result.unwrap_err());
        }
        Ok(())
    });
}

/// Channels of one value: the sums of some of these constants round, so that the mean is off by a third of the tolerance. The
/// oracle must not blame the reference for it.
#[test]
fn constant_channels_are_exact() {
    for n in 2..=40 {
        let shape = Shape::new(&[n, 17], Layout::ChannelsFirst).unwrap();
        for report in Cpu.check(&Group { shape, dtype: Dtype::F64, input: Input::Constant }).unwrap() {
            assert!(report.result.is_ok(), "{}: {}", report.case, report.result.unwrap_err());
        }
    }
}

/// Long planes, many rows, many channels: beyond what the random shapes reach.
#[test]
fn shapes_beyond_one_part_are_within_their_tolerance() {
    let first = Layout::ChannelsFirst;
    for (dims, layout) in [
        (&[3, 2, 20_011][..], first),
        (&[1, 1, 40_000], first),
        (&[60_000, 3], first),
        (&[2, 5_003], first),
        (&[70, 3, 2], first),
        (&[9_001, 2, 2], first),
        (&[40, 30, 30, 17], Layout::ChannelsLast),
        (&[2, 1, 1, 1, 4_099], Layout::ChannelsLast),
    ] {
        let group = Group { shape: Shape::new(dims, layout).unwrap(), dtype: Dtype::F32, input: Input::Normal };
        for report in Cpu.check(&group).unwrap() {
            assert!(report.result.is_ok(), "{}: {}", report.case, report.result.unwrap_err());
        }
    }
}

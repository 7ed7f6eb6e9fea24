//! Where the values of a channel stand, and tensors in the order of their channels.

use core::ops::Range;

use crate::element::Element;
use crate::shape::{Layout, Shape};

/// Samples that are put in order at a time where neighbours are of different channels: their lines of memory stay in cache.
const SAMPLES_AT_ONCE: usize = 64;
/// Channels that are put in order at a time there: as a line of memory has values.
const CHANNELS_AT_ONCE: usize = 16;

/// Rows of a tensor, each of which has a run of this many values of every channel.
fn rows_of(shape: Shape) -> [usize; 2] {
    match shape.layout() {
        Layout::ChannelsFirst => [shape.n(), shape.s()],
        Layout::ChannelsLast => [shape.n() * shape.s(), 1],
    }
}

/// Where the values of a channel stand, sample by sample.
pub fn indices(shape: Shape, channel: usize) -> impl Iterator<Item = usize> {
    let ([rows, s], c) = (rows_of(shape), shape.c());
    (0..rows).flat_map(move |row| (0..s).map(move |i| (row * c + channel) * s + i))
}

/// Where a channel's sample stands.
pub(super) fn index(shape: Shape, channel: usize, sample: usize) -> usize {
    let [_, s] = rows_of(shape);
    (sample / s * shape.c() + channel) * s + sample % s
}

/// The values of a tensor in f64, channel by channel, and sample by sample as [`indices`] has them.
pub(super) fn by_channel<T: Element>(shape: Shape, values: &[T]) -> Vec<f64> {
    let mut ordered = vec![0.0; values.len()];
    put_in_order(shape, values, 0..shape.c(), &mut ordered);
    ordered
}

/// Calls `f` with each channel and its values in f64, in order, up to the first error.
pub(super) fn try_each_channel<T: Element, E>(
    shape: Shape,
    values: &[T],
    mut f: impl FnMut(usize, &[f64]) -> Result<(), E>,
) -> Result<(), E> {
    let [_, s] = rows_of(shape);
    let at_once = if s > 1 { 1 } else { CHANNELS_AT_ONCE.min(shape.c()).max(1) };
    let mut ordered = vec![0.0; at_once * shape.m()];
    for first in (0..shape.c()).step_by(at_once) {
        let channels = first..(first + at_once).min(shape.c());
        let ordered = &mut ordered[..channels.len() * shape.m()];
        put_in_order(shape, values, channels.clone(), ordered);
        for channel in channels {
            f(channel, &ordered[(channel - first) * shape.m()..][..shape.m()])?;
        }
    }
    Ok(())
}

/// Writes the values of some channels in their order.
fn put_in_order<T: Element>(shape: Shape, values: &[T], channels: Range<usize>, ordered: &mut [f64]) {
    let ([rows, s], c) = (rows_of(shape), shape.c());
    if ordered.is_empty() {
        return;
    }
    if s > 1 {
        for (channel, ordered) in channels.zip(ordered.chunks_mut(rows * s)) {
            for (row, ordered) in ordered.chunks_mut(s).enumerate() {
                let run = &values[(row * c + channel) * s..][..s];
                ordered.iter_mut().zip(run).for_each(|(ordered, value)| *ordered = value.to_f64());
            }
        }
        return;
    }
    for first in (0..rows).step_by(SAMPLES_AT_ONCE) {
        let at_once = first..(first + SAMPLES_AT_ONCE).min(rows);
        for (channel, ordered) in channels.clone().zip(ordered.chunks_mut(rows)) {
            let column = values[first * c + channel..].iter().step_by(c);
            ordered[at_once.clone()].iter_mut().zip(column).for_each(|(ordered, value)| *ordered = value.to_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_stands_once_in_the_order_of_channels() {
        for (dims, layout) in [
            (&[3, 4][..], Layout::ChannelsFirst),
            (&[3, 4, 5], Layout::ChannelsFirst),
            (&[150, 37], Layout::ChannelsFirst),
            (&[5, 3, 9, 4], Layout::ChannelsLast),
            (&[1, 1, 1], Layout::ChannelsLast),
            (&[0, 7], Layout::ChannelsFirst),
            (&[2, 7, 0], Layout::ChannelsFirst),
        ] {
            let shape = Shape::new(dims, layout).unwrap();
            let values: Vec<f32> = (0..shape.len()).map(|i| i as f32).collect();
            let all: Vec<usize> = (0..shape.c()).flat_map(|channel| indices(shape, channel)).collect();
            let by_index =
                (0..shape.c()).flat_map(|channel| (0..shape.m()).map(move |sample| index(shape, channel, sample)));
            assert!(by_index.eq(all.iter().copied()), "{shape}");
            let ordered = by_channel(shape, &values);
            assert!(ordered.iter().copied().eq(all.iter().map(|&i| i as f64)), "{shape}");
            let (mut channels, mut calls): (Vec<f64>, usize) = (Vec::new(), 0);
            let each = |channel: usize, values: &[f64]| {
                assert_eq!(channel, calls);
                calls += 1;
                channels.extend(values);
                if channel == 5 { Err(channel) } else { Ok(()) }
            };
            let ended = try_each_channel(shape, &values, each);
            assert_eq!(ended, if shape.c() > 5 { Err(5) } else { Ok(()) }, "{shape}");
            assert_eq!(channels, ordered[..shape.c().min(6) * shape.m()], "{shape}");
            for (i, &index) in all.iter().enumerate() {
                let channel = match layout {
                    Layout::ChannelsFirst => index / shape.s() % shape.c(),
                    Layout::ChannelsLast => index % shape.c(),
                };
                assert_eq!(channel, i / shape.m(), "{shape}");
            }
        }
    }
}

//! The results that an operation must give, by the CPU path: nothing wrong is ever timed.

use super::Pass;
use super::work::Work;
use crate::{Compute, Cpu, Element, Layout, Result, Shape};

/// The tensors that an operation wrote.
pub struct Outputs<T> {
    /// y, or dx and, where there is one, dz: from the start of their buffers.
    pub data: Vec<Vec<T>>,
    /// Saved mean and inverse standard deviation, or dgamma and dbeta; none where they are not to be compared.
    pub channels: Vec<Vec<f32>>,
}

/// The results of the CPU path on up to four channels of a tensor. How much a rounding may be is the business of the table of
/// cases; here a few are allowed.
pub struct Reference<T> {
    shape: Shape,
    offset: usize,
    operation: Pass,
    picked: Vec<usize>,
    wanted: Outputs<T>,
}

impl<T: Element<Param = f32>> Reference<T>
where
    Cpu: Compute<T>,
{
    /// The reference of an operation on buffers that begin `offset` elements before the tensor, with the [parameters](super::parameters)
    /// of every channel.
    ///
    /// # Errors
    /// In words: a buffer that is too short, or what the CPU path refused.
    pub fn new(shape: Shape, offset: usize, operation: Pass, [x, dy]: [&[T]; 2]) -> core::result::Result<Self, String> {
        let told = |error: crate::Error| format!("{} on the CPU: {error}", operation.name());
        for (name, actual) in [("x", x.len()), ("dy", dy.len())] {
            let expected = shape.len().saturating_add(offset);
            if actual < expected {
                return Err(format!("{name}: expected at least {expected} values, got {actual}"));
            }
        }
        let c = shape.c();
        let mut picked = vec![0, c / 3, c / 2, c - 1];
        picked.dedup();
        let few = with_channels(shape, picked.len()).map_err(told)?;
        let [x, dy] = [x, dy].map(|values| gather(shape, &values[offset..], &picked));
        let mut cpu = Work::<Cpu, T>::over(&Cpu, few, &picked, 0, 1, [&x, &dy]).map_err(told)?;
        cpu.prepare(operation).and_then(|()| cpu.run(operation)).map_err(told)?;
        let wanted = cpu.outputs(operation).map_err(told)?;
        Ok(Self { shape, offset, operation, picked, wanted })
    }

    /// Whether outputs of the whole tensor agree.
    ///
    /// # Errors
    /// In words: which value is wrong, or a buffer that is too short.
    pub fn compare(&self, got: &Outputs<T>) -> core::result::Result<(), String> {
        let Self { shape, offset, operation, picked, wanted } = self;
        let data = got.data.iter().map(|got| (shape.len().saturating_add(*offset), got.len()));
        for (expected, actual) in data.chain(got.channels.iter().map(|got| (shape.c(), got.len()))) {
            if actual < expected {
                return Err(format!("{}: expected at least {expected} values, got {actual}", operation.name()));
            }
        }
        let roundings = (4.0 * T::DTYPE.unit_roundoff()).max(1e-4);
        for (got, wanted) in got.data.iter().zip(&wanted.data) {
            let got = gather(*shape, &got[*offset..], picked);
            compare(*operation, "data", &got, wanted, roundings)?;
        }
        for (got, wanted) in got.channels.iter().zip(&wanted.channels) {
            let got: Vec<f32> = picked.iter().map(|&channel| got[channel]).collect();
            compare(*operation, "one value a channel", &got, wanted, 1e-4)?;
        }
        Ok(())
    }
}

fn compare<T: Element>(
    operation: Pass,
    what: &str,
    got: &[T],
    wanted: &[T],
    allowed: f64,
) -> core::result::Result<(), String> {
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let (got, wanted) = (got.to_f64(), wanted.to_f64());
        let is_close = (got - wanted).abs() <= allowed * wanted.abs().max(1.0); // false for NaN
        if !is_close {
            return Err(format!("{}, {what}, value {i}: expected {wanted}, got {got}", operation.name()));
        }
    }
    Ok(())
}

/// The shape with another number of channels.
fn with_channels(shape: Shape, c: usize) -> Result<Shape> {
    let mut dims = shape.dims().to_vec();
    match shape.layout() {
        Layout::ChannelsFirst => dims[1] = c,
        Layout::ChannelsLast => *dims.last_mut().unwrap_or(&mut 0) = c,
    }
    Shape::new(&dims, shape.layout())
}

/// The values of these channels alone.
fn gather<T: Element>(shape: Shape, values: &[T], channels: &[usize]) -> Vec<T> {
    let (c, s) = (shape.c(), shape.s());
    match shape.layout() {
        Layout::ChannelsFirst => {
            let planes = (0..shape.n()).flat_map(|n| channels.iter().map(move |channel| (n * c + channel) * s));
            planes.flat_map(|start| values[start..start + s].iter().copied()).collect()
        }
        Layout::ChannelsLast => {
            (0..shape.m()).flat_map(|row| channels.iter().map(move |channel| values[row * c + channel])).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        let shape = Shape::new(&[3, 7, 5], Layout::ChannelsFirst).unwrap();
        let train = Pass::ALL[0];
        let wanted = Work::<Cpu, f32>::new(&Cpu, shape, 0, 1).unwrap().outputs(train).unwrap();
        let mut wrong = wanted.data[0].clone();
        for value in [2.0, f32::NAN] {
            wrong[13] = value;
            let error = compare(train, "data", &wrong, &wanted.data[0], 1e-4).unwrap_err();
            assert!(error.starts_with("train, data, value 13: expected "), "{error}");
        }
    }

    #[test]
    fn buffers_that_are_too_short_are_refused() {
        let shape = Shape::new(&[3, 7, 5], Layout::ChannelsFirst).unwrap();
        let train = Pass::ALL[0];
        let values = vec![0.0f32; 107];
        let refused = |x: usize, dy: usize| {
            Reference::new(shape, 2, train, [&values[..x], &values[..dy]]).err().expect("a short buffer")
        };
        assert_eq!(refused(106, 107), "x: expected at least 107 values, got 106");
        assert_eq!(refused(107, 0), "dy: expected at least 107 values, got 0");
        let reference = Reference::new(shape, 2, train, [&values, &values]).unwrap();
        for (data, channels) in [(106, 7), (107, 6)] {
            let outputs = Outputs { data: vec![vec![0.0f32; data]], channels: vec![vec![0.0; channels]] };
            let error = reference.compare(&outputs).unwrap_err();
            assert!(error.starts_with("train: expected at least "), "{error}");
        }
    }

    #[test]
    fn channels_are_gathered_in_both_layouts() {
        let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let first = gather(shape(&[2, 3, 2], Layout::ChannelsFirst), &values, &[0, 2]);
        assert_eq!(first, [0.0, 1.0, 4.0, 5.0, 6.0, 7.0, 10.0, 11.0]);
        let last = gather(shape(&[2, 2, 3], Layout::ChannelsLast), &values, &[0, 2]);
        assert_eq!(last, [0.0, 2.0, 3.0, 5.0, 6.0, 8.0, 9.0, 11.0]);
    }
}

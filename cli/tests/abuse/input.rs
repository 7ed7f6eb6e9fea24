//! Random input files: sound, of the wrong tensors, or wrong as files.

use batchnorm::Dtype;
use fastrand::Rng;
use half::{bf16, f16};

use crate::file::{Draft, mangled, mutate, pick};

/// A file, and what is known of it.
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
    pub(crate) dims: Vec<u64>,
    /// Dtype of `x`.
    pub(crate) dtype: Dtype,
    /// The tensors that are there, as they should be.
    pub(crate) names: Vec<&'static str>,
    /// Whether it is a file, and all of its tensors are as they should be.
    pub(crate) is_sound: bool,
}

/// The dtype's name in a file.
fn name_in_file(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
        Dtype::F64 => "F64",
    }
}

impl Input {
    /// A random input with the channels last or second among the dimensions. `is_file` for a sound file, in which the tensors
    /// alone may be wrong.
    pub(crate) fn new(rng: &mut Rng, is_channels_last: bool, is_file: bool) -> Self {
        let dims = dims(rng);
        let c = dims[if is_channels_last { dims.len() - 1 } else { 1 }];
        let dtype = pick(rng, Dtype::ALL);
        let mut input = Self { bytes: vec![], dims, dtype, names: vec![], is_sound: c > 0 };
        let mut draft = Draft::default();
        if !is_file && rng.u8(..100) == 0 {
            input.enlarge(rng);
        }
        for name in ["x", "z", "dy", "weight", "bias", "running_mean", "running_var", "num_batches_tracked"] {
            let absent = match name {
                "x" => 50,
                "num_batches_tracked" => 3,
                _ => 10,
            };
            if rng.u8(..absent) != 0 && (c == input.channels(is_channels_last) || matches!(name, "x" | "z" | "dy")) {
                input.push(rng, &mut draft, name, c);
            }
        }
        if rng.u8(..10) == 0 {
            draft.push("unread", "I8", &[3], &[1, 2, 3]);
        }
        // A third are wrong as files.
        if !is_file && rng.u8(..3) == 0 {
            input.is_sound = false;
            (0..=rng.usize(..2)).for_each(|_| mutate(rng, &mut draft));
        }
        input.bytes = draft.to_bytes();
        if !is_file && rng.u8(..12) == 0 {
            input.is_sound = false;
            input.bytes = mangled(rng, input.bytes);
        }
        input
    }

    /// Adds a tensor, which is of another shape or type than it should be now and then.
    fn push(&mut self, rng: &mut Rng, draft: &mut Draft, name: &'static str, c: u64) {
        let is_data = matches!(name, "x" | "z" | "dy");
        if name == "num_batches_tracked" {
            let count = pick(rng, &[0, 1, 7, i64::MAX - 1, i64::MAX]);
            let count = if rng.u8(..30) == 0 { pick(rng, &[-1, i64::MIN]) } else { count };
            self.is_sound &= count >= 0;
            draft.push(name, "I64", pick(rng, &[&[][..], &[1u64]]), &count.to_le_bytes());
            self.names.push(name);
            return;
        }
        let (mut dims, dtype) =
            if is_data { (self.dims.clone(), self.dtype) } else { (vec![c], pick(rng, Dtype::ALL)) };
        let mut dtype = name_in_file(dtype);
        if rng.u8(..40) == 0 {
            self.is_sound = false;
            match rng.u8(..4) {
                0 => dims.push(2),
                1 => drop(dims.pop()),
                2 => dims.reverse(),
                _ => {
                    let others = ["I64", "U8"];
                    let all: Vec<_> = Dtype::ALL.iter().copied().map(name_in_file).chain(others).collect();
                    dtype = pick(rng, &all);
                }
            }
        }
        let len = dims.iter().product::<u64>() as usize;
        draft.push(name, dtype, &dims, &values(rng, dtype, len));
        self.names.push(name);
    }

    /// A batch of nothing has any number of channels, whose results have a size though.
    fn enlarge(&mut self, rng: &mut Rng) {
        self.dims = vec![0, pick(rng, &[1 << 20, 160_000_000, 1 << 28, 1 << 29, 1 << 31, 1 << 58])];
        self.is_sound = false;
    }

    fn channels(&self, is_channels_last: bool) -> u64 {
        self.dims[if is_channels_last { self.dims.len() - 1 } else { 1 }]
    }

    /// Values a channel.
    pub(crate) fn m(&self, is_channels_last: bool) -> u64 {
        let channel = if is_channels_last { self.dims.len() - 1 } else { 1 };
        self.dims.iter().enumerate().filter(|&(place, _)| place != channel).map(|(_, size)| size).product()
    }
}

/// Two to five dimensions, some hundreds of values, and now and then none, or one a channel.
fn dims(rng: &mut Rng) -> Vec<u64> {
    let rank = rng.usize(2..=5);
    let most = if rank < 4 { 20 } else { 6 };
    let mut dims: Vec<u64> = (0..rank).map(|_| rng.u64(1..=most)).collect();
    match rng.u8(..20) {
        0 => dims[rng.usize(..rank)] = 0,
        1 => {
            let c = dims[1];
            dims.fill(1);
            dims[1] = c;
        }
        // Sizes beyond the vectors and the chunks that work is cut into.
        2 => dims[0] *= 40,
        _ => {}
    }
    dims
}

/// Values of one kind in a type's bytes.
fn values(rng: &mut Rng, dtype: &str, len: usize) -> Vec<u8> {
    let kind = rng.u8(..12);
    let mut value = |place: usize| match kind {
        0 => 3.25,
        1 if place == len / 2 => f64::NAN,
        2 if place.is_multiple_of(5) => f64::INFINITY.copysign(rng.f64() - 0.5),
        3 => (rng.f64() - 0.5) * 1e-39,
        4 => (rng.f64() - 0.5) * 1e38,
        5 => (rng.f64() - 0.5) * 6e4,
        6 => 1e4 + rng.f64(),
        7 => f64::from_bits(rng.u64(..)),
        8 => -0.0,
        _ => rng.f64() * 4.0 - 2.0,
    };
    let values = (0..len).map(&mut value);
    match Dtype::ALL.iter().copied().find(|&of| name_in_file(of) == dtype) {
        Some(Dtype::F32) => values.flat_map(|value| (value as f32).to_le_bytes()).collect(),
        Some(Dtype::F16) => values.flat_map(|value| f16::from_f64(value).to_le_bytes()).collect(),
        Some(Dtype::Bf16) => values.flat_map(|value| bf16::from_f64(value).to_le_bytes()).collect(),
        Some(Dtype::F64) => values.flat_map(f64::to_le_bytes).collect(),
        None if dtype == "I64" => values.flat_map(|value| (value as i64).to_le_bytes()).collect(),
        None => values.map(|value| value as u8).collect(),
    }
}

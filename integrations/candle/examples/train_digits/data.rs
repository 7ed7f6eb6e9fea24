//! The images.

use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

/// Every so many images one is held out.
const HELD_OUT_EVERY: usize = 5;

/// Images with their labels.
pub(crate) struct Images {
    /// `[n, 1, 8, 8]`, from 0 to 1.
    pub(crate) x: Tensor,
    /// `[n]`, the digit.
    pub(crate) labels: Tensor,
}

impl Images {
    pub(crate) fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// The images of these numbers.
    pub(crate) fn batch(&self, numbers: &[u32]) -> candle_core::Result<Self> {
        let numbers = Tensor::new(numbers, self.x.device())?;
        Ok(Self { x: self.x.index_select(&numbers, 0)?, labels: self.labels.index_select(&numbers, 0)? })
    }
}

pub(crate) struct Digits {
    pub(crate) training: Images,
    pub(crate) held_out: Images,
}

impl Digits {
    pub(crate) fn load(file: &Path, device: &Device) -> Result<Self, Box<dyn Error>> {
        let tensors = candle_core::safetensors::load(file, device).map_err(|e| format!("{}: {e}", file.display()))?;
        let get = |name: &str| tensors.get(name).ok_or_else(|| format!("{}: no tensor `{name}`", file.display()));
        let x = get("x")?;
        let n = x.dim(0)?;
        // Pixels go from 0 to 16.
        let x = (x.to_dtype(DType::F32)?.reshape((n, 1, 8, 8))? / 16.0)?;
        let all = Images { x, labels: get("labels")?.to_dtype(DType::U32)? };
        let is_held_out = |number: &u32| (*number as usize).is_multiple_of(HELD_OUT_EVERY);
        let (held_out, training): (Vec<u32>, Vec<u32>) = (0..n as u32).partition(is_held_out);
        Ok(Self { training: all.batch(&training)?, held_out: all.batch(&held_out)? })
    }
}

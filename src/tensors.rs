//! The files of this crate: safetensors, read with every tensor checked and written whole or not at all.

mod file;
mod header;
mod whole;

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::path::Path;

use bytemuck::AnyBitPattern;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, TensorView};

pub use file::TensorFile;
pub use whole::{WholeFile, place_of};

use crate::element::{Dtype, Element, Param};
use crate::error::{Error, Result};
use crate::memory;
use crate::with_element;

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and this crate reads them as they are");

/// The most characters of a header that a message repeats.
const LONGEST: usize = 200;

/// The tensors of a safetensors file, checked one by one as they are taken.
pub struct Tensors<'a> {
    file: SafeTensors<'a>,
}

/// Names, dtypes and dimensions: nothing of the contents.
impl fmt::Debug for Tensors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tensors = self.file.tensors();
        tensors.sort_by(|(name, _), (other, _)| name.cmp(other));
        let kinds = tensors.iter().map(|(name, tensor)| (name, (tensor.dtype(), tensor.shape())));
        f.write_str("Tensors ")?;
        f.debug_map().entries(kinds).finish()
    }
}

impl<'a> Tensors<'a> {
    /// The tensors of a file's bytes. No tensor is copied yet.
    ///
    /// # Errors
    /// [`Error::Format`] for bytes that are truncated, have a false or oversized header, name anything twice, or leave gaps;
    /// [`Error::OutOfMemory`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        memory::expect_room(parsed_bytes(bytes))?;
        let refused = |reason: &dyn Display| Error::Format { reason: format!("{reason} in {} bytes", bytes.len()) };
        // A hostile header may put any character into a message, and any number of them.
        let escaped = |text: &str| text.chars().take(LONGEST).collect::<String>().escape_debug().to_string();
        let repeated = header::repeated_key(bytes);
        if let Ok(Some(key)) = &repeated {
            return Err(refused(&format_args!("the key \"{}\" twice in one object of the header,", escaped(key))));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| refused(&escaped(&error.to_string())))?;
        repeated.map_err(|error| refused(&escaped(&error.to_string())))?;
        Ok(Self { file })
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names = self.file.names();
        names.sort_unstable();
        names
    }

    /// Whether the file has this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.file.tensor(name).is_ok()
    }

    /// The dimensions of a tensor.
    ///
    /// # Errors
    /// [`Error::TensorMissing`].
    pub fn dims(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.tensor(name)?.shape().to_vec())
    }

    /// The dtype of a data tensor.
    ///
    /// # Errors
    /// [`Error::TensorMissing`]; [`Error::Dtype`] for anything but f32, f16, bf16 and f64.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        let dtype = self.tensor(name)?.dtype();
        float(dtype).ok_or_else(|| Error::dtype(name, "f32, f16, bf16 or f64", format!("{dtype:?}")))
    }

    /// A data tensor, which must have this dtype and these dimensions.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::Dtype`], [`Error::TensorShape`], [`Error::OutOfMemory`].
    pub fn data<T: Element>(&self, name: &str, dims: &[usize]) -> Result<Vec<T>> {
        let dtype = self.dtype(name)?;
        if dtype != T::DTYPE {
            return Err(Error::dtype(name, &format!("dtype {}", T::DTYPE), dtype));
        }
        collected(self.shaped(name, dims)?.data(), |value: T| value)
    }

    /// A tensor of one value a channel, in any float dtype, converted.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::Dtype`], [`Error::TensorShape`], [`Error::OutOfMemory`].
    pub fn channels<P: Param>(&self, name: &str, c: usize) -> Result<Vec<P>> {
        fn convert<T: Element, P: Param>(bytes: &[u8]) -> Result<Vec<P>> {
            collected(bytes, |value: T| P::from_f64(value.to_f64()))
        }
        let dtype = self.dtype(name)?;
        let bytes = self.shaped(name, &[c])?.data();
        with_element!(dtype, T => convert::<T, P>(bytes))
    }

    /// A tensor of integers with these dimensions, such as labels: of i64, i32 or u8, as i64.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::Dtype`], [`Error::TensorShape`], [`Error::OutOfMemory`].
    pub fn integers(&self, name: &str, dims: &[usize]) -> Result<Vec<i64>> {
        let dtype = self.tensor(name)?.dtype();
        let bytes = || Ok(self.shaped(name, dims)?.data());
        match dtype {
            FileDtype::I64 => collected(bytes()?, |value: i64| value),
            FileDtype::I32 => collected(bytes()?, |value: i32| value.into()),
            FileDtype::U8 => collected(bytes()?, |value: u8| value.into()),
            _ => Err(Error::dtype(name, "i64, i32 or u8", format!("{dtype:?}"))),
        }
    }

    /// A count: one i64 that is not negative.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::Dtype`], [`Error::TensorShape`], [`Error::NegativeCount`].
    pub fn count(&self, name: &str) -> Result<i64> {
        let tensor = self.tensor(name)?;
        if tensor.dtype() != FileDtype::I64 {
            return Err(Error::dtype(name, "dtype i64", format!("{:?}", tensor.dtype())));
        }
        if !matches!(tensor.shape(), [] | [1]) {
            let actual = tensor.shape().to_vec();
            return Err(Error::TensorShape { tensor: name.into(), expected: vec![], actual });
        }
        let count = bytemuck::pod_read_unaligned::<i64>(tensor.data());
        if count < 0 {
            return Err(Error::NegativeCount { tensor: name.into(), actual: count });
        }
        Ok(count)
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>> {
        self.file.tensor(name).map_err(|_| Error::TensorMissing {
            tensor: name.escape_debug().to_string(),
            actual: abbreviated(&self.names()),
        })
    }

    fn shaped(&self, name: &str, expected: &[usize]) -> Result<TensorView<'a>> {
        let tensor = self.tensor(name)?;
        if tensor.shape() != expected {
            let (expected, actual) = (expected.to_vec(), tensor.shape().to_vec());
            return Err(Error::TensorShape { tensor: name.into(), expected, actual });
        }
        Ok(tensor)
    }
}

/// The bytes that a file's header takes when it is parsed, at most: names and numbers of each tensor, and tables of them.
fn parsed_bytes(bytes: &[u8]) -> usize {
    /// Two bytes, as `1,` in a list that is no tensor's, become a value of 32, in a vector that is copied as it grows to twice
    /// its length.
    const OF_A_BYTE: u64 = 64;
    let header = bytes.first_chunk().map_or(0, |len| u64::from_le_bytes(*len)).min(bytes.len() as u64);
    usize::try_from(header.saturating_mul(OF_A_BYTE)).unwrap_or(usize::MAX)
}

/// Each value that these bytes hold, wherever they begin.
fn collected<T: AnyBitPattern, P>(bytes: &[u8], value: impl Fn(T) -> P) -> Result<Vec<P>> {
    let mut values = memory::room(bytes.len() / size_of::<T>())?;
    values.extend(bytes.chunks_exact(size_of::<T>()).map(|bytes| value(bytemuck::pod_read_unaligned(bytes))));
    Ok(values)
}

impl From<Dtype> for FileDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
            Dtype::F64 => Self::F64,
        }
    }
}

fn float(dtype: FileDtype) -> Option<Dtype> {
    Dtype::ALL.iter().copied().find(|&float| FileDtype::from(float) == dtype)
}

/// The first few names, so that a message stays one line.
fn abbreviated(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect();
    match names.len() {
        0 => "no tensors".into(),
        len if len > SHOWN => format!("{} and {} more", shown.join(", "), len - SHOWN),
        _ => shown.join(", "),
    }
}

/// A file's bytes.
///
/// # Errors
/// [`Error::Io`], [`Error::OutOfMemory`].
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    fs::read(path).map_err(|error| match (error.kind(), fs::metadata(path)) {
        (io::ErrorKind::OutOfMemory, Ok(found)) if found.is_file() => {
            Error::OutOfMemory { bytes: usize::try_from(found.len()).unwrap_or(usize::MAX) }
        }
        _ => io_error(path, error),
    })
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> TensorFile {
        let mut file = TensorFile::default();
        file.push("x", &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        file.push("weight", &[3], &[half::f16::from_f32(0.5); 3]).unwrap();
        file.push_count("count", 7).unwrap();
        file.push_count("negative", -7).unwrap();
        file
    }

    fn refused(read: impl FnOnce(&Tensors<'_>) -> Result<()>) -> String {
        let bytes = file().to_bytes().unwrap();
        read(&Tensors::parse(&bytes).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = file().to_bytes().unwrap();
        let tensors = Tensors::parse(&bytes).unwrap();
        assert_eq!(tensors.names(), ["count", "negative", "weight", "x"]);
        assert_eq!(tensors.dims("x").unwrap(), [2, 3]);
        assert_eq!(tensors.data::<f32>("x", &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(tensors.channels::<f32>("weight", 3).unwrap(), [0.5; 3]);
        assert_eq!(tensors.channels::<f64>("weight", 3).unwrap(), [0.5; 3]);
        assert_eq!(tensors.count("count").unwrap(), 7);
    }

    #[test]
    fn integers_are_read_from_each_of_their_dtypes() {
        let view = |dtype, bytes| TensorView::new(dtype, vec![2], bytes).unwrap();
        let (wide, narrow) = ([-5i64, i64::MAX], [-6i32, 7]);
        let bytes = safetensors::serialize(
            [
                ("wide", view(FileDtype::I64, bytemuck::bytes_of(&wide))),
                ("narrow", view(FileDtype::I32, bytemuck::bytes_of(&narrow))),
                ("byte", view(FileDtype::U8, &[255, 0])),
                ("float", view(FileDtype::F32, &[0; 8])),
            ],
            None,
        );
        let bytes = bytes.unwrap();
        let tensors = Tensors::parse(&bytes).unwrap();
        assert_eq!(tensors.integers("wide", &[2]).unwrap(), wide);
        assert_eq!(tensors.integers("narrow", &[2]).unwrap(), [-6, 7]);
        assert_eq!(tensors.integers("byte", &[2]).unwrap(), [255, 0]);
        let refused = |name, dims: &[usize]| tensors.integers(name, dims).unwrap_err().to_string();
        assert_eq!(refused("float", &[2]), "float: expected i64, i32 or u8, got dtype F32");
        assert_eq!(refused("wide", &[1, 2]), "wide: expected dimensions [1, 2], got [2]");
        assert_eq!(refused("x", &[2]), "x: expected in the file, which has byte, float, narrow, wide");
    }

    #[test]
    fn every_refusal_says_expected_and_actual() {
        assert_eq!(refused(|t| t.dims("y").map(drop)), "y: expected in the file, which has count, negative, weight, x");
        assert_eq!(refused(|t| t.data::<f32>("x", &[3, 2]).map(drop)), "x: expected dimensions [3, 2], got [2, 3]");
        assert_eq!(refused(|t| t.data::<f64>("x", &[2, 3]).map(drop)), "x: expected dtype f64, got dtype f32");
        assert_eq!(refused(|t| t.dtype("count").map(drop)), "count: expected f32, f16, bf16 or f64, got dtype I64");
        assert_eq!(refused(|t| t.channels::<f32>("x", 3).map(drop)), "x: expected dimensions [3], got [2, 3]");
        assert_eq!(refused(|t| t.count("x").map(drop)), "x: expected dtype i64, got dtype F32");
        assert_eq!(refused(|t| t.count("negative").map(drop)), "negative: expected a count >= 0, got -7");
    }

    #[test]
    fn every_truncation_and_a_hostile_header_are_refused() {
        let bytes = file().to_bytes().unwrap();
        for len in 0..bytes.len() {
            assert!(matches!(Tensors::parse(&bytes[..len]), Err(Error::Format { .. })), "{len}");
        }
        let with_header = |len: u64, header: &str| [&len.to_le_bytes(), header.as_bytes()].concat();
        for bytes in [
            with_header(u64::MAX, "{}"),
            with_header(100_000_001, "{}"),
            with_header(2, "[]"),
            with_header(15, "{\"x\":\"\n\u{1b}[31m\"}"),
            with_header(60, r#"{"x":{"dtype":"X32","shape":[1],"data_offsets":[0,4]}}      "#),
            with_header(72, r#"{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#),
            with_header(57, r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}   "#),
        ] {
            let text = Tensors::parse(&bytes).expect_err("refused").to_string();
            assert!(!text.contains(['\n', '\u{1b}']), "{text:?}");
        }
    }
}

//! Tensors on their way into a safetensors file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};

use super::{WholeFile, io_error};
use crate::element::{Element, Stored};
use crate::error::{Error, Result};
use crate::memory;

/// The name under which the format keeps what is no tensor.
const METADATA: &str = "__metadata__";
/// The most bytes of a header that readers take.
const MOST_HEADER_BYTES: usize = 100_000_000;
/// The header's length is a multiple of this, so that the first tensor is aligned.
const ALIGNMENT: usize = 8;

/// Tensors to be written to one safetensors file, each under a name of its own.
#[derive(Default)]
pub struct TensorFile {
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    dtype: FileDtype,
    dims: Vec<usize>,
    values: Box<dyn Values>,
}

/// Names, dtypes and dimensions: nothing of the contents.
impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.tensors.iter().map(|(name, tensor)| (name, (tensor.dtype, &tensor.dims)));
        f.write_str("TensorFile ")?;
        f.debug_map().entries(kinds).finish()
    }
}

/// The values of a tensor, whatever their type: kept as they came, since a vector of bytes would be a copy.
trait Values: Send + Sync {
    fn bytes(&self) -> &[u8];
}

impl<T: Stored> Values for Vec<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl TensorFile {
    /// Adds a copy of a tensor of floats. `dims` multiply to `values.len()`.
    ///
    /// # Errors
    /// [`Error::TensorLength`], [`Error::TensorRepeated`], [`Error::TensorName`], [`Error::OutOfMemory`]. Nothing is added then.
    pub fn push<T: Element>(&mut self, name: impl Into<String>, dims: &[usize], values: &[T]) -> Result<()> {
        self.insert(name.into(), T::DTYPE.into(), dims, values.len(), || memory::copied(values))
    }

    /// Adds a tensor of floats, which is not copied. `dims` multiply to `values.len()`.
    ///
    /// # Errors
    /// [`Error::TensorLength`], [`Error::TensorRepeated`], [`Error::TensorName`]. Nothing is added then.
    pub fn push_vec<T: Element>(&mut self, name: impl Into<String>, dims: &[usize], values: Vec<T>) -> Result<()> {
        self.insert(name.into(), T::DTYPE.into(), dims, values.len(), || Ok(values))
    }

    /// Adds a count, as PyTorch writes one: an i64 without dimensions.
    ///
    /// # Errors
    /// [`Error::TensorRepeated`], [`Error::TensorName`]. Nothing is added then.
    pub fn push_count(&mut self, name: impl Into<String>, count: i64) -> Result<()> {
        self.insert(name.into(), FileDtype::I64, &[], 1, || Ok(vec![count]))
    }

    fn insert<T: Stored>(
        &mut self,
        name: String,
        dtype: FileDtype,
        dims: &[usize],
        actual: usize,
        values: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<()> {
        // Dimensions are multiplied as the format does: a product beyond its range is none, even with a zero behind.
        let expected = dims.iter().try_fold(1usize, |len, &d| len.checked_mul(d)).unwrap_or(usize::MAX);
        let printable = |name: &str| name.escape_debug().to_string();
        if actual != expected {
            return Err(Error::TensorLength { tensor: printable(&name), dims: dims.to_vec(), expected, actual });
        }
        if name == METADATA {
            return Err(Error::TensorName { tensor: name });
        }
        match self.tensors.entry(name) {
            Entry::Occupied(place) => Err(Error::TensorRepeated { tensor: printable(place.key()) }),
            Entry::Vacant(place) => {
                place.insert(Tensor { dtype, dims: dims.to_vec(), values: Box::new(values()?) });
                Ok(())
            }
        }
    }

    /// Adds all tensors of another file, or none.
    pub(crate) fn append(&mut self, mut other: Self) -> Result<()> {
        if let Some(name) = other.tensors.keys().find(|name| self.tensors.contains_key(*name)) {
            return Err(Error::TensorRepeated { tensor: name.escape_debug().to_string() });
        }
        self.tensors.append(&mut other.tensors);
        Ok(())
    }

    /// The names so far, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`Error::Header`] where the header, which holds all names, would be larger than the format allows;
    /// [`Error::OutOfMemory`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = self.header()?;
        let tensors = self.in_order();
        let mut bytes =
            memory::room(header.len() + tensors.iter().map(|(_, tensor)| tensor.values.bytes().len()).sum::<usize>())?;
        bytes.extend_from_slice(&header);
        tensors.iter().for_each(|(_, tensor)| bytes.extend_from_slice(tensor.values.bytes()));
        Ok(bytes)
    }

    /// Writes the file. It appears whole or not at all, as [`WholeFile`] says. A file that was there before stays as it was until
    /// then.
    ///
    /// # Errors
    /// [`Error::NotAFile`], [`Error::Io`], [`Error::Header`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write_into(path.as_ref(), || WholeFile::create(path.as_ref()))
    }

    /// The same into a file that was begun by `create`, for errors under the name `path`.
    ///
    /// # Errors
    /// Those of [`TensorFile::write`].
    pub fn write_into(&self, path: &Path, create: impl FnOnce() -> Result<WholeFile>) -> Result<()> {
        let header = self.header()?;
        let mut file = create()?;
        let mut written = || -> io::Result<()> {
            file.write_all(&header)?;
            self.in_order().iter().try_for_each(|(_, tensor)| file.write_all(tensor.values.bytes()))
        };
        written().map_err(|error| io_error(path, error))?;
        file.keep()
    }

    /// The tensors as the format wants them in a file, so that each is aligned: the widest values first, then by name.
    fn in_order(&self) -> Vec<(&String, &Tensor)> {
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors
            .sort_by(|(name, tensor), (other_name, other)| other.dtype.cmp(&tensor.dtype).then(name.cmp(other_name)));
        tensors
    }

    /// The header, before the values: its length, then names, dtypes, dimensions and places.
    fn header(&self) -> Result<Vec<u8>> {
        let told = |reason: &dyn core::fmt::Display| Error::Header { reason: reason.to_string() };
        let mut end = 0;
        let infos = self.in_order().into_iter().map(|(name, Tensor { dtype, dims, values })| {
            let start = end;
            end += values.bytes().len();
            (name.clone(), TensorInfo { dtype: *dtype, shape: dims.clone(), data_offsets: (start, end) })
        });
        let metadata = Metadata::new(None, infos.collect()).map_err(|error| told(&error))?;
        let mut json = serde_json::to_vec(&metadata).map_err(|error| told(&error))?;
        json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
        if json.len() > MOST_HEADER_BYTES {
            return Err(told(&format_args!("{} bytes", json.len())));
        }
        Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Tensors, read};
    use super::*;

    fn file() -> TensorFile {
        let mut file = TensorFile::default();
        file.push("x", &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        file.push("weight", &[3], &[half::f16::from_f32(0.5); 3]).unwrap();
        file.push_count("count", 7).unwrap();
        file.push_count("negative", -7).unwrap();
        file
    }

    /// A tensor as the crate of the format takes it.
    struct View<'a>(&'a Tensor);

    impl safetensors::View for View<'_> {
        fn dtype(&self) -> FileDtype {
            self.0.dtype
        }
        fn shape(&self) -> &[usize] {
            &self.0.dims
        }
        fn data(&self) -> std::borrow::Cow<'_, [u8]> {
            self.0.values.bytes().into()
        }
        fn data_len(&self) -> usize {
            self.0.values.bytes().len()
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format_s_own_crate() {
        let mut file = file();
        file.push_vec("bf16", &[1, 2], vec![half::bf16::ONE; 2]).unwrap();
        file.push_vec("f64", &[1], vec![0.5f64]).unwrap();
        for file in [TensorFile::default(), file] {
            let views = file.tensors.iter().map(|(name, tensor)| (name, View(tensor)));
            assert_eq!(file.to_bytes().unwrap(), safetensors::serialize(views, None).unwrap());
        }
    }

    #[test]
    fn what_is_printed_has_no_contents() {
        let mut file = TensorFile::default();
        file.push("x", &[1, 2], &[77.0f32; 2]).unwrap();
        file.push_count("count", 77).unwrap();
        let wanted = r#"{"count": (I64, []), "x": (F32, [1, 2])}"#;
        assert_eq!(format!("{file:?}"), format!("TensorFile {wanted}"));
        let bytes = file.to_bytes().unwrap();
        assert_eq!(format!("{:?}", Tensors::parse(&bytes).unwrap()), format!("Tensors {wanted}"));
    }

    #[test]
    fn what_a_file_cannot_hold_is_refused_and_not_added() {
        let mut file = file();
        let before = file.to_bytes().unwrap();
        let mut refused = |name: &str, dims: &[usize], values: &[f32]| {
            let error = file.push(name, dims, values).unwrap_err().to_string();
            assert_eq!(file.to_bytes().unwrap(), before, "{error}");
            error
        };
        assert_eq!(refused("w", &[2, 3], &[1.0; 5]), "w of dimensions [2, 3]: expected 6 values, got 5");
        assert_eq!(refused("w", &[], &[]), "w of dimensions []: expected 1 values, got 0");
        assert_eq!(refused("a\nb", &[0], &[1.0]), "a\\nb of dimensions [0]: expected 0 values, got 1");
        let most = usize::MAX;
        let text = format!("w of dimensions [{most}, 2]: expected {most} values, got 1");
        assert_eq!(refused("w", &[most, 2], &[1.0]), text);
        // The format takes no product beyond its range, even of a tensor without a value.
        let text = format!("w of dimensions [{most}, 2, 0]: expected {most} values, got 0");
        assert_eq!(refused("w", &[most, 2, 0], &[]), text);
        assert_eq!(refused("x", &[1], &[1.0]), "x: expected a name that the file has not yet, got it twice");
        let metadata = "__metadata__: expected the name of a tensor, got the one that the format keeps for itself";
        assert_eq!(refused("__metadata__", &[1], &[1.0]), metadata);
        assert!(matches!(file.push_count("count", 8), Err(Error::TensorRepeated { .. })));
        assert!(matches!(file.push_count("__metadata__", 8), Err(Error::TensorName { .. })));
        assert_eq!(file.to_bytes().unwrap(), before);
    }

    #[test]
    fn whatever_is_added_can_be_read() {
        let mut file = TensorFile::default();
        for name in ["", " ", "\"", "\\", "\n\u{1b}", "\u{0}", "bn.weight", "\u{1f600}", "__metadata"] {
            file.push(name, &[1, 0, 2], &[0.0f32; 0]).unwrap();
            file.push(format!("{name}2"), &[], &[2.5f64]).unwrap();
        }
        let bytes = file.to_bytes().unwrap();
        let tensors = Tensors::parse(&bytes).unwrap();
        assert_eq!(tensors.names(), file.names().collect::<Vec<_>>());
        assert_eq!(tensors.data::<f64>("\u{0}2", &[]).unwrap(), [2.5]);
    }

    #[test]
    fn a_header_too_large_is_an_error() {
        let mut file = TensorFile::default();
        file.push("x".repeat(100_000_001), &[0], &[0.0f32; 0]).unwrap();
        let error = file.to_bytes().unwrap_err();
        assert!(matches!(error, Error::Header { .. }), "{error}");
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        file().write(&path).unwrap();
        let before = read(&path).unwrap();
        assert_eq!(before, file().to_bytes().unwrap());
        assert!(matches!(file().write(folder.path().join("absent/out")), Err(Error::Io { .. })));
        assert!(matches!(file().write(folder.path()), Err(Error::NotAFile { .. })));
        assert!(matches!(read(folder.path().join("absent")), Err(Error::Io { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}

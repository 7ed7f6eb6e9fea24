//! The files of this crate: safetensors, read with every tensor checked and written whole or not at all.

mod header;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, TensorView};

use crate::{Dtype, Element, Error, Param, Result, Stored};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and this crate reads them as they are");

/// The most characters of a header that a message repeats.
const LONGEST: usize = 200;

/// The tensors of a safetensors file, checked one by one as they are taken.
pub struct Tensors<'a> {
    file: SafeTensors<'a>,
}

impl<'a> Tensors<'a> {
    /// The tensors of a file's bytes. No tensor is copied yet.
    ///
    /// # Errors
    /// [`Error::Format`] for bytes that are truncated, have a false or oversized header, name anything twice, or leave gaps.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let refused = |reason: &dyn Display| Error::Format { reason: format!("{reason} in {} bytes", bytes.len()) };
        // A hostile header may put any character into a message, and any number of them.
        let escaped = |text: &str| text.chars().take(LONGEST).collect::<String>().escape_debug().to_string();
        let repeated = header::repeated_key(bytes);
        if let Ok(Some(key)) = &repeated {
            return Err(refused(&format_args!("the key \"{}\" twice in one object of the header,", escaped(key))));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| refused(&error.to_string().escape_debug()))?;
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
    /// [`Error::TensorMissing`], [`Error::Dtype`], [`Error::TensorShape`].
    pub fn data<T: Element>(&self, name: &str, dims: &[usize]) -> Result<Vec<T>> {
        let dtype = self.dtype(name)?;
        if dtype != T::DTYPE {
            return Err(Error::dtype(name, &format!("dtype {}", T::DTYPE), dtype));
        }
        Ok(bytemuck::allocation::pod_collect_to_vec(self.shaped(name, dims)?.data()))
    }

    /// A tensor of one value a channel, in any float dtype, converted.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::Dtype`], [`Error::TensorShape`].
    pub fn channels<P: Param>(&self, name: &str, c: usize) -> Result<Vec<P>> {
        fn convert<T: Element, P: Param>(bytes: &[u8]) -> Vec<P> {
            let values: Vec<T> = bytemuck::allocation::pod_collect_to_vec(bytes);
            values.into_iter().map(|v| P::from_f64(v.to_f64())).collect()
        }
        let dtype = self.dtype(name)?;
        let bytes = self.shaped(name, &[c])?.data();
        Ok(match dtype {
            Dtype::F32 => convert::<f32, P>(bytes),
            Dtype::F16 => convert::<half::f16, P>(bytes),
            Dtype::Bf16 => convert::<half::bf16, P>(bytes),
            Dtype::F64 => convert::<f64, P>(bytes),
        })
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

fn float(dtype: FileDtype) -> Option<Dtype> {
    match dtype {
        FileDtype::F32 => Some(Dtype::F32),
        FileDtype::F16 => Some(Dtype::F16),
        FileDtype::BF16 => Some(Dtype::Bf16),
        FileDtype::F64 => Some(Dtype::F64),
        _ => None,
    }
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

/// The name under which the format keeps what is no tensor.
const METADATA: &str = "__metadata__";

/// Tensors to be written to one safetensors file, each under a name of its own.
#[derive(Default)]
pub struct TensorFile {
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    dtype: FileDtype,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

impl safetensors::View for &Tensor {
    fn dtype(&self) -> FileDtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.dims
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.bytes[..]).into()
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl TensorFile {
    /// Adds a tensor of floats. `dims` multiply to `values.len()`.
    ///
    /// # Errors
    /// [`Error::TensorLength`], [`Error::TensorRepeated`], [`Error::TensorName`]. Nothing is added then.
    pub fn push<T: Element>(&mut self, name: impl Into<String>, dims: &[usize], values: &[T]) -> Result<()> {
        let dtype = match T::DTYPE {
            Dtype::F32 => FileDtype::F32,
            Dtype::F16 => FileDtype::F16,
            Dtype::Bf16 => FileDtype::BF16,
            Dtype::F64 => FileDtype::F64,
        };
        self.insert(name.into(), dtype, dims, values)
    }

    /// Adds a count, as PyTorch writes one: an i64 without dimensions.
    ///
    /// # Errors
    /// [`Error::TensorRepeated`], [`Error::TensorName`]. Nothing is added then.
    pub fn push_count(&mut self, name: impl Into<String>, count: i64) -> Result<()> {
        self.insert(name.into(), FileDtype::I64, &[], &[count])
    }

    fn insert<T: Stored>(&mut self, name: String, dtype: FileDtype, dims: &[usize], values: &[T]) -> Result<()> {
        // As the format multiplies them: a product beyond its range is none, even with a zero behind.
        let expected = dims.iter().try_fold(1usize, |len, &d| len.checked_mul(d)).unwrap_or(usize::MAX);
        let (printable, actual) = (|name: &str| name.escape_debug().to_string(), values.len());
        if actual != expected {
            return Err(Error::TensorLength { tensor: printable(&name), dims: dims.to_vec(), expected, actual });
        }
        if name == METADATA {
            return Err(Error::TensorName { tensor: name });
        }
        match self.tensors.entry(name) {
            Entry::Occupied(place) => Err(Error::TensorRepeated { tensor: printable(place.key()) }),
            Entry::Vacant(place) => {
                let bytes = bytemuck::cast_slice(values).to_vec();
                place.insert(Tensor { dtype, dims: dims.to_vec(), bytes });
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
    /// [`Error::Header`] where the header, which holds all names, would be larger than the format allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        safetensors::serialize(&self.tensors, None).map_err(|error| Error::Header { reason: error.to_string() })
    }

    /// Writes the file. It appears whole or not at all: the bytes go to a new file beside it, which then takes its
    /// name. A file that was there before stays as it was until then.
    ///
    /// # Errors
    /// [`Error::Io`], and what [`TensorFile::to_bytes`] gives.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        write_whole(path, &bytes).map_err(|source| Error::Io { path: display(path), source })
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".batchnorm-");
    #[cfg(unix)]
    builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666)); // less the umask
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// A file's bytes.
///
/// # Errors
/// [`Error::Io`].
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    fs::read(path).map_err(|source| Error::Io { path: display(path), source })
}

fn display(path: &Path) -> String {
    path.display().to_string()
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
            let text = Tensors::parse(&bytes).err().expect("refused").to_string();
            assert!(!text.contains(['\n', '\u{1b}']), "{text:?}");
        }
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        file().write(&path).unwrap();
        let before = read(&path).unwrap();
        assert_eq!(before, file().to_bytes().unwrap());
        assert!(matches!(file().write(folder.path().join("absent/out")), Err(Error::Io { .. })));
        assert!(matches!(file().write(folder.path()), Err(Error::Io { .. })));
        assert!(matches!(read(folder.path().join("absent")), Err(Error::Io { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}

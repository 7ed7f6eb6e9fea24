//! A launch as the emulated device has written it down (emulator/src/device/dump.h has the format).

use std::fs;
use std::path::Path;

const BEGIN: &[u8; 8] = b"CUDALNCH";
const END: &[u8; 8] = b"ENDOFLNC";
const VERSION: u64 = 1;

/// CTAs of a cluster, at most ("cudaFuncAttributeNonPortableClusterSizeAllowed").
const MOST_CLUSTER: u32 = 16;
/// Threads of a grid, at most: what a CPU ends with in some minutes.
const MOST_THREADS: u32 = 1 << 24;

/// Memory that one call allocated.
#[derive(Clone, Debug, Default)]
pub struct Allocation {
    /// The device address of its first byte.
    pub address: u64,
    /// Its bytes before the launch.
    pub before: Contents,
    /// Its bytes after the launch, on the emulated device.
    pub after: Contents,
}

/// The bytes of an allocation at a time.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// A byte each; of no meaning where nobody has written it.
    pub bytes: Vec<u8>,
    /// 1 for each byte that was ever written, 0 for the others.
    pub written: Vec<u8>,
}

impl Contents {
    /// Bytes that are all written.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { written: vec![1; bytes.len()], bytes }
    }

    /// Bytes that nobody has written.
    pub fn unwritten(len: usize) -> Self {
        Self { bytes: vec![0; len], written: vec![0; len] }
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The sources that the kernel was compiled from, as its build says; empty where it does not.
    pub sources: String,
    /// The kernel's mangled name.
    pub kernel: String,
    /// CTAs in each dimension.
    pub grid: [u32; 3],
    /// Threads of a CTA in each dimension.
    pub block: [u32; 3],
    /// CTAs of a cluster, 1 without clusters.
    pub cluster: u32,
    /// Whether all CTAs are resident together.
    pub cooperative: bool,
    /// Dynamic shared memory of a CTA.
    pub shared_bytes: u64,
    /// The compute capability of the emulated device, as 90.
    pub capability: u32,
    /// The parameters, one after the other.
    pub parameters: Vec<Vec<u8>>,
    /// The device's memory, in the order of addresses.
    pub allocations: Vec<Allocation>,
    /// The code that the launch returned on the emulated device, 0 for success.
    pub code: u64,
}

impl Launch {
    /// Reads a file.
    ///
    /// # Errors
    /// A line that names the file, and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let told = |what: String| format!("{}: {what}", path.display());
        let bytes = fs::read(path).map_err(|e| told(e.to_string()))?;
        Self::read(&bytes).map_err(told)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { rest: bytes, at: 0 };
        if reader.take(8)? != BEGIN {
            return Err("no launch of the emulated device: expected it to begin with CUDALNCH".into());
        }
        let version = reader.number()?;
        if version != VERSION {
            return Err(format!("expected version {VERSION} of the format, got {version}"));
        }
        let mut launch = Self { sources: reader.text()?, kernel: reader.text()?, ..Self::default() };
        for dimension in launch.grid.iter_mut().chain(&mut launch.block) {
            *dimension = reader.small()?;
        }
        launch.cluster = reader.small()?;
        launch.cooperative = reader.number()? != 0;
        launch.shared_bytes = reader.number()?;
        launch.capability = reader.small()?;
        for _ in 0..reader.number()? {
            let len = reader.number()?;
            launch.parameters.push(reader.take(len)?.to_vec());
        }
        let mut lens = Vec::new();
        for _ in 0..reader.number()? {
            let address = reader.number()?;
            launch.allocations.push(Allocation { address, ..Allocation::default() });
            lens.push(reader.number()?);
        }
        for (allocation, &len) in launch.allocations.iter_mut().zip(&lens) {
            allocation.before = reader.contents(len)?;
        }
        for (allocation, &len) in launch.allocations.iter_mut().zip(&lens) {
            allocation.after = reader.contents(len)?;
        }
        launch.code = reader.number()?;
        if reader.take(8)? != END || !reader.rest.is_empty() {
            return Err(format!("expected it to end with ENDOFLNC at byte {}", reader.at - 8));
        }
        launch.allocations.sort_by_key(|allocation| allocation.address);
        launch.check()?;
        Ok(launch)
    }

    /// Numbers that no device launches, or that nobody waits for here.
    fn check(&self) -> Result<(), String> {
        let ctas = self.grid.iter().try_fold(1u32, |product, &n| product.checked_mul(n)).filter(|&n| n > 0);
        let threads = self.block.iter().try_fold(1u32, |product, &n| product.checked_mul(n));
        let threads = threads.filter(|n| (1..=1024).contains(n));
        let all = ctas.zip(threads).and_then(|(ctas, threads)| ctas.checked_mul(threads));
        let (Some(ctas), Some(_)) = (ctas, all.filter(|&all| all <= MOST_THREADS)) else {
            return Err(format!("a grid of {:?} CTAs of {:?} threads", self.grid, self.block));
        };
        if !(1..=MOST_CLUSTER).contains(&self.cluster) || !ctas.is_multiple_of(self.cluster) {
            return Err(format!("{ctas} CTAs in clusters of {}", self.cluster));
        }
        if self.shared_bytes > 1 << 20 {
            return Err(format!("{} bytes of shared memory", self.shared_bytes));
        }
        let ends = self.allocations.iter().map(|a| a.address.checked_add(a.before.bytes.len() as u64));
        let following = self.allocations.iter().skip(1).map(|a| a.address).chain([u64::MAX]);
        if ends.zip(following).any(|(end, following)| end.is_none_or(|end| end > following)) {
            return Err("allocations that overlap".into());
        }
        Ok(())
    }

    /// CTAs of the grid.
    pub fn ctas(&self) -> u32 {
        self.grid.iter().product()
    }

    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

/// A file from its beginning on.
struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let missing = || format!("truncated: expected {len} bytes at byte {}, got {}", self.at, self.rest.len());
        let len = usize::try_from(len).ok().filter(|&len| len <= self.rest.len()).ok_or_else(missing)?;
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(word))
    }

    fn small(&mut self) -> Result<u32, String> {
        let at = self.at;
        let number = self.number()?;
        u32::try_from(number).map_err(|_| format!("expected a number below 2^32 at byte {at}, got {number}"))
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.number()?;
        let at = self.at;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| format!("expected UTF-8 at byte {at}"))
    }

    fn contents(&mut self, len: u64) -> Result<Contents, String> {
        Ok(Contents { bytes: self.take(len)?.to_vec(), written: self.take(len)?.to_vec() })
    }
}

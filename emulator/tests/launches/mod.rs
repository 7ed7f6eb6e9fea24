//! The files of launches, as emulator/src/device/dump.h says.

/// A file, field by field.
#[derive(Debug, PartialEq)]
pub(crate) struct Launch {
    pub(crate) build: String,
    pub(crate) kernel: String,
    pub(crate) grid: [u64; 3],
    pub(crate) block: [u64; 3],
    pub(crate) cluster: u64,
    pub(crate) cooperative: u64,
    pub(crate) dynamic_shared: u64,
    pub(crate) capability: u64,
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) allocations: Vec<Allocation>,
    pub(crate) code: u64,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Allocation {
    pub(crate) address: u64,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    pub(crate) written: Vec<u8>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let bytes = self.number() as usize;
        String::from_utf8(self.bytes(bytes)).unwrap()
    }

    fn launch(mut self) -> Launch {
        assert_eq!((self.bytes(8), self.number()), (b"CUDALNCH".to_vec(), 1));
        let (build, kernel) = (self.text(), self.text());
        let mut three = || [self.number(), self.number(), self.number()];
        let (grid, block) = (three(), three());
        let [cluster, cooperative, dynamic_shared, capability] = [(); 4].map(|()| self.number());
        let mut arguments = Vec::new();
        for _ in 0..self.number() {
            let size = self.number() as usize;
            arguments.push(self.bytes(size));
        }
        let sizes: Vec<_> = (0..self.number()).map(|_| (self.number(), self.number() as usize)).collect();
        let mut memory = || -> Vec<_> {
            sizes.iter().map(|&(_, size)| Memory { bytes: self.bytes(size), written: self.bytes(size) }).collect()
        };
        let (before, after) = (memory(), memory());
        let (code, end) = (self.number(), self.bytes(8));
        assert_eq!((&end[..], self.0.len()), (&b"ENDOFLNC"[..], 0), "the end");
        let each = sizes.iter().zip(before.into_iter().zip(after));
        let allocations = each.map(|(&(address, _), (before, after))| Allocation { address, before, after }).collect();
        Launch {
            build,
            kernel,
            grid,
            block,
            cluster,
            cooperative,
            dynamic_shared,
            capability,
            arguments,
            allocations,
            code,
        }
    }
}

impl Launch {
    /// Reads a whole file.
    pub(crate) fn read(file: &[u8]) -> Self {
        Reader(file).launch()
    }

    /// The allocation that an argument is the address of.
    pub(crate) fn argument(&self, number: usize) -> &Allocation {
        let address = u64::from_le_bytes(self.arguments[number][..].try_into().unwrap());
        self.allocations.iter().find(|allocation| allocation.address == address).unwrap()
    }
}

//! A few lines of PTX, executed.

use ptx_replay::launch::{Allocation, Contents, Launch};
use ptx_replay::ptx::Module;
use ptx_replay::{Machine, Options};

/// The address of the memory that the parameter points to.
pub(crate) const MEMORY: u64 = 0x10_0000;
/// A word of memory that nobody has written, as results show it.
pub(crate) const UNWRITTEN: u32 = 0x5555_5555;
/// The line of the module that a body begins in.
pub(crate) const LINE: u32 = 12;

/// A body, with the launch that executes it.
pub(crate) struct Program {
    pub(crate) text: String,
    pub(crate) launch: Launch,
    pub(crate) options: Options,
}

/// A module of one entry, `k`. Its body finds the memory's address in `%d15`, `%tid.x` in `%r31`, `%ctaid.x` in `%r30`, the number
/// of the thread in the grid in `%r29`, and the address of its word of memory in `%d14`.
pub(crate) fn module(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.extern .shared .align 16 .b8 shared[];\n.visible .entry k(\n\
         .param .u64 k_param_0\n)\n{{\n\
         .reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .b64 %d<16>;\n\
         ld.param.u64 %d15, [k_param_0]; cvta.to.global.u64 %d15, %d15; mov.u32 %r31, %tid.x; mov.u32 %r30, %ctaid.x;\n\
         mov.u32 %r28, %ntid.x; mad.lo.s32 %r29, %r30, %r28, %r31; mul.wide.u32 %d14, %r29, 4; add.s64 %d14, %d14, %d15;\n\
         {body}\nret;\n}}\n"
    )
}

impl Program {
    /// A program of one thread, without shared memory, and 64 words of memory that nobody has written.
    pub(crate) fn new(body: &str) -> Self {
        let memory = Allocation { address: MEMORY, before: Contents::unwritten(256), ..Allocation::default() };
        let launch = Launch {
            kernel: "k".into(),
            grid: [1; 3],
            block: [1; 3],
            cluster: 1,
            capability: 90,
            parameters: vec![MEMORY.to_le_bytes().to_vec()],
            allocations: vec![memory],
            ..Launch::default()
        };
        Self { text: module(body), launch, options: Options { most_instructions: 200_000, ..Options::default() } }
    }

    pub(crate) fn threads(mut self, threads: u32) -> Self {
        self.launch.block = [threads, 1, 1];
        self
    }

    pub(crate) fn ctas(mut self, ctas: u32) -> Self {
        self.launch.grid = [ctas, 1, 1];
        self
    }

    pub(crate) fn cluster(mut self, ctas: u32) -> Self {
        self.launch.cluster = ctas;
        self.ctas(ctas)
    }

    pub(crate) fn cooperative(mut self) -> Self {
        self.launch.cooperative = true;
        self
    }

    pub(crate) fn shared(mut self, bytes: u64) -> Self {
        self.launch.shared_bytes = bytes;
        self
    }

    /// The first words of memory.
    pub(crate) fn memory(mut self, words: &[u32]) -> Self {
        let before = &mut self.launch.allocations[0].before;
        for (i, word) in words.iter().enumerate() {
            before.bytes[4 * i..][..4].copy_from_slice(&word.to_le_bytes());
            before.written[4 * i..][..4].fill(1);
        }
        self
    }

    /// All words of memory, for one seed.
    pub(crate) fn run_seed(&self, seed: u64) -> Result<Vec<u32>, String> {
        let module = Module::parse("a.ptx", &self.text).map_err(|trap| trap.to_string())?;
        let entry = module.entry("k").map_err(|trap| trap.to_string())?;
        let machine = Machine::new(&entry, &self.launch, Options { seed, ..self.options })?;
        let memory = machine.run().map_err(|(trap, _)| trap.to_string())?.memory;
        let words = memory[0].bytes.chunks(4).zip(memory[0].written.chunks(4));
        Ok(words
            .map(|(word, written)| match written {
                [1, 1, 1, 1] => u32::from_le_bytes(word.try_into().unwrap()),
                _ => UNWRITTEN,
            })
            .collect())
    }

    /// All words of memory, which are the same for several seeds.
    pub(crate) fn run(&self) -> Vec<u32> {
        let first = self.run_seed(0).unwrap();
        (1..9).for_each(|seed| assert_eq!(self.run_seed(seed).as_ref(), Ok(&first), "seed {seed}"));
        first
    }

    /// The first words of memory.
    pub(crate) fn first<const N: usize>(&self) -> [u32; N] {
        self.run()[..N].try_into().unwrap()
    }

    /// The message of the trap that comes under each of several seeds, for the first of them.
    pub(crate) fn trap(&self) -> String {
        let traps: Vec<String> = (0..9).map(|seed| self.run_seed(seed).unwrap_err()).collect();
        traps[0].clone()
    }

    /// The trap of each of several seeds has all these words.
    #[track_caller]
    pub(crate) fn traps(&self, words: &[&str]) {
        for seed in 0..9 {
            let trap = self.run_seed(seed).unwrap_err();
            words.iter().for_each(|word| assert!(trap.contains(word), "seed {seed}: expected {word:?} in {trap}"));
        }
    }
}

/// The value that a code leaves in `%r0`.
pub(crate) fn bits_32(code: &str) -> u32 {
    Program::new(&format!("{code}\nst.global.u32 [%d15], %r0;")).run()[0]
}

/// The value that a code leaves in `%d0`.
pub(crate) fn bits_64(code: &str) -> u64 {
    let [low, high] = Program::new(&format!("{code}\nst.global.u64 [%d15], %d0;")).first();
    u64::from(high) << 32 | u64::from(low)
}

/// The value that a code leaves in `%h0`.
pub(crate) fn bits_16(code: &str) -> u16 {
    bits_32(&format!("{code}\ncvt.u32.u16 %r0, %h0;")) as u16
}

/// The value that a code leaves in `%p0`.
pub(crate) fn predicate(code: &str) -> bool {
    bits_32(&format!("{code}\nselp.u32 %r0, 1, 0, %p0;")) == 1
}

pub(crate) fn unary_32(op: &str, a: u32) -> u32 {
    bits_32(&format!("mov.b32 %r1, {a}; {op} %r0, %r1;"))
}

pub(crate) fn binary_32(op: &str, a: u32, b: u32) -> u32 {
    bits_32(&format!("mov.b32 %r1, {a}; mov.b32 %r2, {b}; {op} %r0, %r1, %r2;"))
}

pub(crate) fn ternary_32(op: &str, a: u32, b: u32, c: u32) -> u32 {
    bits_32(&format!("mov.b32 %r1, {a}; mov.b32 %r2, {b}; mov.b32 %r3, {c}; {op} %r0, %r1, %r2, %r3;"))
}

//! The issue slots of an element, limited by what memory leaves time for; and what every kernel must look like.
//!
//! The budget: at 1.7 GHz and 4.3 TB/s an SM of an H200 has as many issue slots while memory moves an element of f16,
//! forward (4 bytes) and backward (6 bytes). Half of it is to be used, so that loads of one CTA hide behind the work of
//! another.

use super::Kernel;
use super::loops::LoopPath;

/// Issue slots an element of f16.
pub(super) const FORWARD: f64 = 26.7;
pub(super) const BACKWARD: f64 = 40.0;

/// Kernels that have a budget: those that do all of an operation in one launch. Each has the first words of its name, the
/// budget, the vectors that a thread loads for one of its elements' vectors, those that it stores, and the operations of f32
/// for each element that is loaded. Backward has four on its plain path (x less a pair of f32, two sums): with fewer a path
/// that leaves out some of its vectors would count.
const FUSED: [(&str, f64, usize, usize, usize); 2] =
    [("train_fused_kernel", FORWARD, 1, 1, 1), ("backward_fused_kernel", BACKWARD, 2, 2, 4)];

/// Instructions of a thread for each element, over all loops on the data; `None` of a kernel that has no budget or takes
/// element by element.
pub(super) fn instructions(kernel: &Kernel) -> Option<f64> {
    let &(_, _, loads, stores, _) = FUSED.iter().find(|(name, ..)| kernel.name.starts_with(name))?;
    let elements = f64::from(vector_len(&kernel.name).filter(|&len| len > 1)?);
    // The loop with most accesses counts among those of a kind: the compiler may have made copies of it for the last few.
    let an_element = |paths: &[LoopPath], accesses: usize| {
        let path = paths.iter().max_by_key(|path| path.accesses)?;
        Some(path.instructions as f64 * accesses as f64 / path.accesses as f64 / elements)
    };
    Some(an_element(&kernel.code.loading, loads)? + an_element(&kernel.code.storing, stores)?)
}

/// Operations of f32 for each vector that a thread loads, and for each that it stores, at least: one for each
/// element that is stored. Several vectors may be loaded or stored of the same elements. None are asked for of a kernel without a budget.
pub(super) fn arithmetic(name: &str) -> [usize; 2] {
    let found = FUSED.iter().find(|(start, ..)| name.starts_with(start));
    let vector = found.zip(vector_len(name).and_then(|len| usize::try_from(len).ok()));
    vector.map_or([0, 0], |(&(_, _, loads, stores, operations), len)| [operations * len / loads, len / stores])
}

/// The budget of a kernel with f16 or bf16 data.
fn budget(name: &str) -> Option<f64> {
    let found = FUSED.iter().find(|(start, ..)| name.starts_with(start));
    found.filter(|_| vector_len(name) == Some(8)).map(|&(_, budget, ..)| budget)
}

/// Elements of a vector, as the tile iterator in a kernel's name says.
fn vector_len(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once(", ")?;
    rest.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty())?.parse().ok()
}

/// The faults of a kernel, in words that follow its name.
pub(super) fn faults(kernel: &Kernel) -> Vec<String> {
    let mut faults = Vec::new();
    let beyond = instructions(kernel).zip(budget(&kernel.name)).filter(|(found, budget)| found > budget);
    faults.extend(
        beyond.map(|(found, budget)| format!("takes {found:.1} instructions an element, and its budget is {budget}")),
    );
    if budget(&kernel.name).is_some() && instructions(kernel).is_none() {
        faults.push("has a budget, and no loops with its loads, its stores and their arithmetic".into());
    }
    if vector_len(&kernel.name).is_some_and(|len| len > 1) {
        let narrow = |access: Option<super::sass::Access>| access.is_some_and(|access| !access.is_vector());
        if narrow(kernel.code.load) || narrow(kernel.code.store) {
            faults.push("moves its data by less than 16 bytes".into());
        }
    }
    // Atomics that order CTAs have the device's scope: a smaller one would not do, a larger one would cost more.
    for atomic in kernel.code.atomics.iter().filter(|atomic| !atomic.ends_with(".STRONG.GPU")) {
        faults.push(format!("has an atomic of another scope than the device's: {atomic}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{arithmetic, vector_len};

    #[test]
    fn each_element_has_arithmetic() {
        assert_eq!(arithmetic("train_fused_kernel<Contiguous<__half, 8> >"), [8, 8]);
        assert_eq!(arithmetic("backward_fused_kernel<Strided<float, 4> >"), [8, 2]);
        assert_eq!(arithmetic("fill_kernel"), [0, 0]);
    }

    #[test]
    fn names_say_how_long_vectors_are() {
        assert_eq!(vector_len("train_fused_kernel<Contiguous<__half, 8> >"), Some(8));
        assert_eq!(vector_len("backward_reduce_kernel<Strided<float, 1> >"), Some(1));
        assert_eq!(vector_len("fill_kernel"), None);
    }
}

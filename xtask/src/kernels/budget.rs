//! The issue slots of an element, limited by what memory leaves time for; and what every kernel must look like.
//!
//! The budget: at 1.7 GHz and 4.3 TB/s an SM of an H200 has as many issue slots while memory moves an element of f16,
//! forward (4 bytes) and backward (6 bytes). Half of it is to be used, so that loads of one CTA hide behind the work of
//! another.

use super::Kernel;
use super::loops::LoopPath;
use super::sass::Data;
use super::stretches::Place;

/// Issue slots an element of f16.
pub(super) const FORWARD: f64 = 26.7;
pub(super) const BACKWARD: f64 = 40.0;

/// The walks of a kernel over data.
struct Walks {
    /// The first words of the kernel's name.
    kernel: &'static str,
    budget: Option<f64>,
    /// Vectors that a walk which stores none loads of the same elements; 0 where there is no such walk.
    loads: usize,
    /// Vectors that a walk stores of the same elements.
    stores: usize,
    /// Operations of f32 for each element that is loaded, at least, in a walk that stores none. Where a batch may end early,
    /// all that a plain path does: with fewer a path that leaves out some of its vectors would count.
    operations: usize,
}

/// All kernels that walk over data. Budgets are of those that do all of an operation in one launch. Backward has four
/// operations on its plain path (x less a pair of f32, two sums), the residual of the mean two.
const WALKS: [Walks; 9] = [
    Walks { kernel: "train_fused_kernel", budget: Some(FORWARD), loads: 1, stores: 1, operations: 1 },
    Walks { kernel: "moments_kernel", budget: None, loads: 1, stores: 0, operations: 1 },
    Walks { kernel: "normalize_kernel", budget: None, loads: 0, stores: 1, operations: 0 },
    Walks { kernel: "infer_kernel", budget: None, loads: 0, stores: 1, operations: 0 },
    Walks { kernel: "backward_fused_kernel", budget: Some(BACKWARD), loads: 2, stores: 2, operations: 4 },
    Walks { kernel: "mean_residual_kernel", budget: None, loads: 1, stores: 0, operations: 2 },
    Walks { kernel: "backward_reduce_kernel", budget: None, loads: 2, stores: 0, operations: 4 },
    Walks { kernel: "backward_elemt_kernel", budget: None, loads: 0, stores: 2, operations: 0 },
    Walks { kernel: "backward_running_kernel", budget: None, loads: 0, stores: 2, operations: 0 },
];

/// The walks of a kernel that has any.
fn walks(name: &str) -> Option<&'static Walks> {
    WALKS.iter().find(|walks| name.starts_with(walks.kernel))
}

/// Instructions of a thread for each element, over all of its walks; `None` of a kernel without, and of those that take
/// element by element, where a word of the mask is as wide as a value.
pub(super) fn instructions(kernel: &Kernel) -> Option<f64> {
    let walks = walks(&kernel.name)?;
    let elements = f64::from(vector_len(&kernel.name).filter(|&len| len > 1)?);
    let an_element = |path: Option<LoopPath>, accesses: usize| {
        if accesses == 0 {
            return Some(0.0);
        }
        path.map(|path| path.instructions as f64 * accesses as f64 / path.accesses as f64 / elements)
    };
    Some(an_element(kernel.code.loading, walks.loads)? + an_element(kernel.code.storing, walks.stores)?)
}

/// The data of a kernel that walks over some. Where a walk stores there is one operation at least for each element.
pub(super) fn data(name: &str) -> Option<Data> {
    let (walks, len) = (walks(name)?, vector_len(name)?);
    let bits = len * if name.contains("<float, ") { 32 } else { 16 };
    let elements = usize::try_from(len).ok()?;
    let for_each = |operations: usize, accesses: usize| (operations * elements).checked_div(accesses);
    Some(Data { bits, loading: for_each(walks.operations, walks.loads), storing: for_each(1, walks.stores) })
}

/// The budget of a kernel with f16 or bf16 data.
fn budget(name: &str) -> Option<f64> {
    walks(name)?.budget.filter(|_| vector_len(name) == Some(8))
}

/// Elements of a vector, as the tile iterator in a kernel's name says.
fn vector_len(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once(", ")?;
    rest.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty())?.parse().ok()
}

/// Whether there is a path to each walk.
fn has_stretches(kernel: &Kernel, walks: &Walks) -> bool {
    let leads_from = |place| kernel.code.stretches.iter().any(|stretch| stretch.from == place);
    leads_from(Place::Entry) && (walks.loads.min(walks.stores) == 0 || leads_from(Place::LoadWalk))
}

/// Whether an instance is for clusters, by its last template argument, and its architecture has none: it is compiled to nothing.
fn is_empty(name: &str, architecture: &str) -> bool {
    let number: Option<u32> = architecture.trim_end_matches(|c: char| c.is_ascii_lowercase()).parse().ok();
    name.ends_with(", 1>") && number.is_some_and(|number| number < 90)
}

/// The faults of a kernel, in words that follow its name.
pub(super) fn faults(kernel: &Kernel) -> Vec<String> {
    let mut faults = Vec::new();
    if is_empty(&kernel.name, &kernel.architecture) {
        return faults;
    }
    let beyond = instructions(kernel).zip(budget(&kernel.name)).filter(|(found, budget)| found > budget);
    faults.extend(
        beyond.map(|(found, budget)| format!("takes {found:.1} instructions an element, and its budget is {budget}")),
    );
    if vector_len(&kernel.name).is_some_and(|len| len > 1) {
        if walks(&kernel.name).is_some() && instructions(kernel).is_none() {
            faults.push("has no loops with its loads, its stores and their arithmetic".into());
        } else if walks(&kernel.name).is_some_and(|walks| !has_stretches(kernel, walks)) {
            faults.push("has no path to its first loop over data, or none from there to that which stores".into());
        }
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
    use super::{Data, data, is_empty, vector_len};

    #[test]
    fn an_instance_for_clusters_is_empty_where_there_are_none() {
        assert!(is_empty("train_fused_kernel<Strided<__half, 8>, 1>", "80"));
        assert!(!is_empty("train_fused_kernel<Strided<__half, 8>, 1>", "90a"));
        assert!(!is_empty("train_fused_kernel<Strided<__half, 1>, -1>", "80"));
        assert!(!is_empty("infer_kernel<Strided<__half, 1> >", "80"));
    }

    #[test]
    fn each_element_has_arithmetic() {
        let found = |bits, loading, storing| Some(Data { bits, loading, storing });
        assert_eq!(data("train_fused_kernel<Contiguous<__half, 8> >"), found(128, Some(8), Some(8)));
        assert_eq!(data("backward_fused_kernel<Strided<float, 4> >"), found(128, Some(8), Some(2)));
        assert_eq!(data("mean_residual_kernel<Strided<__nv_bfloat16, 1> >"), found(16, Some(2), None));
        assert_eq!(data("infer_kernel<Contiguous<float, 1> >"), found(32, None, Some(1)));
        assert_eq!(data("fill_kernel"), None);
    }

    #[test]
    fn names_say_how_long_vectors_are() {
        assert_eq!(vector_len("train_fused_kernel<Contiguous<__half, 8> >"), Some(8));
        assert_eq!(vector_len("backward_reduce_kernel<Strided<float, 1> >"), Some(1));
        assert_eq!(vector_len("fill_kernel"), None);
    }
}

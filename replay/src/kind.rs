//! The kind of a launch: kernel, dtype, access pattern, strategy and epilogue. The one file that knows this project's kernels; what
//! is executed and compared knows none of it, but for which halves may be NaN.

use std::fmt;
use std::mem::offset_of;

use batchnorm::plan::Access;
use batchnorm::{Activation, Epilogue, Strategy};
use cpp_demangle::Symbol;
use ptx_replay::compare::Halves;
use ptx_replay::launch::Launch;

// The layout of the parameters.
#[allow(dead_code, missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks)]
#[path = "../../src/cuda/ffi.rs"]
mod ffi;

// The numbers in them.
#[path = "../../src/cuda/launch/codes.rs"]
mod codes;

use ffi::{BnActivation, BnBackward, BnEpilogue, BnInfer, BnStrategy, BnTiling, BnTrain};

/// The names of an enum's values, as a constant.
macro_rules! names_of {
    ($Type:ty) => {{
        let (mut names, mut i) = ([""; <$Type>::ALL.len()], 0);
        while i < names.len() {
            names[i] = <$Type>::ALL[i].name();
            i += 1;
        }
        names
    }};
}

const STRATEGIES: [&str; Strategy::ALL.len()] = names_of!(Strategy);
const EPILOGUES: [&str; Epilogue::ALL.len()] = names_of!(Epilogue<()>);

/// A kind. Launches of one kind do the same on other numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind {
    /// The entry's name without its template's arguments.
    pub(crate) kernel: String,
    /// f32, f16 or bf16, and the tile iterator, as the template has them.
    pub(crate) instance: String,
    pub(crate) strategy: Option<&'static str>,
    /// CTAs of a team: whether there are several.
    pub(crate) is_shared: bool,
    pub(crate) epilogue: Option<&'static str>,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}>", self.kernel, self.instance)?;
        let strategy = self.strategy();
        for word in [strategy.as_str(), self.epilogue.unwrap_or("")].into_iter().filter(|word| !word.is_empty()) {
            write!(f, " {word}")?;
        }
        Ok(())
    }
}

impl Kind {
    /// The strategy, and whether a team of it is one CTA.
    pub(crate) fn strategy(&self) -> String {
        match self.strategy {
            Some(name @ "grid") if !self.is_shared => format!("{name} of 1"),
            Some(name) => name.into(),
            None => String::new(),
        }
    }

    pub(crate) fn halves(&self) -> Halves {
        if self.instance.contains("bf16") {
            Halves::Bf16
        } else if self.instance.contains("f16") {
            Halves::F16
        } else {
            Halves::None
        }
    }
}

/// The kind of a launch.
pub(crate) fn of(launch: &Launch) -> Kind {
    let (kernel, instance, argument) = names(&launch.kernel);
    let parameter = launch.parameters.first().map_or(&[][..], Vec::as_slice);
    let word = |at: usize| parameter.get(at..)?.first_chunk().map(|&word| u32::from_le_bytes(word));
    let epilogue_at = match argument.as_str() {
        "BnTrain" => Some(offset_of!(BnTrain, epilogue)),
        "BnInfer" => Some(offset_of!(BnInfer, epilogue)),
        "BnBackward" => Some(offset_of!(BnBackward, epilogue)),
        _ => None,
    };
    let epilogue = epilogue_at.and_then(|at| {
        let has_residual = word(at + offset_of!(BnEpilogue, has_residual))?;
        let activation = BnActivation(word(at + offset_of!(BnEpilogue, activation))?);
        let is_it = |kind: &Epilogue<()>| {
            u32::from(kind.residual().is_some()) == has_residual && BnActivation::from(kind.activation()) == activation
        };
        Epilogue::ALL.iter().copied().find(is_it)
    });
    let has_tiling = epilogue.is_some() || argument == "BnMoments";
    let has_epilogues = kernel_named(&kernel).is_none_or(|kernel| !kernel.epilogues.is_empty());
    let strategy = word(offset_of!(BnTiling, strategy)).filter(|_| has_tiling).map(BnStrategy);
    let strategy = Strategy::ALL.iter().copied().find(|&it| Some(it.into()) == strategy);
    Kind {
        strategy: strategy.map(Strategy::name),
        is_shared: word(offset_of!(BnTiling, splits)).is_some_and(|splits| has_tiling && splits > 1),
        epilogue: epilogue.filter(|_| has_epilogues).map(|kind| kind.name()),
        kernel,
        instance,
    }
}

/// Kernel, template arguments and parameter's type of a mangled name.
pub(crate) fn names(mangled: &str) -> (String, String, String) {
    let demangled = Symbol::new(mangled).ok().and_then(|symbol| symbol.demangle().ok());
    let demangled = demangled.unwrap_or_else(|| mangled.to_owned());
    let (head, argument) = demangled.split_once('(').unwrap_or((&demangled, ""));
    let head = head.strip_prefix("void ").unwrap_or(head);
    let (kernel, instance) = head.split_once('<').unwrap_or((head, ""));
    let mut instance = instance.strip_suffix('>').unwrap_or(instance).to_owned();
    for (ours, theirs) in [("bf16", "__nv_bfloat16"), ("f16", "__half"), ("f32", "float")] {
        instance = instance.replace(theirs, ours);
    }
    (kernel.trim().into(), instance, argument.trim_end_matches(')').into())
}

/// A kernel of the project, and what it is launched by.
pub(crate) struct Kernel {
    name: &'static str,
    /// None where it makes no difference.
    pub(crate) strategies: &'static [&'static str],
    /// None where they make no difference.
    pub(crate) epilogues: &'static [&'static str],
    /// Whether it does nothing without clusters.
    pub(crate) needs_clusters: bool,
}

/// All kernels. One that is not here is told by `--require-all`.
const KERNELS: [Kernel; 18] = [
    kernel("moments_kernel", &STRATEGIES, &[]),
    kernel("moments_finish_kernel", &[], &[]),
    kernel("train_fused_kernel", &FUSED, &EPILOGUES),
    kernel("normalize_kernel", &[], &EPILOGUES),
    kernel("infer_kernel", &[], &EPILOGUES),
    kernel("backward_fused_kernel", &FUSED, &EPILOGUES),
    kernel("mean_residual_kernel", &[], &[]),
    kernel("backward_reduce_kernel", &[], &EPILOGUES),
    kernel("backward_elemt_kernel", &[], &EPILOGUES),
    kernel("backward_running_kernel", &[], &EPILOGUES),
    kernel("backward_running_finish_kernel", &[], &[]),
    kernel("pack_mask_kernel", &[], &[]),
    kernel("fill_kernel", &[], &[]),
    kernel("axpy_kernel", &[], &[]),
    kernel("copy_kernel", &[], &[]),
    kernel("strided_copy_kernel", &[], &[]),
    kernel("grid_exchange_kernel", &[], &[]),
    Kernel { needs_clusters: true, ..kernel("cluster_exchange_kernel", &[], &[]) },
];

/// The strategies that hold a tile in shared memory.
const FUSED: [&str; 3] = [Strategy::Block.name(), Strategy::Cluster.name(), Strategy::Grid.name()];

const fn kernel(name: &'static str, strategies: &'static [&'static str], epilogues: &'static [&'static str]) -> Kernel {
    Kernel { name, strategies, epilogues, needs_clusters: false }
}

/// The strategies that an instance of a kernel is launched by: the one whose number of kernels/abi.h is its last template argument,
/// or all of the kernel's.
pub(crate) fn strategies_of(kernel: &Kernel, instance: &str) -> Vec<&'static str> {
    let number = instance.rsplit_once(", ").and_then(|(_, number)| number.parse().ok()).map(BnStrategy);
    let its_own = Strategy::ALL.iter().copied().find(|&it| Some(it.into()) == number).map(Strategy::name);
    kernel.strategies.iter().copied().filter(|&name| its_own.is_none_or(|own| own == name)).collect()
}

/// The kernel of this name.
pub(crate) fn kernel_named(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    /// A launch of a kernel of one argument, with these words in it.
    fn launch(kernel: &str, bytes: usize, words: &[(usize, u32)]) -> Launch {
        let mut parameter = vec![0; bytes];
        for &(at, word) in words {
            parameter[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        Launch {
            sources: String::new(),
            kernel: kernel.into(),
            grid: [1; 3],
            block: [1; 3],
            cluster: 1,
            cooperative: false,
            shared_bytes: 0,
            capability: 90,
            parameters: vec![parameter],
            allocations: Vec::new(),
            code: 0,
        }
    }

    /// The numbers are those of kernels/abi.h.
    #[test]
    fn a_launch_tells_its_strategy_and_epilogue() {
        let name = "_Z18train_fused_kernelIf10ContiguousEv7BnTrain";
        let epilogue = offset_of!(BnTrain, epilogue);
        let (activation, residual) = (offset_of!(BnEpilogue, activation), offset_of!(BnEpilogue, has_residual));
        let number_of_strategy = |strategy| match strategy {
            Strategy::Block => 0,
            Strategy::Cluster => 1,
            Strategy::Grid => 2,
            Strategy::TwoPass => 3,
        };
        let number_of_activation = |activation| match activation {
            Activation::Identity => 0,
            Activation::Relu => 1,
            Activation::Relu6 => 2,
            Activation::Silu => 3,
            Activation::Hardswish => 4,
        };
        for &strategy in Strategy::ALL {
            for &kind in Epilogue::ALL {
                let words = [
                    (offset_of!(BnTiling, strategy), number_of_strategy(strategy)),
                    (epilogue + activation, number_of_activation(kind.activation())),
                    (epilogue + residual, u32::from(kind.residual().is_some())),
                ];
                let told = of(&launch(name, size_of::<BnTrain>(), &words));
                assert_eq!(told.kernel, "train_fused_kernel");
                assert_eq!((told.strategy, told.epilogue), (Some(strategy.name()), Some(kind.name())));
            }
        }
        assert!(STRATEGIES.into_iter().eq(Strategy::ALL.iter().copied().map(Strategy::name)));
        assert!(EPILOGUES.into_iter().eq(Epilogue::ALL.iter().map(|kind| kind.name())));
        let kind = of(&launch(name, size_of::<BnTrain>(), &[(offset_of!(BnTiling, strategy), 99), (epilogue, 99)]));
        assert_eq!((kind.strategy, kind.epilogue), (None, None));
    }

    #[test]
    fn an_instance_tells_its_strategies() {
        let fused = kernel_named("train_fused_kernel").unwrap();
        let (_, instance, _) = names("_Z18train_fused_kernelI7StridedI6__halfLi8EELi2EEv7BnTrain");
        assert_eq!(instance, "Strided<f16, 8>, 2");
        assert_eq!(strategies_of(fused, &instance), ["grid"]);
        let (_, instance, _) = names("_Z18train_fused_kernelI7StridedI6__halfLi1EELin1EEv7BnTrain");
        assert_eq!(strategies_of(fused, &instance), FUSED);
        assert!(strategies_of(kernel_named("infer_kernel").unwrap(), "Strided<f16, 8>").is_empty());
    }
}

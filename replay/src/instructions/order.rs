//! The order of an access for other CTAs: weak or strong, acquire and release, and their scope (PTX ISA 9.0, "Memory Consistency Model", 8).

use crate::ptx::Modifiers;

/// The order of an access ("Memory Consistency Model: Operation types"): a weak one may be late, a strong one not, for
/// those of its scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) is_strong: bool,
    pub(crate) acquires: bool,
    pub(crate) releases: bool,
    pub(crate) scope: Scope,
    /// ld.nc: of memory that nobody writes while the launch runs.
    pub(crate) is_constant: bool,
}

impl Order {
    /// That of a plain access.
    pub(super) const WEAK: Self =
        Self { is_strong: false, acquires: false, releases: false, scope: Scope::Device, is_constant: false };
}

/// Whom a strong access or a fence orders ("Memory Consistency Model: Scope").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    /// The grid, and whoever else there is.
    Device,
}

/// The order and its scope, which is the device's where none is named ("atom": .gpu; "ld": .volatile is of .sys).
pub(super) fn order(words: &mut Modifiers<'_>) -> Order {
    let order = words.one_of(&["relaxed", "acquire", "release", "acq_rel"]);
    let scope = match words.one_of(&["cta", "cluster", "gpu", "sys"]) {
        Some("cta") => Scope::Cta,
        Some("cluster") => Scope::Cluster,
        _ => Scope::Device,
    };
    Order {
        is_strong: order.is_some(),
        acquires: matches!(order, Some("acquire" | "acq_rel")),
        releases: matches!(order, Some("release" | "acq_rel")),
        scope,
        is_constant: false,
    }
}

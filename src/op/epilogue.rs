//! The epilogue: an activation, and a residual before it.

use crate::error::{Error, Result};
use crate::named::named;

/// The function that is applied last.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `v`
    Identity,
    /// `max(v, 0)`; NaN stays NaN.
    Relu,
    /// `min(max(v, 0), 6)`; NaN stays NaN. Its gradient passes where `0 < y < 6`, or `y` is NaN.
    Relu6,
    /// `v / (1 + exp(-v))`, also called swish; NaN at `-inf`, as in every framework. Its gradient is that at `v` before rounding.
    #[doc(alias = "swish")]
    Silu,
    /// `v * min(max(v + 3, 0), 6) / 6`; NaN at `-inf`, as in PyTorch. Its gradient is that at `v` before rounding: `v/3 + 1/2`
    /// between -3 and 3.
    Hardswish,
}

named! {
    Activation {
        Identity => "identity",
        Relu => "relu",
        Relu6 => "relu6",
        Silu => "silu",
        Hardswish => "hardswish",
    }
}

impl Activation {
    const fn derivative(self) -> Derivative {
        match self {
            Self::Identity => Derivative::One,
            Self::Relu | Self::Relu6 => Derivative::ZeroOrOne,
            Self::Silu | Self::Hardswish => Derivative::Real,
        }
    }

    /// Whether a residual can stand before it: `v + z` is not found from x alone, so that a derivative there takes a mask. That
    /// of relu, which the kernels and the CPU make, is the only one.
    pub const fn takes_residual(self) -> bool {
        match self {
            Self::Identity | Self::Relu => true,
            Self::Relu6 | Self::Silu | Self::Hardswish => false,
        }
    }

    /// The formula over an argument, such as `max(v, 0)`.
    pub fn formula(self, v: &str) -> String {
        match self {
            Self::Identity => v.into(),
            Self::Relu => format!("max({v}, 0)"),
            Self::Relu6 => format!("min(max({v}, 0), 6)"),
            Self::Silu => format!("silu({v})"),
            Self::Hardswish => format!("hardswish({v})"),
        }
    }
}

/// The values that an activation's derivative takes: they say what a backward pass needs to know of its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Derivative {
    /// 1 everywhere: nothing.
    One,
    /// 0 or 1: a bit.
    ZeroOrOne,
    /// Any: `v` itself.
    Real,
}

/// `y = activation(v)`, or with a residual `y = activation(v + z)`. `Z` is the residual's buffer, or its gradient's, or `()` for
/// the kind alone.
///
/// ```
/// use batchnorm::{Activation, Epilogue};
///
/// let z = [1.0f32, 2.0];
/// assert_eq!(Epilogue::add_relu(&z), Epilogue::new(Activation::Relu, Some(&z)));
/// assert_eq!(Epilogue::add_relu(&z).kind(), Epilogue::ADD_RELU);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epilogue<Z> {
    activation: Activation,
    residual: Option<Z>,
}

impl<Z> Epilogue<Z> {
    /// `y = v`
    pub const IDENTITY: Self = Self::new(Activation::Identity, None);
    /// `y = max(v, 0)`; NaN stays NaN.
    pub const RELU: Self = Self::new(Activation::Relu, None);
    /// `y = min(max(v, 0), 6)`; NaN stays NaN.
    pub const RELU6: Self = Self::new(Activation::Relu6, None);
    /// `y = v / (1 + exp(-v))`
    #[doc(alias = "swish")]
    pub const SILU: Self = Self::new(Activation::Silu, None);
    /// `y = v * min(max(v + 3, 0), 6) / 6`
    pub const HARDSWISH: Self = Self::new(Activation::Hardswish, None);

    /// Out of its parts.
    pub const fn new(activation: Activation, residual: Option<Z>) -> Self {
        Self { activation, residual }
    }

    /// `y = v + z`
    pub const fn add(z: Z) -> Self {
        Self::new(Activation::Identity, Some(z))
    }

    /// `y = max(v + z, 0)`; NaN stays NaN.
    pub const fn add_relu(z: Z) -> Self {
        Self::new(Activation::Relu, Some(z))
    }

    /// The function that is applied last.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The residual's buffer, where there is one.
    pub fn residual(&self) -> Option<&Z> {
        self.residual.as_ref()
    }

    /// The residual's buffer, where there is one.
    pub fn into_residual(self) -> Option<Z> {
        self.residual
    }

    /// The kind alone.
    pub fn kind(&self) -> Epilogue<()> {
        Epilogue::new(self.activation, self.residual.as_ref().map(|_| ()))
    }

    /// The same kind with another buffer.
    pub fn map<W>(self, f: impl FnOnce(Z) -> W) -> Epilogue<W> {
        Epilogue::new(self.activation, self.residual.map(f))
    }

    /// Whether a backward pass computes v again from x, for the activation's derivative: without a residual that is all it takes.
    pub fn recomputes_v(&self) -> bool {
        self.activation.derivative() != Derivative::One && self.residual.is_none()
    }

    /// Whether the activation's derivative takes any value, rather than 0 or 1.
    pub(crate) fn has_real_derivative(&self) -> bool {
        self.activation.derivative() == Derivative::Real
    }

    /// Whether the forward pass keeps a mask for the backward pass: of an activation behind a residual, which backward does not
    /// read. Relu alone gets so far: `check_epilogue` refuses others.
    pub fn keeps_mask(&self) -> bool {
        self.activation.derivative() == Derivative::ZeroOrOne && self.residual.is_some()
    }

    /// The name on the command line and in error messages.
    pub const fn name(&self) -> &'static str {
        match (self.activation, self.residual.is_some()) {
            (activation, false) => activation.name(),
            (Activation::Identity, true) => "add",
            (Activation::Relu, true) => "add-relu",
            (Activation::Relu6, true) => "add-relu6",
            (Activation::Silu, true) => "add-silu",
            (Activation::Hardswish, true) => "add-hardswish",
        }
    }

    /// The formula behind the normalized value `v`, such as `max(v + z, 0)`.
    pub fn formula(&self, v: &str) -> String {
        self.activation.formula(&if self.residual.is_some() { format!("{v} + z") } else { v.into() })
    }
}

const ACTIVATIONS: usize = Activation::ALL.len();

/// Activations that take a residual.
const TAKING_RESIDUAL: usize = {
    let (mut count, mut i) = (0, 0);
    while i < ACTIVATIONS {
        count += Activation::ALL[i].takes_residual() as usize;
        i += 1;
    }
    count
};

impl Epilogue<()> {
    /// The kind of [`Epilogue::add`].
    pub const ADD: Self = Self::add(());
    /// The kind of [`Epilogue::add_relu`].
    pub const ADD_RELU: Self = Self::add_relu(());
    /// Every kind that an operation can have: each activation without a residual, then those that take one behind it.
    pub const ALL: &'static [Self] = &{
        let (mut all, mut i, mut behind) = ([Self::IDENTITY; ACTIVATIONS + TAKING_RESIDUAL], 0, ACTIVATIONS);
        while i < ACTIVATIONS {
            all[i] = Self::new(Activation::ALL[i], None);
            if Activation::ALL[i].takes_residual() {
                all[behind] = Self::new(Activation::ALL[i], Some(()));
                behind += 1;
            }
            i += 1;
        }
        all
    };

    /// The kind of this [name](Epilogue::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// This kind with its residual, or the residual's gradient, where it has one. `tensor` is the argument's name.
    ///
    /// # Errors
    /// [`Error::Missing`] for a kind with a residual and no buffer, [`Error::Unexpected`] for a buffer without use.
    pub fn with<Z>(self, tensor: &'static str, buffer: Option<Z>) -> Result<Epilogue<Z>> {
        match (self.residual, buffer) {
            (None, None) => Ok(Epilogue::new(self.activation, None)),
            (Some(()), Some(buffer)) => Ok(Epilogue::new(self.activation, Some(buffer))),
            (Some(()), None) => Err(Error::Missing { tensor, reason: "the epilogue has a residual" }),
            (None, Some(_)) => Err(Error::Unexpected { tensor, reason: "the epilogue has no residual" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epilogue_takes_a_buffer_where_it_has_one() {
        assert_eq!(Epilogue::IDENTITY.with::<u8>("z", None).unwrap(), Epilogue::IDENTITY);
        assert_eq!(Epilogue::RELU.with::<u8>("z", None).unwrap(), Epilogue::RELU);
        assert_eq!(Epilogue::ADD.with("z", Some(1)).unwrap(), Epilogue::add(1));
        assert_eq!(Epilogue::ADD_RELU.with("z", Some(2)).unwrap(), Epilogue::add_relu(2));
        for kind in [Epilogue::ADD, Epilogue::ADD_RELU] {
            assert!(matches!(kind.with::<u8>("dz", None), Err(Error::Missing { tensor: "dz", .. })));
        }
        for kind in [Epilogue::IDENTITY, Epilogue::RELU] {
            assert!(matches!(kind.with("z", Some(0)), Err(Error::Unexpected { tensor: "z", .. })));
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: Vec<_> = Epilogue::ALL.iter().map(Epilogue::name).collect();
        assert_eq!(names, ["identity", "relu", "relu6", "silu", "hardswish", "add", "add-relu"]);
        let formulas: Vec<_> = Epilogue::ALL.iter().map(|kind| kind.formula("y")).collect();
        let wanted = ["y", "max(y, 0)", "min(max(y, 0), 6)", "silu(y)", "hardswish(y)", "y + z", "max(y + z, 0)"];
        assert_eq!(formulas, wanted);
        for &kind in Epilogue::ALL {
            assert_eq!(Epilogue::named(kind.name()), Some(kind));
            assert!(!(kind.recomputes_v() && kind.keeps_mask()));
        }
        assert_eq!(Epilogue::named("silly"), None);
    }
}

//! Enums whose values have names, as the command line and messages have them.

/// Gives an enum without data its names, and the list of its values: both out of one table, so that a value without a name does
/// not compile, and one with a name is in the list.
macro_rules! named {
    ($Type:ident { $($variant:ident $(($of:path))? => $name:literal,)* }) => {
        impl $Type {
            /// Every value, in the order of this crate's tables.
            pub const ALL: &'static [Self] = &[$(Self::$variant $(($of))?),*];

            /// The name on the command line and in messages.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant $(($of))? => $name,)*
                }
            }

            /// The value of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }
    };
}

pub(crate) use named;

#[cfg(test)]
mod tests {
    use crate::{Activation, Dtype, Op, Strategy};

    #[test]
    fn every_value_has_a_name_of_its_own() {
        assert!(Op::ALL.iter().copied().all(|op| Op::named(op.name()) == Some(op)));
        assert!(Dtype::ALL.iter().copied().all(|dtype| Dtype::named(dtype.name()) == Some(dtype)));
        assert!(
            Activation::ALL.iter().copied().all(|activation| Activation::named(activation.name()) == Some(activation))
        );
        assert!(Strategy::ALL.iter().copied().all(|strategy| Strategy::named(strategy.name()) == Some(strategy)));
        assert_eq!(Op::named("silly"), None);
    }
}

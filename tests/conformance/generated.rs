//! Inputs that a manifest gives as a formula: tensors too large to be stored.

use std::collections::BTreeMap;

use batchnorm::Element;
use serde_json::Value;

/// The formula of each role.
pub(crate) struct Generated(BTreeMap<String, Formula>);

struct Formula {
    seed: u32,
    scale: f32,
    offset: f32,
}

impl Generated {
    pub(crate) fn parse(value: &Value) -> Self {
        const HASH: &str = "lowbias32((i+seed) mod 2^32): h^=h>>16;h*=0x7feb352d;h^=h>>15;h*=0x846ca68b;h^=h>>16";
        const VALUE: &str = "f32: ((h>>8)*2^-24 - 0.5)*scale + offset, then round-to-nearest-even to dtype; i = flat \
                             index in the stated layout";
        assert_eq!((&value["hash"], &value["value"]), (&HASH.into(), &VALUE.into()), "the formula that is coded here");
        let roles = value.as_object().unwrap().iter().filter(|(_, formula)| formula.is_object());
        Self(roles.map(|(role, formula)| (role.clone(), Formula::parse(formula))).collect())
    }

    /// The first `len` values of a role.
    pub(crate) fn values<T: Element>(&self, role: &str, len: usize) -> Option<Vec<T>> {
        let formula = self.0.get(role)?;
        Some((0..len as u32).map(|i| T::from_f64(f64::from(formula.value(i)))).collect())
    }
}

impl Formula {
    fn parse(value: &Value) -> Self {
        let number = |field: &str| value[field].as_f64().unwrap() as f32;
        Self {
            seed: u32::try_from(value["seed"].as_u64().unwrap()).unwrap(),
            scale: number("scale"),
            offset: number("offset"),
        }
    }

    fn value(&self, i: u32) -> f32 {
        let mut h = i.wrapping_add(self.seed);
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        ((h >> 8) as f32 / 16_777_216.0 - 0.5) * self.scale + self.offset
    }
}

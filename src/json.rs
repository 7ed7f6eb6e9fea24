//! JSON beyond what serde_json checks of it: no key occurs twice in an object, since readers differ in which of the two they take.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The first key that an object of the text has twice, however it is spelled there, and in whichever object. The error is of a text
/// that is no JSON.
pub(crate) fn repeated_key(text: &str) -> Result<Option<String>, serde_json::Error> {
    let mut repeated = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let result = Unique { repeated: &mut repeated }.deserialize(&mut json);
    if repeated.is_some() { Ok(repeated) } else { result.map(|()| None) }
}

/// Reads a value and keeps none of it but the keys of the objects that it is inside of.
struct Unique<'a> {
    repeated: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                *self.repeated = Some(key);
                return Err(A::Error::custom("a key occurs twice"));
            }
            keys.insert(key);
            map.next_value_seed(Unique { repeated: &mut *self.repeated })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Unique { repeated: &mut *self.repeated })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

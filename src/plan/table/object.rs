//! Objects of a table's JSON, whose fields are taken one by one, each with its place in what is refused.

use core::fmt::Display;

use serde_json::{Map, Value};

use super::MOST_CHARACTERS;
use crate::error::{Error, Result};

/// Characters of a value that a message repeats at most.
const LONGEST: usize = 200;

/// An object and its place in the table.
pub(super) struct Object<'a> {
    pub(super) place: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(super) fn new(place: &str, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| refused(place, "an object", value))?;
        Ok(Self { place: place.into(), map })
    }

    /// Refuses a field of another name.
    pub(super) fn expect(&self, names: &[&str]) -> Result<()> {
        match self.map.keys().find(|key| !names.contains(&key.as_str())) {
            Some(unknown) => {
                let expected = format!("the fields {}", names.join(", "));
                Err(refused(&self.place, &expected, format_args!("\"{unknown}\"")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn value(&self, name: &str) -> Result<&'a Value> {
        self.map.get(name).ok_or_else(|| refused(&self.place, &format!("a field \"{name}\""), "none"))
    }

    /// The error of a field that is not what was expected.
    pub(super) fn refused(&self, name: &str, expected: &str) -> Error {
        let place = format!("{}, {name}", self.place);
        match self.map.get(name) {
            Some(value) => refused(&place, expected, value),
            None => refused(&place, expected, "none"),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Object<'a>> {
        Object::new(&format!("{}, {name}", self.place), self.value(name)?)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str> {
        let text = self.value(name)?.as_str().filter(|text| text.chars().count() <= MOST_CHARACTERS);
        text.ok_or_else(|| self.refused(name, &format!("a text of at most {MOST_CHARACTERS} characters")))
    }

    /// A whole number that fits its type.
    pub(super) fn number<N: TryFrom<u64>>(&self, name: &str) -> Result<N> {
        let number = self.value(name)?.as_u64().and_then(|number| N::try_from(number).ok());
        let expected = || format!("a whole number of at most {} bits", 8 * size_of::<N>());
        number.ok_or_else(|| self.refused(name, &expected()))
    }

    pub(super) fn float(&self, name: &str) -> Result<f64> {
        self.value(name)?.as_f64().ok_or_else(|| self.refused(name, "a number"))
    }

    pub(super) fn list(&self, name: &str, most: usize) -> Result<&'a [Value]> {
        let list = self.value(name)?.as_array().filter(|list| list.len() <= most);
        list.map(Vec::as_slice).ok_or_else(|| self.refused(name, &format!("a list of at most {most} values")))
    }

    /// A value of a list by its name.
    pub(super) fn named<T: Copy, S: AsRef<str>>(
        &self,
        name: &str,
        find: impl Fn(&str) -> Option<T>,
        all: &[T],
        name_of: impl Fn(T) -> S,
    ) -> Result<T> {
        let found = self
            .value(name)?
            .as_str()
            .and_then(find)
            .filter(|found| all.iter().any(|&known| name_of(known).as_ref() == name_of(*found).as_ref()));
        let expected = || {
            let names: Vec<String> = all.iter().map(|&known| name_of(known).as_ref().to_owned()).collect();
            format!("one of {}", names.join(", "))
        };
        found.ok_or_else(|| self.refused(name, &expected()))
    }
}

/// The error of a place in a table. Whatever is in it is repeated in part, with nothing that breaks the line.
pub(super) fn refused(place: &str, expected: &str, actual: impl Display) -> Error {
    let text = actual.to_string();
    let mut actual: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        actual += " and more";
    }
    Error::PlanTable { place: place.into(), expected: expected.into(), actual }
}

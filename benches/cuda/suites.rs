//! The shapes of suites.json.

use batchnorm::{Layout, Shape};
use serde_json::Value;

/// Read when this is compiled: the executable is carried to machines without the repository.
const SUITES: &str = include_str!("../suites.json");

/// A layer of a suite.
pub(crate) struct Entry {
    pub(crate) suite: String,
    pub(crate) name: String,
    n: usize,
    c: usize,
    spatial: Vec<usize>,
}

impl Entry {
    /// The shape, and its layouts: a tensor of two dimensions has one.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let first = [&[self.n, self.c], &self.spatial[..]].concat();
        let last = [&[self.n], &self.spatial[..], &[self.c]].concat();
        let shape = |dims: &[usize], layout| Shape::new(dims, layout).expect("suites.json holds shapes");
        let mut shapes = vec![shape(&first, Layout::ChannelsFirst)];
        if !self.spatial.is_empty() {
            shapes.push(shape(&last, Layout::ChannelsLast));
        }
        shapes
    }
}

/// Every layer of every suite.
pub(crate) fn entries() -> Vec<Entry> {
    let file: Value = serde_json::from_str(SUITES).expect("suites.json is JSON");
    let suites = file["suites"].as_object().expect("suites.json has suites");
    let of_suite = |(suite, entries): (&String, &Value)| {
        let suite = suite.clone();
        let entries = entries.as_array().expect("a suite is a list").clone();
        entries.into_iter().map(move |value| entry(&suite, &value))
    };
    suites.iter().flat_map(of_suite).collect()
}

fn entry(suite: &str, value: &Value) -> Entry {
    let size = |value: &Value| value.as_u64().and_then(|size| size.try_into().ok()).expect("sizes are integers");
    Entry {
        suite: suite.to_owned(),
        name: value["name"].as_str().expect("entries have names").to_owned(),
        n: size(&value["n"]),
        c: size(&value["c"]),
        spatial: value["spatial"].as_array().expect("entries have spatial sizes").iter().map(size).collect(),
    }
}

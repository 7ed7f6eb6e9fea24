//! `cargo xtask conformance`: makes tests/data/conformance out of ../shared/conformance.
//!
//! A subset that is small enough for the repository and has every family of cases: first the smallest cases that show
//! a property no other has shown, then the smallest of the rest, as many as fit. Same input, same output. `literals`
//! is other repositories' data and is not copied.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FROM: &str = "../shared/conformance";
const TO: &str = "tests/data/conformance";
const SUITES: [&str; 5] = ["onnx", "tf", "keras", "flax", "torch"];

/// Bytes that tests/data may hold.
const LIMIT: usize = 6_000_000;
/// Bytes of it that are left for the README.
const RESERVE: usize = 10_000;
/// Bytes of an entry of a safetensors header without the tensor's name, at most.
const ENTRY: usize = 110;

/// A suite as it is in ../shared.
struct Suite {
    name: &'static str,
    manifest: Value,
    bytes: Vec<u8>,
}

/// A case that may be taken.
struct Candidate {
    suite: usize,
    index: usize,
    /// Its bytes in the manifest.
    text: usize,
    keys: BTreeSet<String>,
    /// Its properties: the subset has at least one case of each.
    properties: Vec<String>,
    /// Its bytes if nothing is shared with another case.
    size: usize,
}

/// The cases that have been taken so far.
struct Chosen {
    cases: Vec<BTreeSet<usize>>,
    keys: Vec<BTreeSet<String>>,
    size: usize,
}

/// Makes the subset.
///
/// # Errors
/// An error if ../shared/conformance is missing or has another form, or the families alone are too large.
pub(crate) fn run() -> Result<()> {
    let suites = SUITES.into_iter().map(Suite::read).collect::<Result<Vec<_>>>()?;
    let files = suites.iter().map(|suite| Ok(SafeTensors::deserialize(&suite.bytes)?)).collect::<Result<Vec<_>>>()?;
    let mut candidates = Vec::new();
    for (index, (suite, file)) in suites.iter().zip(&files).enumerate() {
        candidates.extend(suite.candidates(index, file)?);
    }
    candidates.sort_by_key(|candidate| (candidate.size, candidate.suite, candidate.index));

    let frame = suites.iter().map(|suite| suite.written(&BTreeSet::new()).map(|text| text.len()));
    let mut chosen = Chosen {
        cases: vec![BTreeSet::new(); suites.len()],
        keys: vec![BTreeSet::new(); suites.len()],
        size: RESERVE + frame.sum::<Result<usize>>()?,
    };
    let mut shown = BTreeSet::new();
    for candidate in &candidates {
        if candidate.properties.iter().any(|property| !shown.contains(property)) {
            chosen.take(candidate, &files)?;
            shown.extend(candidate.properties.iter());
        }
    }
    println!("{} properties take {} bytes", shown.len(), chosen.size);
    for candidate in &candidates {
        if chosen.size + chosen.cost(candidate, &files)? <= LIMIT {
            chosen.take(candidate, &files)?;
        }
    }

    if Path::new(TO).exists() {
        fs::remove_dir_all(TO)?;
    }
    let mut total = RESERVE;
    for (index, (suite, file)) in suites.iter().zip(&files).enumerate() {
        let tensors = chosen.keys[index].iter().map(|key| Ok((key.clone(), file.tensor(key)?)));
        let tensors = tensors.collect::<Result<BTreeMap<_, _>>>()?;
        let (tensors, manifest) = (safetensors::serialize(tensors, None)?, suite.written(&chosen.cases[index])?);
        let folder = Path::new(TO).join(suite.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(suite.tensor_file()?), &tensors)?;
        fs::write(folder.join("manifest.json"), &manifest)?;
        total += tensors.len() + manifest.len();
        let (taken, all) = (chosen.cases[index].len(), suite.cases()?.len());
        println!("{}: {taken} of {all} cases, {} bytes", suite.name, tensors.len() + manifest.len());
    }
    println!("{total} of at most {LIMIT} bytes, {RESERVE} of them for tests/data/README.md");
    if total > LIMIT { Err("the subset is too large".into()) } else { Ok(()) }
}

impl Suite {
    fn read(name: &'static str) -> Result<Self> {
        let folder = Path::new(FROM).join(name);
        let read = |file: &str| fs::read(folder.join(file)).map_err(|e| format!("{}/{file}: {e}", folder.display()));
        let mut suite = Self { name, manifest: serde_json::from_slice(&read("manifest.json")?)?, bytes: Vec::new() };
        suite.bytes = read(suite.tensor_file()?)?;
        Ok(suite)
    }

    fn tensor_file(&self) -> Result<&str> {
        Ok(self.manifest["tensor_file"].as_str().ok_or("tensor_file is missing")?)
    }

    fn cases(&self) -> Result<&Vec<Value>> {
        Ok(self.manifest["cases"].as_array().ok_or("cases are missing")?)
    }

    fn candidates(&self, suite: usize, file: &SafeTensors<'_>) -> Result<Vec<Candidate>> {
        let candidate = |(index, case): (usize, &Value)| {
            let keys = keys(case);
            let text = serde_json::to_string(case)?.len() + 1;
            let size = text + size_of_tensors(file, keys.iter())?;
            Ok(Candidate { suite, index, text, keys, properties: properties(self.name, case), size })
        };
        self.cases()?.iter().enumerate().map(candidate).collect()
    }

    /// The manifest with these cases alone.
    fn written(&self, cases: &BTreeSet<usize>) -> Result<String> {
        let taken: Vec<Value> = cases.iter().filter_map(|&index| self.cases().ok()?.get(index).cloned()).collect();
        let mut manifest = self.manifest.clone();
        manifest["n_cases"] = taken.len().into();
        manifest["subset_of_n_cases"] = self.cases()?.len().into();
        manifest["cases"] = taken.into();
        Ok(serde_json::to_string(&manifest)? + "\n")
    }
}

impl Chosen {
    /// The bytes that a case adds: none of a tensor that is there already.
    fn cost(&self, candidate: &Candidate, files: &[SafeTensors<'_>]) -> Result<usize> {
        if self.cases[candidate.suite].contains(&candidate.index) {
            return Ok(0);
        }
        let new = candidate.keys.difference(&self.keys[candidate.suite]);
        Ok(candidate.text + size_of_tensors(&files[candidate.suite], new)?)
    }

    fn take(&mut self, candidate: &Candidate, files: &[SafeTensors<'_>]) -> Result<()> {
        self.size += self.cost(candidate, files)?;
        self.cases[candidate.suite].insert(candidate.index);
        self.keys[candidate.suite].extend(candidate.keys.iter().cloned());
        Ok(())
    }
}

/// The tensors that a case and its steps name.
fn keys(case: &Value) -> BTreeSet<String> {
    let steps = case["steps"].as_array().into_iter().flatten();
    let maps = std::iter::once(case).chain(steps).flat_map(|part| [&part["tensors"], &part["tensors_f64"]]);
    maps.filter_map(Value::as_object).flat_map(|map| map.values()).filter_map(Value::as_str).map(String::from).collect()
}

fn size_of_tensors<'a>(file: &SafeTensors<'_>, keys: impl Iterator<Item = &'a String>) -> Result<usize> {
    keys.map(|key| Ok(file.tensor(key)?.data().len() + key.len() + ENTRY)).sum()
}

/// The properties of a case: its family, and those of its data. The names of PyTorch's `seq` and `gen` cases have the shape in
/// them, and behind dtype and shape what is special.
fn properties(suite: &str, case: &Value) -> Vec<String> {
    let name = case["name"].as_str().unwrap_or_default();
    let parts: Vec<&str> = name.split('/').collect();
    let (family, special) = match parts[..] {
        ["seq" | "gen", rest] => (parts[0].to_string(), rest.split('_').skip(3).collect::<Vec<_>>().join("_")),
        ["module", module, feature, ..] => (format!("module/{module}/{feature}"), String::new()),
        [first, second, ..] if suite == "torch" => (format!("{first}/{second}"), String::new()),
        [first, ..] => (first.to_string(), String::new()),
        [] => Default::default(),
    };
    let of_family = |what: &str, value: &dyn std::fmt::Display| format!("{suite}/{family}: {what} {value}");
    vec![
        of_family("is", &special),
        of_family("op", &case["op"]),
        of_family("layout", &case["layout"]),
        of_family("dtype", &format!("{} {}", case["dtype"], case["param_dtype"])),
        of_family("tracks", &format!("{} {}", case["track"], case["momentum_convention"])),
        of_family("zero_debias", &case["zero_debias"]),
        of_family("parameters", &format!("{} {}", case["has_gamma"], case["has_beta"])),
        of_family("inaccurate", &case["expect_inaccurate"]),
        of_family("eps", &case["eps"]),
    ]
}

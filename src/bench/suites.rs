//! The shapes of suites.json.

use serde_json::Value;

use crate::{Dtype, Layout, Shape};

/// The text of `benches/suites.json`, THE list of shapes: read when this is compiled, since executables are carried to
/// machines without the repository. The Python peers are asked row by row.
pub const SUITES: &str = include_str!("../../benches/suites.json");

/// One tensor to measure on.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The suite that it belongs to.
    pub suite: String,
    /// Its name in the suite.
    pub name: String,
    /// Number of batch norms of this size in the network.
    pub count: u32,
    /// Dimensions and layout.
    pub shape: Shape,
    /// The type of the data.
    pub dtype: Dtype,
    /// Elements by which every tensor begins beyond an aligned address.
    pub offset: usize,
}

impl Row {
    /// The bytes of x.
    pub fn bytes(&self) -> usize {
        self.shape.len() * self.dtype.bytes() as usize
    }
}

/// Every row of every suite, in the order of the file; `Err` with words where the file is not what it should be.
///
/// # Errors
/// The part of the file that is missing or misshapen.
pub fn rows() -> Result<Vec<Row>, String> {
    parse(SUITES)
}

fn parse(text: &str) -> Result<Vec<Row>, String> {
    let file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let suites = file["suites"].as_object().ok_or("expected an object \"suites\"")?;
    let mut rows = Vec::new();
    for (suite, entries) in suites {
        for entry in entries.as_array().ok_or_else(|| format!("{suite}: expected a list"))? {
            let told = |what: &str| format!("{suite}, {entry}: expected {what}");
            rows.extend(of_entry(suite, entry).map_err(|what| told(&what))?);
        }
    }
    Ok(rows)
}

/// The rows of one entry: for every batch size, layout and dtype.
fn of_entry(suite: &str, entry: &Value) -> Result<Vec<Row>, String> {
    let name = entry["name"].as_str().ok_or("a name")?;
    let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
    let sizes = |key: &str| {
        let list = entry[key].as_array()?;
        list.iter().map(size).collect::<Option<Vec<usize>>>()
    };
    let optional = |key: &str, absent| match &entry[key] {
        Value::Null => Some(absent),
        value => size(value),
    };
    let batches = sizes("n").ok_or("n, a list of sizes")?;
    let spatial = sizes("spatial").ok_or("spatial, a list of sizes")?;
    let c = size(&entry["c"]).ok_or("c, a size")?;
    let count = optional("count", 1).and_then(|count| u32::try_from(count).ok()).ok_or("count, a size")?;
    let offset = optional("offset", 0).ok_or("offset, a number of elements")?;
    let dtypes = match &entry["dtypes"] {
        Value::Null => Dtype::ON_CUDA.to_vec(),
        value => value.as_array().into_iter().flatten().map(dtype).collect::<Option<_>>().ok_or_else(|| {
            format!("dtypes of {}", Dtype::ON_CUDA.iter().copied().map(Dtype::name).collect::<Vec<_>>().join(", "))
        })?,
    };
    // A tensor of two dimensions, or of one channel, has one layout.
    let has_two = !spatial.is_empty() && c > 1;
    let layouts = if has_two { &[Layout::ChannelsFirst, Layout::ChannelsLast][..] } else { &[Layout::ChannelsFirst] };
    let mut rows = Vec::new();
    for n in batches {
        for &layout in layouts {
            let dims = match layout {
                Layout::ChannelsFirst => [&[n, c], &spatial[..]].concat(),
                Layout::ChannelsLast => [&[n], &spatial[..], &[c]].concat(),
            };
            let shape = Shape::new(&dims, layout).map_err(|error| format!("a shape ({error})"))?;
            rows.extend(dtypes.iter().map(|&dtype| Row {
                suite: suite.into(),
                name: name.into(),
                count,
                shape,
                dtype,
                offset,
            }));
        }
    }
    Ok(rows)
}

fn dtype(value: &Value) -> Option<Dtype> {
    value.as_str().and_then(Dtype::named).filter(|dtype| dtype.is_on_cuda())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 53 batch norms, in the sizes of the paper's table 1 with the stride in the 3x3 convolutions.
    #[test]
    fn resnet50_has_its_layers() {
        let rows = rows().unwrap();
        let of_batch =
            rows.iter().filter(|row| row.suite == "resnet50" && row.shape.n() == 32 && row.dtype == Dtype::F16);
        let first: Vec<&Row> = of_batch.filter(|row| row.shape.layout() == Layout::ChannelsFirst).collect();
        assert_eq!(first.iter().map(|row| row.count).sum::<u32>(), 53);
        let values: usize = first.iter().map(|row| row.count as usize * row.shape.len() / 32).sum();
        assert_eq!(values, 11_113_984); // activations of one image behind all convolutions
    }

    #[test]
    fn a_row_for_every_batch_layout_and_dtype() {
        let text = r#"{"suites": {"s": [{"name": "a", "n": [2, 3], "c": 4, "spatial": [5]},
                                        {"name": "b", "n": [6], "c": 7, "spatial": [], "dtypes": ["f32"], "offset": 1, "count": 2}]}}"#;
        let rows = parse(text).unwrap();
        assert_eq!(rows.len(), 2 * 2 * 3 + 1);
        assert_eq!(rows[3].shape.to_string(), "[2, 5, 4] channels-last");
        let Row { count, offset, .. } = rows[12];
        assert_eq!((count, offset, rows[12].bytes()), (2, 1, 168));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("[", "EOF"),
            ("{}", "suites"),
            (r#"{"suites": {"s": 1}}"#, "list"),
            (r#"{"suites": {"s": [{"n": [1], "c": 1, "spatial": []}]}}"#, "name"),
            (r#"{"suites": {"s": [{"name": "a", "n": 1, "c": 1, "spatial": []}]}}"#, "n, a list"),
            (r#"{"suites": {"s": [{"name": "a", "n": [1], "c": 0, "spatial": []}]}}"#, "shape"),
            (r#"{"suites": {"s": [{"name": "a", "n": [1], "c": 1, "spatial": [], "dtypes": ["f64"]}]}}"#, "dtypes"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}

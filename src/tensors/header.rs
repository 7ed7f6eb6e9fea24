//! The header of a safetensors file, beyond what the crate `safetensors` checks of it: no key occurs twice.
//!
//! The format forbids it, since readers differ in which of the two they take.

use crate::json;

/// The most bytes that the format allows a header.
const MOST: usize = 100_000_000;

/// The first key that an object of the header has twice, however it is spelled there, and in whichever object: tensors, what
/// one of them is, metadata. The error is of a header that is no JSON; of no header at all nothing is said here.
pub(super) fn repeated_key(file: &[u8]) -> Result<Option<String>, serde_json::Error> {
    let Some(header) = header(file) else { return Ok(None) };
    json::repeated_key(header)
}

fn header(file: &[u8]) -> Option<&str> {
    let (len, rest) = file.split_first_chunk()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok().filter(|&len| len <= MOST)?;
    core::str::from_utf8(rest.get(..len)?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::Tensors;

    fn refusal(header: &str) -> Option<String> {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
        Tensors::parse(&bytes).err().map(|error| error.to_string())
    }

    #[test]
    fn a_key_that_occurs_twice_is_refused_by_its_name() {
        const TENSOR: &str = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let named = |key: &str| Some(format!(r#"the key "{key}" twice in one object of the header"#));
        for (header, key) in [
            (format!(r#"{{"x":{TENSOR}}}"#), None),
            // The same key in two objects, and as a value.
            (format!(r#"{{"dtype":{TENSOR},"__metadata__":{{"dtype":"dtype","a":"a"}}}}"#), None),
            (format!(r#"{{"x":{TENSOR},"x":{TENSOR}}}"#), named("x")),
            (
                format!(r#"{{"x":{TENSOR},"y":{{"dtype":"F32","shape":[0],"data_offsets":[8,8]}},"\u0078":7}}"#),
                named("x"),
            ),
            (format!(r#"{{"a\n\u2028":{TENSOR},"\u000A\n":0,"a\u000a\u2028":{TENSOR}}}"#), named(r"a\n\u{2028}")),
            (r#"{"x":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,8]}}"#.into(), named("shape")),
            (r#"{"x":{"dtype":"F32","dtyp\u0065":"F32","shape":[2],"data_offsets":[0,8]}}"#.into(), named("dtype")),
            // Keys that the format does not know are passed over, each once.
            (r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":null}}"#.into(), None),
            (r#"{"x":{"more":1,"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}"#.into(), named("more")),
            (format!(r#"{{"__metadata__":{{"a":"1","b":"2","a":"1"}},"x":{TENSOR}}}"#), named("a")),
            (format!(r#"{{"__metadata__":{{}},"x":{TENSOR},"__metadata__":{{}}}}"#), named("__metadata__")),
            (
                r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":[0.5,{"a":-1,"a":true}]}}"#.into(),
                named("a"),
            ),
        ] {
            let refusal = refusal(&header);
            match key {
                None => assert_eq!(refusal, None, "{header}"),
                Some(words) => {
                    let text = refusal.unwrap_or_else(|| panic!("{header} was taken"));
                    assert!(text.contains(&format!("got {words}, in {} bytes", header.len() + 16)), "{text}");
                }
            }
        }
    }

    /// A text that hides a key from this check is refused too, and one that is no header keeps the words of the format's crate.
    #[test]
    fn a_header_that_is_nested_too_deeply_is_refused() {
        let deep = ["[".repeat(200), "]".repeat(200)].concat();
        let header = format!(r#"{{"x":{{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":{deep}}}}}"#);
        assert!(refusal(&header).unwrap().contains("recursion limit exceeded"));
        let shallow = header.replace(&deep, "[[[[]]]]");
        assert_eq!(refusal(&shallow), None);
        assert!(refusal("{").unwrap().contains("invalid JSON in header"), "{:?}", refusal("{"));
    }
}

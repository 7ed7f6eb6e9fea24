//! safetensors files that are wrong: in their bytes, in what their header says, in what their tensors are.

use std::ops::Range;

use fastrand::Rng;

/// A tensor as the header is to describe it, true or not.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) dims: Vec<u64>,
    /// Its bytes in the data behind the header.
    pub(crate) place: Range<u64>,
}

/// A file to be, whose parts need not fit each other.
#[derive(Clone, Default)]
pub(crate) struct Draft {
    pub(crate) entries: Vec<Entry>,
    pub(crate) data: Vec<u8>,
    /// The first eight bytes, where they are not the header's length.
    pub(crate) header_len: Option<u64>,
    /// The header, where it is not the one that the entries make.
    pub(crate) header: Option<Vec<u8>>,
    /// Text that is added to the header, behind the last entry.
    pub(crate) more: String,
}

impl Draft {
    /// Adds a tensor, as it should be.
    pub(crate) fn push(&mut self, name: &str, dtype: &str, dims: &[u64], bytes: &[u8]) {
        let begin = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        let place = begin..self.data.len() as u64;
        self.entries.push(Entry { name: name.into(), dtype: dtype.into(), dims: dims.into(), place });
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let header = self.header.clone().unwrap_or_else(|| self.header().into_bytes());
        let len = self.header_len.unwrap_or(header.len() as u64);
        [&len.to_le_bytes()[..], &header, &self.data].concat()
    }

    fn header(&self) -> String {
        let entry = |Entry { name, dtype, dims, place: Range { start, end } }: &Entry| {
            format!("{}:{{\"dtype\":{dtype:?},\"shape\":{dims:?},\"data_offsets\":[{start},{end}]}}", quoted(name))
        };
        let entries: Vec<_> = self.entries.iter().map(entry).collect();
        format!("{{{}{}}}", entries.join(","), self.more)
    }
}

/// A string in JSON.
fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if u32::from(c) < 0x20 => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

const NAMES: [&str; 12] =
    ["", "x", "dy", "weight", "__metadata__", "a\nb", "\u{1b}[31mred", "\u{0}", "\u{202e}x", "\u{1f600}", "\"", "../x"];
const DTYPES: [&str; 14] =
    ["F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "F128", "", "f32", "C64"];
const SIZES: [u64; 12] = [0, 1, 2, 3, 7, 255, 1 << 16, 1 << 31, 1 << 32, (1 << 53) + 1, 1 << 58, u64::MAX];

/// Changes a draft into one that is wrong, most often; else it stays a valid one.
pub(crate) fn mutate(rng: &mut Rng, draft: &mut Draft) {
    const ALL: [fn(&mut Rng, &mut Draft); 16] = [
        // The bytes in front.
        |rng, draft| {
            draft.header_len = Some(pick(rng, &[0, 1, 2, 7, 8, 99, 100_000_000, 100_000_001, u64::MAX, 1 << 63]));
        },
        |rng, draft| draft.header_len = Some((draft.header().len() as u64).wrapping_add(rng.u64(0..9)).wrapping_sub(4)),
        // The header as JSON.
        |rng, draft| draft.header = Some(mangled(rng, draft.header().into_bytes())),
        |rng, draft| {
            let deep = pick(rng, &[2, 100, 127, 128, 129, 20_000]);
            let (open, close) = pick(rng, &[("[", "]"), ("{\"a\":", "}")]);
            draft.header = Some(format!("{{\"x\":{}1{}}}", open.repeat(deep), close.repeat(deep)).into_bytes());
        },
        |rng, draft| {
            draft.more = pick(
                rng,
                &[
                    ",\"__metadata__\":{\"a\":\"b\"}",
                    ",\"__metadata__\":{\"a\":1}",
                    ",\"__metadata__\":null",
                    ",\"w\":{}",
                    ",\"w\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,0]}",
                    ",\"w\":{\"dtype\":\"F32\",\"shape\":[1e3],\"data_offsets\":[0,0]}",
                    ",\"w\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}",
                    ",\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0]}",
                    ",\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"more\":[]}",
                    ",",
                    "     ",
                    "}",
                ],
            )
            .to_string();
        },
        // The fields of an entry.
        |rng, draft| {
            let place = one(rng, draft);
            place.name = pick(rng, &NAMES).to_string();
        },
        |rng, draft| one(rng, draft).dtype = pick(rng, &DTYPES).to_string(),
        |rng, draft| {
            let value = pick(rng, &SIZES);
            let dims = &mut one(rng, draft).dims;
            match dims.len() {
                0 => dims.push(value),
                len => dims[rng.usize(..len)] = value,
            }
        },
        |rng, draft| {
            let count = rng.usize(0..8);
            one(rng, draft).dims = (0..count).map(|_| pick(rng, &SIZES)).collect();
        },
        // A tensor of no value may name any shape.
        |rng, draft| {
            let (count, entry) = (rng.usize(0..5), one(rng, draft));
            entry.place.end = entry.place.start;
            entry.dims = (0..=count).map(|_| pick(rng, &[0, 0, 1, 3, 1 << 20, 1 << 31, 1 << 40, 1 << 61])).collect();
        },
        |rng, draft| {
            let (start, end) = (pick(rng, &SIZES), pick(rng, &SIZES));
            let place = &mut one(rng, draft).place;
            match rng.u8(..3) {
                0 => place.start = start,
                1 => place.end = end,
                _ => *place = start..end,
            }
        },
        |rng, draft| {
            let by = rng.u64(1..9);
            let place = &mut one(rng, draft).place;
            *place = place.start.wrapping_add(by)..place.end.wrapping_add(by);
        },
        // The list of entries.
        |rng, draft| {
            let entry = one(rng, draft).clone();
            draft.entries.push(entry);
        },
        |rng, draft| drop(draft.entries.remove(rng.usize(..draft.entries.len()))),
        |rng, draft| rng.shuffle(&mut draft.entries),
        // The data.
        |rng, draft| {
            let len = rng.usize(1..9);
            match rng.bool() {
                true => draft.data.extend_from_slice(&[7; 9][..len]),
                false => draft.data.truncate(draft.data.len().saturating_sub(len)),
            }
        },
    ];
    if draft.entries.is_empty() {
        draft.push("x", "F32", &[0, 1], &[]);
    }
    pick(rng, &ALL)(rng, draft);
}

/// Bytes with something cut off, put in, or turned over.
pub(crate) fn mangled(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=rng.usize(..4) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 => drop(bytes.drain(at..bytes.len().min(at + rng.usize(..9)))),
            3 => bytes.splice(at..at, [0xff, 0xc0, 0x80]).for_each(drop),
            4 if at < bytes.len() => bytes[at] = pick(rng, b"0123456789\"{}[]:,-.e \\\n\0"),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            _ => {}
        }
    }
    bytes
}

/// One of these.
pub(crate) fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn one<'a>(rng: &mut Rng, draft: &'a mut Draft) -> &'a mut Entry {
    let at = rng.usize(..draft.entries.len());
    &mut draft.entries[at]
}

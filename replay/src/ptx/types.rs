//! The types of PTX that are known.

/// The bits of a type by its name, such as `u32`: predicates 1.
pub(crate) fn bits(name: &str) -> Option<u32> {
    Some(match name {
        "pred" => 1,
        "b8" | "u8" | "s8" => 8,
        "b16" | "u16" | "s16" | "f16" => 16,
        "b32" | "u32" | "s32" | "f32" => 32,
        "b64" | "u64" | "s64" => 64,
        "b128" => 128,
        _ => return None,
    })
}

/// The bytes of a type that memory holds.
pub(crate) fn bytes(name: &str) -> Option<usize> {
    bits(name).filter(|bits| bits.is_multiple_of(8)).map(|bits| bits as usize / 8)
}

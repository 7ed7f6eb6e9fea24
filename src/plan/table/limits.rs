//! The limits of a table's device as JSON, and back.

use serde_json::{Map, Value, json};

use super::object::Object;
use crate::error::Result;
use crate::plan::DeviceLimits;

/// The sizes of clusters, and how many CTAs share an SM.
const SIZES: [&str; 4] = ["2", "4", "8", "16"];
const SHARES: [&str; 2] = ["one_cta_per_sm", "two_ctas_per_sm"];
/// The names of [`DeviceLimits`].
const LIMITS: [&str; 11] = [
    "compute_capability",
    "sms",
    "shared_per_sm",
    "shared_per_cta",
    "shared_reserved",
    "threads_per_sm",
    "ctas_per_sm",
    "l2_bytes",
    "memory_gb_per_s",
    "cooperative",
    "clusters",
];

pub(super) fn limits_json(limits: &DeviceLimits) -> Value {
    let DeviceLimits {
        compute_capability: (major, minor),
        sms,
        shared_per_sm,
        shared_per_cta,
        shared_reserved,
        threads_per_sm,
        ctas_per_sm,
        l2_bytes,
        memory_gb_per_s,
        cooperative,
        clusters,
    } = *limits;
    let by_size = |counts: [u32; 4]| SIZES.map(String::from).into_iter().zip(counts.map(Value::from));
    let by_share = SHARES.map(String::from).into_iter().zip(clusters.map(|counts| by_size(counts).collect()));
    let clusters: Map<String, Value> = by_share.collect();
    json!({
        "compute_capability": [major, minor],
        "sms": sms,
        "shared_per_sm": shared_per_sm,
        "shared_per_cta": shared_per_cta,
        "shared_reserved": shared_reserved,
        "threads_per_sm": threads_per_sm,
        "ctas_per_sm": ctas_per_sm,
        "l2_bytes": l2_bytes,
        "memory_gb_per_s": memory_gb_per_s,
        "cooperative": cooperative,
        "clusters": clusters,
    })
}

/// The first limit that is not the same, with its name.
pub(super) fn difference(one: &DeviceLimits, other: &DeviceLimits) -> Option<[String; 2]> {
    let [one, other] = [one, other].map(limits_json);
    let name = LIMITS.iter().find(|name| one[**name] != other[**name])?;
    Some([one, other].map(|limits| format!("{name} {}", limits[*name])))
}

/// The limits of an object that has all of them and nothing else.
pub(super) fn limits(object: &Object<'_>) -> Result<DeviceLimits> {
    object.expect(&LIMITS)?;
    let capability = object.list("compute_capability", 2)?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    let capability = capability.as_deref().and_then(|pair| match *pair {
        [major, minor] => Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?)),
        _ => None,
    });
    let clusters = object.object("clusters")?;
    clusters.expect(&SHARES)?;
    let mut counts = [[0; 4]; 2];
    for (share, counts) in SHARES.iter().zip(&mut counts) {
        let of_share = clusters.object(share)?;
        of_share.expect(&SIZES)?;
        for (size, count) in SIZES.iter().zip(counts) {
            *count = of_share.number(size)?;
        }
    }
    Ok(DeviceLimits {
        compute_capability: capability
            .ok_or_else(|| object.refused("compute_capability", "two numbers, major and minor"))?,
        sms: object.number("sms")?,
        shared_per_sm: object.number("shared_per_sm")?,
        shared_per_cta: object.number("shared_per_cta")?,
        shared_reserved: object.number("shared_reserved")?,
        threads_per_sm: object.number("threads_per_sm")?,
        ctas_per_sm: object.number("ctas_per_sm")?,
        l2_bytes: object.number("l2_bytes")?,
        memory_gb_per_s: object.number("memory_gb_per_s")?,
        cooperative: object
            .value("cooperative")?
            .as_bool()
            .ok_or_else(|| object.refused("cooperative", "true or false"))?,
        clusters: counts,
    })
}

//! Plans as JSON. Programs read it: its words stay, also where the crate has others by now (`strips` are tiles, `steps` iterations); `form` is
//! named as in plan tables.

use batchnorm::plan::Plan;
use serde_json::{Value, json};

/// A plan's numbers by name.
pub(crate) fn plan_json(plan: &Plan) -> Value {
    let t = &plan.tiling;
    json!({
        "strategy": plan.strategy.name(),
        "form": t.access.name(),
        "threads": t.threads,
        "strips": t.tiles,
        "splits": t.splits,
        "teams": t.teams,
        "held_steps": t.smem_iters,
        "steps": t.iterations(),
        "rows": t.rows,
        "row_vectors": t.row_vectors,
        "width": t.width,
        "chunk": t.chunk,
        "strip_channels": t.tile_channels,
        "shared_bytes": t.shared_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "predicted_ns": plan.predicted_ns,
    })
}

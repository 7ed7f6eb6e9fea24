//! Plans as JSON.

use batchnorm::Plan;
use serde_json::{Value, json};

/// A plan's numbers by name.
pub(crate) fn plan_json(plan: &Plan) -> Value {
    let t = &plan.tiling;
    json!({
        "strategy": plan.strategy.name(),
        "access": t.access.name(),
        "threads": t.threads,
        "tiles": t.tiles,
        "splits": t.splits,
        "teams": t.teams,
        "smem_iters": t.smem_iters,
        "iterations": t.iterations(),
        "rows": t.rows,
        "row_vectors": t.row_vectors,
        "width": t.width,
        "chunk": t.chunk,
        "tile_channels": t.tile_channels,
        "shared_bytes": t.shared_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "predicted_ns": plan.predicted_ns,
    })
}

//! The problems to be tuned.

use batchnorm::bench::{Pass, Row};
use batchnorm::{Shape, StatisticsKind};

use super::Args;
use crate::bench::{Task, suites};
use crate::choices::{Dimensions, Layout};
use crate::failure::Failure;

/// The suite of rows that were given as shapes.
const GIVEN: &str = "shape";

impl Args {
    /// Whether a row was given as a shape, rather than found in a suite.
    #[cfg(feature = "cuda")]
    pub(super) fn is_given(row: &Row) -> bool {
        row.suite == GIVEN
    }
}

/// The problems that the arguments ask for.
pub(super) fn tasks(args: &Args) -> Result<Vec<Task>, Failure> {
    let mut rows = given(args)?;
    let layouts: Vec<batchnorm::Layout> = args.layout.iter().map(|&layout| layout.into()).collect();
    if !args.suite.is_empty() {
        let is_asked = |row: &Row| {
            (layouts.is_empty() || layouts.contains(&row.shape.layout()))
                && (args.dtype.is_empty() || args.dtype.iter().any(|dtype| dtype.0 == row.dtype))
        };
        rows.extend(suites(&args.suite)?.into_iter().filter(is_asked));
    }
    let passes = passes(args)?;
    let of_row = |row: &Row| passes.iter().map(|&operation| Task { row: row.clone(), operation }).collect::<Vec<_>>();
    let words: Vec<&str> = args.filter.split_whitespace().collect();
    let wanted = |task: &Task| task.row.suite == GIVEN || task.has(&words);
    let tasks: Vec<Task> = rows.iter().flat_map(of_row).filter(wanted).collect();
    if tasks.is_empty() {
        let text = "--suite: expected rows of these layouts and dtypes that contain the words of --filter, got none";
        return Err(Failure::new(text));
    }
    // Every problem is one that can be, before the first is measured.
    tasks.iter().try_for_each(|task| task.operation.problem(&task.row).map(drop))?;
    Ok(tasks)
}

/// The rows of `--shape`, in each layout and dtype.
fn given(args: &Args) -> Result<Vec<Row>, Failure> {
    let layouts = if args.layout.is_empty() { &[Layout::ChannelsFirst][..] } else { &args.layout };
    let dtypes: Vec<_> = args.dtype.iter().map(|dtype| dtype.0).collect();
    let dtypes = if dtypes.is_empty() { vec![batchnorm::Dtype::F16] } else { dtypes };
    let mut rows = Vec::new();
    for Dimensions(dims) in &args.shape {
        for &layout in layouts {
            let shape = Shape::new(dims, layout.into())?;
            if shape.is_empty() {
                return Err(Failure::new(format!("--shape: expected a tensor with values, got {shape}")));
            }
            rows.extend(dtypes.iter().map(|&dtype| Row {
                suite: GIVEN.into(),
                name: dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"),
                count: 1,
                shape,
                dtype,
                offset: args.offset,
            }));
        }
    }
    Ok(rows)
}

/// The operations, each with each epilogue.
fn passes(args: &Args) -> Result<Vec<Pass>, Failure> {
    use batchnorm::{Epilogue, Op};

    let ops: Vec<Op> = args.op.iter().map(|op| op.0).collect();
    let ops = if ops.is_empty() { vec![Op::Train, Op::Backward(StatisticsKind::Batch)] } else { ops };
    if let Some(other) = ops.iter().find(|op| !op.takes_epilogue()) {
        let text = format!("--op: expected an operation of a layer, such as train or backward, got {}", other.name());
        return Err(Failure::new(text));
    }
    let epilogues: Vec<_> = args.epilogue.iter().map(|epilogue| epilogue.0).collect();
    let epilogues = if epilogues.is_empty() { vec![Epilogue::IDENTITY] } else { epilogues };
    Ok(ops.iter().flat_map(|&op| epilogues.iter().map(move |&epilogue| Pass { op, epilogue })).collect())
}

//! The tasks to be measured: rows, and the operations on them.

use batchnorm::bench::{Pass, Row, rows};

use super::Args;
use crate::failure::Failure;

/// One row and one operation on it.
pub(crate) struct Task {
    pub(crate) row: Row,
    pub(crate) operation: Pass,
}

impl Task {
    /// The name, such as `resnet50/stage1 n=32 c=64 s=3136 channels-first f16 train`.
    pub(crate) fn name(&self) -> String {
        let Self { row: Row { suite, name, shape, dtype, .. }, operation } = self;
        let (n, c, s) = (shape.n(), shape.c(), shape.s());
        format!("{suite}/{name} n={n} c={c} s={s} {} {dtype} {}", shape.layout(), operation.name())
    }

    /// Whether its name has all of these words: each is one of the name's, or a part of its path, so that "train" is not
    /// "train-relu".
    pub(crate) fn has(&self, words: &[&str]) -> bool {
        let name = self.name();
        let (path, _) = name.split_once(' ').unwrap_or((&name, ""));
        words.iter().all(|word| name.split(' ').any(|part| part == *word) || path.contains(word))
    }
}

/// The rows of these suites, or of all where none is named.
pub(crate) fn suites(asked: &[String]) -> Result<Vec<Row>, Failure> {
    let mut rows = rows().map_err(|error| Failure::new(format!("benches/suites.json: {error}")))?;
    let mut names: Vec<&str> = rows.iter().map(|row| row.suite.as_str()).collect();
    names.dedup();
    if let Some(unknown) = asked.iter().find(|suite| !names.contains(&suite.as_str())) {
        return Err(Failure::new(format!("--suite: expected one of {}, got \"{unknown}\"", names.join(", "))));
    }
    rows.retain(|row| asked.is_empty() || asked.contains(&row.suite));
    Ok(rows)
}

/// The tasks that the arguments ask for.
pub(crate) fn tasks(args: &Args) -> Result<Vec<Task>, Failure> {
    let rows = suites(&args.suite)?;
    let operations = Pass::ALL.map(Pass::name);
    if let Some(unknown) = args.operation.iter().find(|name| !operations.contains(name)) {
        let operations = operations.join(", ");
        return Err(Failure::new(format!("--operation: expected one of {operations}, got \"{unknown}\"")));
    }
    let words: Vec<&str> = args.filter.split_whitespace().collect();
    let wanted = |task: &Task| {
        let is_asked = args.operation.is_empty() || args.operation.contains(&task.operation.name());
        is_asked && task.has(&words)
    };
    let of_row = |row: &Row| Pass::ALL.map(|operation| Task { row: row.clone(), operation });
    let tasks: Vec<Task> = rows.iter().flat_map(of_row).filter(wanted).collect();
    match tasks.is_empty() {
        true => Err(Failure::new(format!("--filter: expected words of a row's name, got \"{}\"", args.filter))),
        false => Ok(tasks),
    }
}

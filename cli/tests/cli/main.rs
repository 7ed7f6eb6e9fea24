//! The command line's contract, tested on the built executable.

#[cfg(test)]
mod bench;
#[cfg(all(test, feature = "emulate"))]
mod bench_cuda;
#[cfg(test)]
mod contract;
#[cfg(all(test, feature = "emulate"))]
mod cuda;
#[cfg(test)]
mod formulas;
#[cfg(test)]
mod harness;
#[cfg(all(test, feature = "emulate"))]
mod interrupted;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod outputs;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tune;
#[cfg(test)]
mod verify;
#[cfg(test)]
mod whole_or_nothing;

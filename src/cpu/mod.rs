//! The CPU reference: the formulas of the crate's page, parallel, bit-identical for any number of threads and whatever vectors the
//! processor has. The other backends are compared with it, and it runs where there is no GPU.
//!
//! f32 and f64 data is computed in f64; f16 and bf16 data in f32, which has all of its values, with sums in f64 and a mean of more than
//! f32's digits: `y` is within 0.501 units in the last place of the exact value where that is not far smaller than its terms, statistics
//! within 2^-22 (`verify::tolerance::Arithmetic::Mixed`). A channel for which f32 would lose more than that, by its range or a pivot far
//! from the values, is computed in f64 by the same formulas; it changes no bit of another.
//!
//! ```text
//! operations > forward, backward > fit (f32 or f64) > sweep (blocks, chunks, threads) > walk (pieces) > formulas > columns (vectors) > convert, vector, level
//! ```

mod activation;
mod backward;
mod channels;
mod columns;
mod convert;
mod fit;
mod formulas;
mod forward;
mod grid;
mod level;
mod mask;
mod moments;
mod operations;
mod output;
mod per_channel;
mod piece;
mod stream;
mod sweep;
mod team;
#[cfg(test)]
mod tests;
pub(crate) mod threads;
mod tile;
mod tracking;
mod vector;
mod walk;

use core::ops::Range;

use half::{bf16, f16};

use crate::backend::{Backend, Compute, Sealed};
use crate::element::Stored;
use crate::error::Result;
use crate::memory;
use crate::op::{Extent, Memory, Operation, Problem, Raw, check_axpy};

/// The CPU: the calling thread with those of a pool of this crate's own, [`Cpu::threads`] in all, or of rayon's where one of its threads
/// calls.
///
/// Small tensors are computed by the calling thread alone, and so are all where no thread can be had. A forked process
/// computes whatever threads of its parent did at the fork: with a pool of its own, where its threads can begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Sealed for Cpu {}

impl Memory for Cpu {
    type In<'a, T: Stored> = &'a [T];
    type Out<'a, T: Stored> = &'a mut [T];

    fn shorten_in<'b, 'a: 'b, T: Stored>(memory: &'a [T]) -> &'b [T] {
        memory
    }
    fn shorten_out<'b, 'a: 'b, T: Stored>(memory: &'a mut [T]) -> &'b mut [T] {
        memory
    }
    fn extent_of_in<T: Stored>(memory: &&[T]) -> Extent {
        let (address, len, bytes) = (memory.as_ptr().addr(), memory.len(), size_of_val(*memory));
        Extent { address, len, bytes, stream: None }
    }
    fn extent_of_out<T: Stored>(memory: &&mut [T]) -> Extent {
        Self::extent_of_in(&&**memory)
    }
}

impl Backend for Cpu {
    type Buf<T: Stored> = Vec<T>;
    type Workspace = ();
    type View<'a, T: Stored> = &'a [T];
    type ViewMut<'a, T: Stored> = &'a mut [T];

    fn upload<T: Stored>(&self, host: &[T]) -> Result<Vec<T>> {
        memory::copied(host)
    }
    fn upload_vec<T: Stored>(&self, host: Vec<T>) -> Result<Vec<T>> {
        Ok(host)
    }
    fn download<T: Stored>(&self, buf: &Vec<T>) -> Result<Vec<T>> {
        memory::copied(buf)
    }
    fn download_buf<T: Stored>(&self, buf: Vec<T>) -> Result<Vec<T>> {
        Ok(buf)
    }
    fn input<T: Stored>(buf: &Vec<T>) -> &[T] {
        buf
    }
    fn output<T: Stored>(buf: &mut Vec<T>) -> &mut [T] {
        buf
    }
    fn workspace(&self, _problems: &[Problem]) -> Result<()> {
        Ok(())
    }
    fn axpy(&self, alpha: f32, x: &[f32], y: &mut [f32]) -> Result<()> {
        check_axpy(x.len(), y.len())?;
        operations::axpy(alpha, x, y);
        Ok(())
    }
    fn duplicate<T: Stored>(&self, buf: &Vec<T>) -> Result<Vec<T>> {
        memory::copied(buf)
    }
    fn view<T: Stored>(buf: &Vec<T>, range: Range<usize>) -> &[T] {
        &buf[range]
    }
    fn view_mut<T: Stored>(buf: &mut Vec<T>, range: Range<usize>) -> &mut [T] {
        &mut buf[range]
    }
    fn view_input<'a, T: Stored>(view: &'a &[T]) -> &'a [T] {
        view
    }
    fn view_output<'a, T: Stored>(view: &'a mut &mut [T]) -> &'a mut [T] {
        view
    }
    fn len<T: Stored>(buf: &Vec<T>) -> usize {
        buf.len()
    }
}

/// The dtypes: written out, so that they are compiled here and not in every crate that uses them.
macro_rules! compute {
    ($($element:ty)*) => {$(
        impl Compute<$element> for Cpu {
            fn execute(&self, operation: Operation<'_, Self, $element>, _: Option<&mut ()>) -> Result<()> {
                let (problem, operation) = operation.checked()?;
                operations::compute(problem.shape(), operation)
            }
            #[allow(unsafe_code)]
            unsafe fn execute_raw(&self, operation: Operation<'_, Raw, $element>, _: Option<&mut ()>) -> Result<()> {
                // SAFETY: the caller's.
                let (problem, operation) = unsafe { crate::op::lend(operation) }?;
                operations::compute(problem.shape(), operation)
            }
        }
    )*};
}

compute! { f32 f16 bf16 f64 }

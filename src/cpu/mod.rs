//! The CPU reference: the formulas of the crate's page in f64, parallel, bit-identical for any number of threads. What
//! the other backends are held against, and what runs where there is no GPU.

mod backward;
mod convert;
mod forward;
mod lanes;
mod operations;
mod rows;
mod state;
mod sweep;
pub(crate) mod threads;

use half::{bf16, f16};

use crate::args::{BackwardArgs, BackwardFrozenArgs, InferArgs, MomentsArgs, TrainArgs};
use crate::backend::Sealed;
use crate::state::{State, StateDict};
use crate::{Backend, Compute, Param, Problem, Result, Stored, memory};
pub use state::CpuState;

/// The CPU: threads of a pool of this crate's own, [`Cpu::threads`] of them, or rayon's pool where one of its threads calls.
///
/// Small tensors are computed by the calling thread alone, and so are all where no thread can be had. A forked process has a pool
/// of its own, whatever threads of its parent did at the fork.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Sealed for Cpu {}

impl Backend for Cpu {
    type Buf<T: Stored> = Vec<T>;
    type In<'a, T: Stored> = &'a [T];
    type Out<'a, T: Stored> = &'a mut [T];
    type View<'a, T: Stored> = &'a [T];
    type ViewMut<'a, T: Stored> = &'a mut [T];
    type State<P: Param> = CpuState<P>;
    type Workspace = ();

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
    fn duplicate<T: Stored>(&self, buf: &Vec<T>) -> Result<Vec<T>> {
        memory::copied(buf)
    }
    fn slice<T: Stored>(buf: &Vec<T>, start: usize) -> &[T] {
        &buf[start..]
    }
    fn slice_mut<T: Stored>(buf: &mut Vec<T>, start: usize) -> &mut [T] {
        &mut buf[start..]
    }
    fn upload_state<P: Param>(&self, host: &StateDict<P>) -> Result<CpuState<P>> {
        CpuState::new(host)
    }
    fn download_state<P: Param>(&self, state: &CpuState<P>) -> Result<StateDict<P>> {
        state.to_host()
    }
    fn views<P: Param>(state: &CpuState<P>) -> State<&[P], &[i64]> {
        state.views()
    }
    fn views_mut<P: Param>(state: &mut CpuState<P>) -> State<&mut [P], &mut [i64]> {
        state.views_mut()
    }
    fn view_input<'a, T: Stored>(view: &'a &[T]) -> &'a [T] {
        view
    }
    fn view_mut_input<'a, T: Stored>(view: &'a &mut [T]) -> &'a [T] {
        view
    }
    fn view_output<'a, T: Stored>(view: &'a mut &mut [T]) -> &'a mut [T] {
        view
    }
    fn shorten_input<'short, 'long: 'short, T: Stored>(input: &'long [T]) -> &'short [T] {
        input
    }
    fn shorten_output<'short, 'long: 'short, T: Stored>(output: &'long mut [T]) -> &'short mut [T] {
        output
    }
}

/// The operations for each dtype: written out, so that they are compiled here and not in every crate that uses them.
macro_rules! compute {
    ($($element:ty)*) => {$(
        impl Compute<$element> for Cpu {
            fn moments(&self, args: MomentsArgs<'_, Self, $element>) -> Result<()> {
                operations::moments(args)
            }
            fn train(&self, args: TrainArgs<'_, Self, $element>) -> Result<()> {
                operations::train(args)
            }
            fn infer(&self, args: InferArgs<'_, Self, $element>) -> Result<()> {
                operations::infer(args)
            }
            fn backward(&self, args: BackwardArgs<'_, Self, $element>) -> Result<()> {
                operations::backward(args)
            }
            fn backward_frozen(&self, args: BackwardFrozenArgs<'_, Self, $element>) -> Result<()> {
                operations::backward_frozen(args)
            }
        }
    )*};
}

compute! { f32 f16 bf16 f64 }

//! Every driver call failing in turn, over random shapes, dtypes, epilogues, strategies, streams and codes.

use batchnorm::{
    Backend, BatchNorm, Compute, Cpu, Cuda, Dtype, Element, Epilogue, Error, Layout, Options, Result, Shape, StateDict,
    Strategy, with_device_element,
};
use fastrand::Rng;

use super::{assert_of, backend, fail_each_call};
use crate::abuse::{Part, Trial};
use crate::device::{strategies, untracked};
use crate::step::{Operation, Step, state_of};

/// Unknown, out of memory, illegal address, invalid value.
const CODES: [i32; 4] = [999, 2, 700, 1];

/// The choices of a trial.
#[derive(Debug)]
struct Drawn {
    shape: Shape,
    dtype: Dtype,
    epilogue: Epilogue<()>,
    strategy: Option<Strategy>,
    has_two_streams: bool,
    code: i32,
    operation: Operation,
    /// The forward pass before a backward one.
    forward: Operation,
}

impl Drawn {
    fn new(rng: &mut Rng, strategies: &[Option<Strategy>]) -> Self {
        let layout = if rng.bool() { Layout::ChannelsFirst } else { Layout::ChannelsLast };
        let (n, c) = (rng.usize(2..20), rng.usize(1..50));
        let spatial: Vec<usize> = (0..rng.usize(..=2)).map(|_| rng.usize(1..8)).collect();
        let n = if rng.u8(..20) == 0 { 0 } else { n };
        let dims = match layout {
            Layout::ChannelsFirst => [&[n, c], &spatial[..]].concat(),
            Layout::ChannelsLast => [&[n], &spatial[..], &[c]].concat(),
        };
        Self {
            shape: Shape::new(&dims, layout).unwrap(),
            dtype: *rng.choice(Dtype::ON_CUDA).unwrap(),
            epilogue: *rng.choice(Epilogue::ALL).unwrap(),
            strategy: *rng.choice(strategies).unwrap(),
            has_two_streams: rng.bool(),
            code: rng.choice(CODES).unwrap(),
            operation: rng.choice(Operation::ALL).unwrap(),
            forward: rng.choice([Operation::Train, Operation::Frozen]).unwrap(),
        }
    }
}

#[test]
fn any_call_of_anything_may_fail() {
    let all: Vec<_> = strategies(&backend(false)).collect();
    Part { name: "faults", test: "faults::any::any_call_of_anything_may_fail", few: 16 }.run(|trial| {
        cuda_emulator::clear_faults();
        let drawn = Drawn::new(&mut trial.rng, &all);
        trial.keep("drawn.txt", format!("{drawn:#?}\n").as_bytes());
        with_device_element!(drawn.dtype, T => fail::<T>(&drawn, trial), f64 => unreachable!("none is drawn"));
    });
}

fn fail<T: Element<Param = f32>>(drawn: &Drawn, trial: &mut Trial)
where
    Cuda: Compute<T>,
{
    let mut cuda = backend(drawn.has_two_streams);
    let is_operation = trial.rng.u8(..3) != 0;
    if !(is_operation || drawn.has_two_streams) {
        // This stream has no events, of which cudarc makes two an allocation.
        cuda = Cuda::on(untracked(&cuda).default_stream()).unwrap();
    }
    let cuda = cuda.with_strategy(drawn.strategy);
    let mut layer = BatchNorm::new(cuda, drawn.shape.c(), Options::default()).unwrap();
    match layer.reserve::<T>(drawn.shape, drawn.epilogue) {
        Err(Error::Strategy { .. }) => return, // No room for this shape.
        result => result.unwrap(),
    }
    if !is_operation {
        trial.cases = fail_each_action::<T>(&mut layer, drawn, trial.rng.usize(..ACTIONS));
        return;
    }
    let mut step = Step::<Cuda, T>::of(&layer, drawn.shape, drawn.epilogue).unwrap();
    if drawn.operation == Operation::Backward {
        step.run(&mut layer, drawn.forward).unwrap();
    }
    trial.cases = fail_each_call(&mut layer, &mut step, drawn.operation, drawn.code);
}

/// Number of the calls of a layer that are no operations.
const ACTIONS: usize = 7;

/// [`fail_each_call`] for an action that leaves the layer's state as it was, or replaces it by an equal one.
fn fail_each_action<T: Element<Param = f32>>(layer: &mut BatchNorm<Cuda>, drawn: &Drawn, number: usize) -> u64
where
    Cuda: Compute<T>,
{
    let state = state_of(drawn.shape.c());
    layer.load_state_dict(&state).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for k in 1.. {
        let live = cuda_emulator::live();
        cuda_emulator::fail_call(k, drawn.code);
        let result = act::<T>(layer, drawn, number, &state, &path);
        let is_pending = cuda_emulator::fault_pending();
        cuda_emulator::clear_faults();
        if is_pending {
            result.unwrap();
            return k - 1;
        }
        match result {
            // A drop cannot report that freeing failed: the next call reports it.
            Ok(()) => {
                let told = layer.backend().synchronize();
                // A buffer of no values may be of a context of its own, which nobody asks.
                if !(told.is_ok() && number == 3 && drawn.shape.is_empty()) {
                    assert_of(&told.expect_err("a failed call is told"), drawn.code);
                }
                continue;
            }
            // The bytes that were asked for say more than the driver's code.
            Err(Error::OutOfMemory { bytes, .. }) => assert!(drawn.code == 2 && bytes > 0, "{bytes} bytes"),
            Err(error) => assert_of(&error, drawn.code),
        }
        assert!(!path.exists(), "a file of a failed save");
        assert_eq!(layer.state_dict().unwrap(), state, "action {number}, call {k}");
        let now = cuda_emulator::live();
        if drawn.has_two_streams && now.allocations == live.allocations + 1 {
            // cudarc 0.19 loses the allocation whose event cannot be made.
            assert_eq!((now.streams, now.events), (live.streams, live.events), "action {number}, call {k}");
        } else {
            assert_eq!(now, live, "action {number}, call {k}");
        }
    }
    unreachable!("an action ends")
}

fn act<T: Element<Param = f32>>(
    layer: &mut BatchNorm<Cuda>,
    drawn: &Drawn,
    number: usize,
    state: &StateDict<f32>,
    path: &std::path::Path,
) -> Result<()>
where
    Cuda: Compute<T>,
{
    match number {
        0 => layer.load_state_dict(state),
        1 => layer.state_dict().map(|got| assert_eq!(got, *state)),
        2 => layer.reserve::<T>(drawn.shape, drawn.epilogue),
        3 => layer.saved(drawn.shape, drawn.epilogue).map(drop),
        4 => {
            let host = vec![T::from_f64(1.5); drawn.shape.c()];
            let copy = layer.backend().upload(&host)?;
            layer.backend().download(&copy).map(|got| assert_eq!(got.len(), host.len()))
        }
        5 => {
            let saved = layer.save(path, "bn.");
            saved.map(|()| std::fs::remove_file(path).unwrap())
        }
        _ => {
            let moved = layer.to(Cpu)?;
            let back = moved.to(layer.backend().clone())?;
            back.state_dict().map(|got| assert_eq!(got, *state))
        }
    }
}

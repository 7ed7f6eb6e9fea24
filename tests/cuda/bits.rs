//! The same bits: on every run, under every order of threads and CTAs, on two streams, with every alignment class.

use std::collections::BTreeMap;

use batchnorm::verify::{Case, Group, Input, Inputs, run};
use batchnorm::{Activation, Compute, Cuda, Dtype, Element, Epilogue, Layout, Shape, with_device_element};

use crate::device::{EMULATED, STRATEGIES, cuda};

/// Bits of every output of every operation on a group.
fn bits<T: Element>(cuda: &Cuda, group: &Group, cases: &[Case]) -> BTreeMap<String, Vec<u64>>
where
    Cuda: Compute<T>,
{
    let inputs = Inputs::<T>::new(group);
    let mut bits = BTreeMap::new();
    for case in cases {
        match run(cuda, case, &inputs, &inputs.dy, 0) {
            Ok(outputs) => bits.extend(
                outputs
                    .into_iter()
                    .map(|(name, values)| (format!("{case} {name}"), values.into_iter().map(f64::to_bits).collect())),
            ),
            Err(failure) if failure.is_left_out() => {}
            Err(failure) => panic!("{case}: {failure}"),
        }
    }
    bits
}

fn shapes() -> [Shape; 5] {
    let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
    [
        shape(&[4, 3, 16, 16], Layout::ChannelsFirst),
        shape(&[33, 40], Layout::ChannelsLast),
        shape(&[3, 5, 6, 72], Layout::ChannelsLast),
        shape(&[9, 8, 7, 7], Layout::ChannelsFirst),
        shape(&[5, 3, 7, 7], Layout::ChannelsFirst),
    ]
}

/// Calls `with` once a shape, dtype and strategy, with a way to get all bits.
fn for_each(cuda: &Cuda, mut with: impl FnMut(&str, &dyn Fn(&Cuda) -> BTreeMap<String, Vec<u64>>)) {
    for shape in shapes() {
        for &dtype in Dtype::ON_CUDA {
            let group = Group { shape, dtype, input: Input::Normal };
            // The plainest case of each operation, and with each activation the fullest: behind a residual where it takes one.
            let (mut cases, all) = (Vec::<Case>::new(), group.cases());
            for case in &all {
                let (activation, has_residual) = (case.epilogue.activation(), case.epilogue.residual().is_some());
                let is_fullest = activation != Activation::Identity && has_residual == activation.takes_residual();
                let wanted = (case.epilogue == Epilogue::IDENTITY || is_fullest) && case.affine;
                if wanted && (case.tracking.is_some() || case.op != batchnorm::Op::Train) {
                    cases.push(*case);
                }
            }
            cases.push(all[0]);
            for strategy in STRATEGIES {
                let with_strategy = |cuda: &Cuda| cuda.clone().with_strategy(strategy);
                let get = |cuda: &Cuda| {
                    with_device_element!(
                        dtype,
                        T => bits::<T>(&with_strategy(cuda), &group, &cases),
                        f64 => unreachable!("no kernel computes f64")
                    )
                };
                with(&format!("{shape} {dtype} {strategy:?}"), &get);
            }
        }
    }
    assert!(!cuda.name().unwrap().is_empty());
}

#[test]
fn a_hundred_runs_give_the_same_bits() {
    let Some(cuda) = cuda() else { return };
    let runs = if EMULATED { 3 } else { 100 };
    for_each(&cuda, |name, get| {
        let first = get(&cuda);
        for _ in 1..runs {
            assert_eq!(get(&cuda), first, "{name}");
        }
    });
    if EMULATED {
        // A hundred of one case, where a hundred of all would take too long.
        let group = Group { shape: shapes()[1], dtype: Dtype::F32, input: Input::Normal };
        let cases = &group.cases()[..3];
        let first = bits::<f32>(&cuda, &group, cases);
        (0..100).for_each(|_| assert_eq!(bits::<f32>(&cuda, &group, cases), first));
    }
}

#[cfg(feature = "emulate")]
#[test]
fn every_order_of_threads_gives_the_same_bits() {
    let Some(cuda) = cuda() else { return };
    for_each(&cuda, |name, get| {
        cuda_emulator::set_seed(1);
        let first = get(&cuda);
        for seed in [2, 3, 0x5eed] {
            cuda_emulator::set_seed(seed);
            assert_eq!(get(&cuda), first, "{name}, seed {seed}");
        }
    });
}

#[test]
fn two_streams_give_the_same_bits() {
    let Some(cuda) = cuda() else { return };
    let context = cuda.stream().context();
    let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()].map(|s| Cuda::on(s).unwrap());
    for_each(&cuda, |name, get| {
        let first = get(&cuda);
        for stream in &streams {
            assert_eq!(get(stream), first, "{name}");
        }
    });
}

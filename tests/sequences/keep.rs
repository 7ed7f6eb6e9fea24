//! The state of a layer: replaced, carried to files and back, and refused.

use batchnorm::tensors::read;
use batchnorm::verify::Verified;
use batchnorm::{Compute, Element, Epilogue, RunningVar, StateDict};
use fastrand::Rng;

use super::draw;
use super::world::World;

/// Makes a state wrong: what of it there is, how long it is, or its count. False where it had nothing to spoil.
fn spoil<P: batchnorm::Param>(rng: &mut Rng, state: &mut StateDict<P>) -> bool {
    let part = if rng.bool() { &mut state.gamma } else { &mut state.beta };
    match rng.u8(..4) {
        0 => *part = if part.is_some() { None } else { Some(vec![P::from_f64(1.0)]) },
        1 => match part {
            Some(values) => values.push(P::from_f64(0.5)),
            None => return false,
        },
        2 => match &mut state.running {
            Some(running) => drop(running.var.pop()),
            None => return false,
        },
        _ => match &mut state.running {
            Some(running) => running.num_batches_tracked = rng.choice([-1, i64::MIN]).unwrap(),
            None => return false,
        },
    }
    true
}

impl<B: Verified + Compute<T>, T: Element> World<B, T> {
    pub(crate) fn load_state_dict(&mut self, rng: &mut Rng) {
        let mut state = draw::state(rng, self.c, &self.options);
        let is_wrong = rng.u8(..3) == 0 && spoil(rng, &mut state);
        let result = self.layer.load_state_dict(&state);
        assert_eq!(result.is_err(), is_wrong, "load_state_dict: {result:?} of {state:?}");
        if !is_wrong {
            self.known = state;
            self.forget(|_| true);
        }
        self.assert_state();
    }

    pub(crate) fn save_and_load(&mut self, rng: &mut Rng) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        self.layer.save(&path, "bn.").unwrap();
        self.assert_state();
        let has_any = self.options.gamma || self.options.beta || self.options.tracking.is_some();
        match rng.u8(..4) {
            0 if has_any => drop(self.layer.load(&path, "bn2.").expect_err("a file without these names")),
            1 => {
                let bytes = read(&path).unwrap();
                std::fs::write(&path, &bytes[..rng.usize(..bytes.len())]).unwrap();
                self.layer.load(&path, "bn.").expect_err("a part of a file");
            }
            2 => drop(self.layer.load(folder.path().join("absent"), "bn.").expect_err("no file")),
            _ => self.layer.load(&path, "bn.").unwrap(),
        }
        self.assert_state();
    }

    pub(crate) fn to(&mut self) {
        self.layer = self.layer.to(self.layer.backend().clone()).unwrap();
        self.reserved = None;
        self.assert_state();
    }

    pub(crate) fn reserve(&mut self, rng: &mut Rng) {
        let mut wrong = vec![];
        let shape = self.shape(rng, None, &mut wrong);
        let is_unbiased = self.options.tracking.is_some_and(|tracking| tracking.variance == RunningVar::Unbiased);
        if shape.m() == 1 && is_unbiased {
            wrong.push("one value a channel");
        }
        let result = self.layer.reserve::<T>(shape, Epilogue::ADD_RELU);
        if self.went_through(result, shape, &wrong) {
            self.reserved = Some(shape);
        }
        self.assert_state();
    }
}

//! A layer, what its callers hold of it, and what its state must be, bit for bit.

use core::fmt;

use batchnorm::verify::Verified;
use batchnorm::{
    Backend, BatchNorm, Compute, Element, Epilogue, Error, ForwardPass, Options, Param, Result, Saved, Shape, StateDict,
};
use fastrand::Rng;

use super::{draw, model};

/// The value of outputs before a call, and after one that was refused.
pub(crate) const UNTOUCHED: f64 = 9.0;

pub(crate) struct World<B: Backend, T: Element> {
    pub(crate) layer: BatchNorm<B, T::Param>,
    pub(crate) options: Options,
    pub(crate) c: usize,
    /// The state as it was seen last.
    pub(crate) known: StateDict<T::Param>,
    /// The shape that the layer has scratch memory for.
    pub(crate) reserved: Option<Shape>,
    pub(crate) slots: Vec<Slot<B, T>>,
}

/// The saved statistics of a forward pass, and what is known of them.
pub(crate) struct Slot<B: Backend, T: Element> {
    /// The largest shape.
    pub(crate) shape: Shape,
    pub(crate) has_mask: bool,
    pub(crate) saved: Saved<B, T::Param>,
    /// The last pass that wrote it.
    pub(crate) last: Option<Last<T>>,
    /// The model of that pass, as long as parameters and statistics are those of then.
    pub(crate) model: Option<model::Forward>,
}

/// A forward pass with its shape and data.
#[derive(Clone)]
pub(crate) struct Last<T> {
    pub(crate) pass: ForwardPass,
    pub(crate) shape: Shape,
    pub(crate) x: Vec<T>,
}

impl<B: Verified + Compute<T>, T: Element> World<B, T> {
    pub(crate) fn new(backend: &B, rng: &mut Rng) -> Self {
        let (options, c) = (draw::options(rng), rng.usize(1..14));
        let layer = BatchNorm::<_, T::Param>::with_param_type(backend.clone(), c, options).unwrap();
        let known = StateDict::new(c, &options).unwrap();
        let shapes = [draw::shape(rng, c), draw::shape(rng, c)];
        let slots = (0..4).map(|number| {
            let (shape, epilogue) = (shapes[number % 2], *rng.choice(Epilogue::ALL).unwrap());
            let saved = layer.saved(shape, epilogue).unwrap();
            Slot { shape, has_mask: epilogue.keeps_mask(), saved, last: None, model: None }
        });
        let slots = slots.collect();
        Self { layer, options, c, known, reserved: None, slots }
    }

    /// The name of a call, by its number.
    pub(crate) fn name_of(call: u8) -> &'static str {
        match call {
            0..=4 => "train",
            5..=6 => "infer",
            7..=8 => "frozen",
            9..=13 => "backward",
            14 => "load_state_dict",
            15 => "save and load",
            16 => "to",
            _ => "reserve",
        }
    }

    pub(crate) fn call(&mut self, call: u8, rng: &mut Rng) {
        match Self::name_of(call) {
            "train" => self.forward(rng, Some(true)),
            "frozen" => self.forward(rng, Some(false)),
            "infer" => self.forward(rng, None),
            "backward" => self.backward(rng),
            "load_state_dict" => self.load_state_dict(rng),
            "save and load" => self.save_and_load(rng),
            "to" => self.to(),
            _ => self.reserve(rng),
        }
    }

    /// The shape of a call that saves to this slot, or to none, and why it is wrong where it is.
    pub(crate) fn shape(&self, rng: &mut Rng, slot: Option<usize>, wrong: &mut Vec<&'static str>) -> Shape {
        let own = self.slots[slot.unwrap_or(0)].shape;
        let shape = match rng.u8(..16) {
            2..=5 if own.n() > 0 => draw::smaller(rng, own),
            _ => self.shape_like(rng, own, wrong),
        };
        let fits = draw::smaller_batches(own).contains(&shape);
        if slot.is_some() && !fits {
            wrong.push("the shape of saved");
        }
        shape
    }

    /// The shape of the backward pass of this slot, and why it is wrong where it is.
    pub(crate) fn backward_shape(&self, rng: &mut Rng, slot: usize, wrong: &mut Vec<&'static str>) -> Shape {
        let Slot { shape: most, last, .. } = &self.slots[slot];
        let own = last.as_ref().map_or(*most, |last| last.shape);
        assert_eq!((self.slots[slot].saved.shape(), self.slots[slot].saved.made_for()), (own, *most));
        let shape = self.shape_like(rng, own, wrong);
        if shape != own {
            wrong.push("the shape of saved");
        }
        shape
    }

    fn shape_like(&self, rng: &mut Rng, own: Shape, wrong: &mut Vec<&'static str>) -> Shape {
        let shape = match rng.u8(..16) {
            0 => draw::shape(rng, self.c + 1),
            1 => self.slots[rng.usize(..self.slots.len())].shape,
            _ => own,
        };
        if shape.c() != self.c {
            wrong.push("channels");
        }
        shape
    }

    /// Whether a call went through that should have; else that it was refused with words, and left the state as it was.
    pub(crate) fn went_through(&self, result: Result<()>, shape: Shape, wrong: &[&str]) -> bool {
        match result {
            Ok(()) => {
                assert!(wrong.is_empty(), "expected a refusal, since wrong were {wrong:?}");
                true
            }
            Err(error) => {
                let is_reserved = self.reserved.is_some_and(|most| draw::smaller_batches(most).contains(&shape));
                let needs_memory = matches!(error, Error::Workspace { .. }) && !is_reserved;
                assert!(!wrong.is_empty() || needs_memory, "expected success on {shape}, got {error}");
                let text = error.to_string();
                assert!(text.contains("expected") || text.contains("is missing"), "{text}");
                self.assert_state();
                false
            }
        }
    }

    /// The state is what it was.
    pub(crate) fn assert_state(&self) {
        assert_eq!(bits(&self.layer.state_dict().unwrap()), bits(&self.known), "the layer's state");
    }

    /// Forgets the models of those earlier passes that are stale.
    pub(crate) fn forget(&mut self, is_stale: impl Fn(ForwardPass) -> bool) {
        for slot in &mut self.slots {
            if slot.last.as_ref().is_some_and(|last| is_stale(last.pass)) {
                slot.model = None;
            }
        }
    }

    pub(crate) fn upload<E: Element>(&self, values: &[E]) -> B::Buf<E> {
        self.layer.backend().upload(values).unwrap()
    }

    pub(crate) fn untouched<E: Element>(&self, len: usize) -> B::Buf<E> {
        self.upload(&vec![E::from_f64(UNTOUCHED); len])
    }

    pub(crate) fn download<E: Element>(&self, buf: &B::Buf<E>) -> Vec<f64> {
        self.layer.backend().download(buf).unwrap().into_iter().map(E::to_f64).collect()
    }

    /// The statistics that were saved, bit for bit.
    pub(crate) fn saved_bits(&self, slot: usize) -> Vec<u64> {
        let saved = &self.slots[slot].saved;
        [saved.mean(), saved.inv_std()].into_iter().flat_map(|buf| self.download(buf)).map(f64::to_bits).collect()
    }
}

/// A length, wrong now and then.
pub(crate) fn len(rng: &mut Rng, right: usize, name: &'static str, wrong: &mut Vec<&'static str>) -> usize {
    if rng.u8(..60) != 0 {
        return right;
    }
    wrong.push(name);
    if rng.bool() && right > 0 { right - 1 } else { right + 1 }
}

pub(crate) fn assert_untouched(name: &str, values: &[f64]) {
    assert!(
        values.iter().all(|&value| value == UNTOUCHED),
        "{name}: expected it untouched by a refused call, got {values:?}"
    );
}

/// A state in numbers that can be compared, NaN too.
fn bits<P: Param>(state: &StateDict<P>) -> (Vec<Vec<u64>>, Option<i64>) {
    let running = state.running.as_ref();
    let vectors = [state.gamma.as_ref(), state.beta.as_ref(), running.map(|r| &r.mean), running.map(|r| &r.var)];
    let of = |vector: &Vec<P>| vector.iter().map(|value| value.to_f64().to_bits()).collect();
    (
        vectors.into_iter().map(|vector| vector.map(of).unwrap_or_default()).collect(),
        running.map(|r| r.num_batches_tracked),
    )
}

impl<B: Backend, T: Element> fmt::Display for World<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} channels, {:?}, shapes {} and {}", self.c, self.options, self.slots[0].shape, self.slots[1].shape)
    }
}

//! Which forward pass a `Saved` is of, on any backend: each backward pass takes its own and refuses the others.

use batchnorm::{BatchNorm, Compute, Epilogue, Error, ForwardPass, Gradients, Options, Result, Saved, Shape};

/// What a buffer holds that nobody wrote.
const UNTOUCHED: f32 = 9.0;

const EPILOGUES: [Epilogue<()>; 4] = [Epilogue::IDENTITY, Epilogue::RELU, Epilogue::ADD, Epilogue::ADD_RELU];

fn all_passes() -> impl Iterator<Item = ForwardPass> {
    EPILOGUES.into_iter().flat_map(|epilogue| [ForwardPass::Train(epilogue), ForwardPass::Frozen(epilogue)])
}

/// A layer with the buffers of a step.
struct Bench<B: Compute<f32>> {
    layer: BatchNorm<B>,
    shape: Shape,
    x: B::Buf<f32>,
    y: B::Buf<f32>,
    saved: Saved<B>,
}

impl<B: Compute<f32>> Bench<B> {
    fn new(backend: &B, shape: Shape) -> Self {
        let mut layer = BatchNorm::<B>::new(backend.clone(), shape.c(), Options::default()).unwrap();
        layer.reserve::<f32>(shape, Epilogue::ADD_RELU).unwrap();
        let x: Vec<f32> = (0..shape.len()).map(|i| ((i * 37) % 101) as f32 / 16.0 - 3.0).collect();
        let (x, y) = (backend.upload(&x).unwrap(), backend.upload(&vec![0.0; shape.len()]).unwrap());
        let saved = layer.saved(shape, Epilogue::ADD_RELU).unwrap();
        Self { layer, shape, x, y, saved }
    }

    fn forward(&mut self, pass: ForwardPass) -> Result<()> {
        let (shape, x, y) = (self.shape, B::input(&self.x), B::output(&mut self.y));
        match pass {
            ForwardPass::Train(kind) => self.layer.train(shape, x, kind.map(|()| x), y, &mut self.saved),
            ForwardPass::Frozen(kind) => self.layer.frozen(shape, x, kind.map(|()| x), y, &mut self.saved),
        }
    }

    /// The backward pass of a forward pass, and what it wrote of `dx`, `dz`, `dgamma` and `dbeta`, in one list.
    fn backward(&mut self, pass: ForwardPass) -> (Result<()>, Vec<f32>) {
        let backend = self.layer.backend().clone();
        let untouched = |len| backend.upload(&vec![UNTOUCHED; len]).unwrap();
        let (len, c) = (self.shape.len(), self.shape.c());
        let (mut dx, mut dz, mut dgamma, mut dbeta) = (untouched(len), untouched(len), untouched(c), untouched(c));
        let gradients = Gradients::<B, f32> {
            dx: B::output(&mut dx),
            dgamma: Some(B::output(&mut dgamma)),
            dbeta: Some(B::output(&mut dbeta)),
        };
        let (shape, x, saved) = (self.shape, B::input(&self.x), &self.saved);
        let result = match pass {
            ForwardPass::Train(kind) => {
                self.layer.backward(shape, x, x, kind.map(|()| B::output(&mut dz)), saved, gradients)
            }
            ForwardPass::Frozen(kind) => {
                self.layer.backward_frozen(shape, x, x, kind.map(|()| B::output(&mut dz)), saved, gradients)
            }
        };
        let parts = [&dx, &dz, &dgamma, &dbeta].map(|buf| backend.download(buf).unwrap());
        (result, parts.concat())
    }

    /// Asks for every backward pass: the one of `actual` runs, the others are refused and write nothing.
    fn assert_takes_only(&mut self, actual: Option<ForwardPass>) {
        assert_eq!(self.saved.pass(), actual);
        for asked in all_passes() {
            let (result, written) = self.backward(asked);
            if actual == Some(asked) {
                result.unwrap();
                assert!(written.iter().any(|value| *value != UNTOUCHED), "{asked} wrote nothing");
                continue;
            }
            let error = result.err().unwrap_or_else(|| panic!("the backward pass of {asked} took {actual:?}"));
            assert!(
                matches!(error, Error::SavedPass { expected, actual: found } if (expected, found) == (asked, actual)),
                "{error}"
            );
            assert!(written.iter().all(|value| *value == UNTOUCHED), "{asked}, refused, wrote");
        }
    }
}

/// Every forward pass beside every backward pass, in one `Saved` that all forward passes write in turn.
pub(crate) fn assert_each_backward_has_its_forward<B: Compute<f32>>(backend: &B) {
    for shape in [Shape::nchw(2, 3, 4, 4).unwrap(), Shape::nchw(0, 3, 4, 4).unwrap()] {
        let mut bench = Bench::new(backend, shape);
        bench.assert_takes_only(None);
        for pass in all_passes() {
            bench.forward(pass).unwrap();
            bench.assert_takes_only(Some(pass));
        }
    }
}

/// A forward pass that is refused wrote nothing, so that what was saved before is still good; a layer that moves or gets a
/// new workspace changes nothing about it either.
pub(crate) fn assert_a_refusal_leaves_what_was_saved<B: Compute<f32>>(backend: &B) {
    let mut bench = Bench::new(backend, Shape::nchw(2, 3, 4, 4).unwrap());
    let short = backend.upload(&[0.0f32; 5]).unwrap();
    for before in [None, Some(ForwardPass::Train(Epilogue::RELU)), Some(ForwardPass::Frozen(Epilogue::ADD_RELU))] {
        if let Some(pass) = before {
            bench.forward(pass).unwrap();
        }
        let (shape, x) = (bench.shape, B::input(&short));
        let y = B::output(&mut bench.y);
        let refused = bench.layer.train(shape, x, Epilogue::IDENTITY, y, &mut bench.saved);
        assert!(matches!(refused, Err(Error::Length { tensor: "x", .. })));
        let y = B::output(&mut bench.y);
        let refused = bench.layer.frozen(shape, x, Epilogue::IDENTITY, y, &mut bench.saved);
        assert!(matches!(refused, Err(Error::Length { tensor: "x", .. })));
        bench.layer.reserve::<f32>(shape, Epilogue::ADD_RELU).unwrap();
        bench.assert_takes_only(before);
    }
    let mut moved = bench.layer.to(backend.clone()).unwrap();
    moved.reserve::<f32>(bench.shape, Epilogue::ADD_RELU).unwrap();
    bench.layer = moved;
    bench.assert_takes_only(Some(ForwardPass::Frozen(Epilogue::ADD_RELU)));

    let other = Shape::nchw(1, 3, 4, 4).unwrap();
    bench.shape = other;
    let (x, y) = (&vec![0.0; other.len()], vec![0.0; other.len()]);
    (bench.x, bench.y) = (backend.upload(x).unwrap(), backend.upload(&y).unwrap());
    let refused = bench.forward(ForwardPass::Train(Epilogue::IDENTITY));
    assert!(matches!(refused, Err(Error::SavedShape { actual, .. }) if actual == other));
    let (refused, _) = bench.backward(ForwardPass::Frozen(Epilogue::ADD_RELU));
    assert!(matches!(refused, Err(Error::SavedShape { actual, .. }) if actual == other));
}

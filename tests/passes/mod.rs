//! The forward pass that a `Saved` is of, on any backend: the backward pass is that of it, through its statistics, and refuses
//! another epilogue.

use batchnorm::op::{Backward, Infer, Train};
use batchnorm::{
    BatchNorm, Compute, Epilogue, Error, ForwardPass, Gradients, Options, Result, Saved, Shape, Statistics,
    StatisticsKind, relu_mask_len,
};

/// The value of a buffer that nobody wrote.
const UNTOUCHED: f32 = 9.0;

const fn train(epilogue: Epilogue<()>) -> ForwardPass {
    ForwardPass { statistics: StatisticsKind::Batch, epilogue }
}

const fn frozen(epilogue: Epilogue<()>) -> ForwardPass {
    ForwardPass { statistics: StatisticsKind::Running, epilogue }
}

fn all_passes() -> impl Iterator<Item = ForwardPass> {
    Epilogue::ALL.iter().copied().flat_map(|epilogue| [train(epilogue), frozen(epilogue)])
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
        let mut layer = BatchNorm::new(backend.clone(), shape.c(), Options::default()).unwrap();
        layer.reserve::<f32>(shape, Epilogue::ADD_RELU).unwrap();
        let x: Vec<f32> = (0..shape.len()).map(|i| ((i * 37) % 101) as f32 / 16.0 - 3.0).collect();
        let (x, y) = (backend.upload(&x).unwrap(), backend.upload(&vec![0.0; shape.len()]).unwrap());
        let saved = layer.saved(shape, Epilogue::ADD_RELU).unwrap();
        Self { layer, shape, x, y, saved }
    }

    fn forward(&mut self, ForwardPass { statistics, epilogue }: ForwardPass) -> Result<()> {
        let (shape, x, y) = (self.shape, B::input(&self.x), B::output(&mut self.y));
        match statistics {
            StatisticsKind::Batch => self.layer.train(shape, x, epilogue.map(|()| x), y, &mut self.saved),
            StatisticsKind::Running => self.layer.frozen(shape, x, epilogue.map(|()| x), y, &mut self.saved),
        }
    }

    /// The layer's backward pass with this epilogue, and what it wrote of `dx`, `dz`, `dgamma` and `dbeta`, in one list.
    fn backward(&mut self, epilogue: Epilogue<()>) -> (Result<()>, Vec<f32>) {
        let mut written = Written::<B>::new(self.layer.backend(), self.shape);
        let (epilogue, gradients) = written.outputs(epilogue);
        let (shape, x) = (self.shape, B::input(&self.x));
        let result = self.layer.backward(shape, x, x, epilogue, &self.saved, gradients);
        let values = written.download(self.layer.backend());
        (result, values)
    }

    /// The same list by the operations themselves, through statistics of this kind.
    fn by_operations(&self, ForwardPass { statistics, epilogue }: ForwardPass) -> Vec<f32> {
        let (backend, shape, eps) = (self.layer.backend(), self.shape, self.layer.options().eps);
        let room = || backend.zeros::<f32>(shape.c()).unwrap();
        let (mut y, mut saved_mean, mut saved_inv_std) = (backend.zeros(shape.len()).unwrap(), room(), room());
        let mut mask = backend.zeros(relu_mask_len(shape)).unwrap();
        let running = self.layer.running().unwrap();
        let mut written = Written::<B>::new(backend, shape);
        {
            let (x, relu_mask) = (B::input(&self.x), epilogue.keeps_mask().then(|| B::output(&mut mask)));
            let (gamma, beta) = (self.layer.gamma().map(B::input), self.layer.beta().map(B::input));
            let (epilogue, y) = (epilogue.map(|()| x), B::output(&mut y));
            match statistics {
                StatisticsKind::Batch => {
                    let (saved_mean, saved_inv_std) = (B::output(&mut saved_mean), B::output(&mut saved_inv_std));
                    let running = None;
                    backend.run(Train {
                        shape,
                        eps,
                        x,
                        epilogue,
                        gamma,
                        beta,
                        y,
                        saved_mean,
                        saved_inv_std,
                        relu_mask,
                        running,
                    })
                }
                StatisticsKind::Running => {
                    let (running_mean, running_var) = (B::input(&running.mean), B::input(&running.var));
                    backend.run(Infer { shape, eps, x, epilogue, gamma, beta, running_mean, running_var, y, relu_mask })
                }
            }
            .unwrap();
        }
        {
            let (dz, gradients) = written.outputs(epilogue);
            let backward = Backward {
                shape,
                x: B::input(&self.x),
                dy: B::input(&self.x),
                epilogue: dz,
                gamma: self.layer.gamma().map(B::input),
                beta: self.layer.beta().map(B::input),
                statistics: match statistics {
                    StatisticsKind::Batch => {
                        Statistics::Batch { mean: B::input(&saved_mean), inv_std: B::input(&saved_inv_std) }
                    }
                    StatisticsKind::Running => {
                        Statistics::Running { mean: B::input(&running.mean), var: B::input(&running.var), eps }
                    }
                },
                relu_mask: epilogue.keeps_mask().then(|| B::input(&mask)),
                gradients,
            };
            backend.run(backward).unwrap();
        }
        written.download(backend)
    }

    /// Asks for the backward pass of every epilogue: that of `actual` gives the gradients through its statistics, and not
    /// through the others; the other epilogues are refused and write nothing.
    fn assert_is_of(&mut self, actual: Option<ForwardPass>) {
        assert_eq!(self.saved.pass(), actual);
        for &asked in Epilogue::ALL {
            let (result, written) = self.backward(asked);
            if let Some(pass) = actual.filter(|pass| pass.epilogue == asked) {
                result.unwrap();
                assert!(written.iter().any(|value| *value != UNTOUCHED), "the backward pass of {pass} wrote nothing");
                let of = |statistics| self.by_operations(ForwardPass { statistics, ..pass });
                let (batch, running) = (of(StatisticsKind::Batch), of(StatisticsKind::Running));
                let (own, other) = match pass.statistics {
                    StatisticsKind::Batch => (batch, running),
                    StatisticsKind::Running => (running, batch),
                };
                assert_eq!(written, own, "{pass}");
                assert!(self.shape.is_empty() || written != other, "the statistics of {pass} make no difference");
                continue;
            }
            let error = result.err().unwrap_or_else(|| panic!("the backward pass of {} took {actual:?}", asked.name()));
            assert!(
                matches!(error, Error::SavedPass { expected, actual: found, .. } if (expected, found) == (asked, actual)),
                "{error}"
            );
            assert!(written.iter().all(|value| *value == UNTOUCHED), "{}, refused, wrote", asked.name());
        }
    }
}

/// The outputs of a backward pass.
struct Written<B: Compute<f32>> {
    dx: B::Buf<f32>,
    dz: B::Buf<f32>,
    dgamma: B::Buf<f32>,
    dbeta: B::Buf<f32>,
}

impl<B: Compute<f32>> Written<B> {
    fn new(backend: &B, shape: Shape) -> Self {
        let untouched = |len| backend.upload(&vec![UNTOUCHED; len]).unwrap();
        let (data, channels) = (|| untouched(shape.len()), || untouched(shape.c()));
        Self { dx: data(), dz: data(), dgamma: channels(), dbeta: channels() }
    }

    fn outputs(&mut self, epilogue: Epilogue<()>) -> (Epilogue<B::Out<'_, f32>>, Gradients<'_, B, f32>) {
        let Self { dx, dz, dgamma, dbeta } = self;
        let (dgamma, dbeta) = (Some(B::output(dgamma)), Some(B::output(dbeta)));
        (epilogue.map(|()| B::output(dz)), Gradients { dx: Some(B::output(dx)), dgamma, dbeta })
    }

    fn download(&self, backend: &B) -> Vec<f32> {
        [&self.dx, &self.dz, &self.dgamma, &self.dbeta].map(|buf| backend.download(buf).unwrap()).concat()
    }
}

/// The backward pass of every epilogue behind every forward pass, in one `Saved` that all forward passes write in turn.
pub(crate) fn assert_each_backward_has_its_forward<B: Compute<f32>>(backend: &B) {
    for shape in [Shape::nchw(2, 3, 4, 4).unwrap(), Shape::nchw(0, 3, 4, 4).unwrap()] {
        let mut bench = Bench::new(backend, shape);
        bench.assert_is_of(None);
        for pass in all_passes() {
            bench.forward(pass).unwrap();
            bench.assert_is_of(Some(pass));
        }
    }
}

/// A forward pass that is refused wrote nothing, so that what was saved before is still good; a layer that moves or gets a
/// new workspace changes nothing about it either.
pub(crate) fn assert_a_refusal_leaves_what_was_saved<B: Compute<f32>>(backend: &B) {
    let mut bench = Bench::new(backend, Shape::nchw(2, 3, 4, 4).unwrap());
    let short = backend.upload(&[0.0f32; 5]).unwrap();
    for before in [None, Some(train(Epilogue::RELU)), Some(frozen(Epilogue::ADD_RELU))] {
        if let Some(pass) = before {
            bench.forward(pass).unwrap();
        }
        let (shape, x, y) = (bench.shape, B::input(&short), B::output(&mut bench.y));
        let refused = bench.layer.train(shape, x, Epilogue::IDENTITY, y, &mut bench.saved);
        assert!(matches!(refused, Err(Error::Length { tensor: "x", .. })));
        let (x, y) = (B::input(&short), B::output(&mut bench.y));
        let refused = bench.layer.frozen(shape, x, Epilogue::IDENTITY, y, &mut bench.saved);
        assert!(matches!(refused, Err(Error::Length { tensor: "x", .. })));
        bench.layer.reserve::<f32>(shape, Epilogue::ADD_RELU).unwrap();
        bench.assert_is_of(before);
    }
    let mut moved = bench.layer.to(backend.clone()).unwrap();
    moved.reserve::<f32>(bench.shape, Epilogue::ADD_RELU).unwrap();
    bench.layer = moved;
    bench.assert_is_of(Some(frozen(Epilogue::ADD_RELU)));

    let other = Shape::nchw(3, 3, 4, 4).unwrap();
    bench.shape = other;
    let (x, y) = (&vec![0.0; other.len()], vec![0.0; other.len()]);
    (bench.x, bench.y) = (backend.upload(x).unwrap(), backend.upload(&y).unwrap());
    let refused = bench.forward(train(Epilogue::IDENTITY));
    assert!(matches!(refused, Err(Error::SavedShape { actual, .. }) if actual == other));
    let (refused, _) = bench.backward(Epilogue::ADD_RELU);
    assert!(matches!(refused, Err(Error::SavedShape { actual, .. }) if actual == other));
}

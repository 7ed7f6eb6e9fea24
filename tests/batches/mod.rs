//! A `Saved` that was made for a batch, with smaller ones, on any backend: they leave what they leave in one of their own size.

use batchnorm::{BatchNorm, Compute, Epilogue, Error, Gradients, Layout, Options, Result, Saved, Shape, StateDict};

const CHANNELS: usize = 3;

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 16.0 - 3.0).collect()
}

fn layer<B: Compute<f32>>(backend: &B, most: Shape) -> BatchNorm<B> {
    let mut layer = BatchNorm::new(backend.clone(), CHANNELS, Options::default()).unwrap();
    let mut state = StateDict::new(CHANNELS, &Options::default()).unwrap();
    state.beta = Some(vec![-0.25, 0.0, 0.5]);
    layer.load_state_dict(&state).unwrap();
    layer.reserve::<f32>(most, Epilogue::ADD_RELU).unwrap();
    layer
}

/// Runs a forward pass: training, or with frozen statistics. Gives y.
fn forward<B: Compute<f32>>(
    layer: &mut BatchNorm<B>,
    is_train: bool,
    shape: Shape,
    epilogue: Epilogue<()>,
    saved: &mut Saved<B>,
) -> Result<Vec<f32>> {
    let backend = layer.backend().clone();
    let (x, z) = (backend.upload(&values(shape.len(), 1))?, backend.upload(&values(shape.len(), 2))?);
    let mut y = backend.zeros(shape.len())?;
    {
        let (x, z) = (B::input(&x), epilogue.map(|()| B::input(&z)));
        match is_train {
            true => layer.train(shape, x, z, B::output(&mut y), saved)?,
            false => layer.frozen(shape, x, z, B::output(&mut y), saved)?,
        }
    }
    backend.download(&y)
}

/// Runs a backward pass. Gives dx, dz, dgamma and dbeta.
fn backward<B: Compute<f32>>(
    layer: &mut BatchNorm<B>,
    shape: Shape,
    epilogue: Epilogue<()>,
    saved: &Saved<B>,
) -> Result<[Vec<f32>; 4]> {
    let backend = layer.backend().clone();
    let (x, dy) = (backend.upload(&values(shape.len(), 1))?, backend.upload(&values(shape.len(), 3))?);
    let (mut dx, mut dz) = (backend.zeros(shape.len())?, backend.zeros(shape.len())?);
    let (mut dgamma, mut dbeta) = (backend.zeros(CHANNELS)?, backend.zeros(CHANNELS)?);
    layer.backward(
        shape,
        B::input(&x),
        B::input(&dy),
        epilogue.map(|()| B::output(&mut dz)),
        saved,
        Gradients {
            dx: Some(B::output(&mut dx)),
            dgamma: Some(B::output(&mut dgamma)),
            dbeta: Some(B::output(&mut dbeta)),
        },
    )?;
    Ok([backend.download(&dx)?, backend.download(&dz)?, backend.download(&dgamma)?, backend.download(&dbeta)?])
}

/// Batches of every size in one `Saved`, and each in one of its own: with every epilogue, by either forward pass.
pub(crate) fn assert_smaller_batches_fit<B: Compute<f32>>(backend: &B) {
    for (layout, places) in [(Layout::ChannelsFirst, [5, 7]), (Layout::ChannelsLast, [4, 4])] {
        let of = |n| match layout {
            Layout::ChannelsFirst => Shape::nchw(n, CHANNELS, places[0], places[1]).unwrap(),
            Layout::ChannelsLast => Shape::nhwc(n, places[0], places[1], CHANNELS).unwrap(),
        };
        let most = of(4);
        let mut layer = layer(backend, most);
        for &epilogue in Epilogue::ALL {
            let mut common = layer.saved(most, epilogue).unwrap();
            assert_eq!((common.shape(), common.made_for(), common.pass()), (most, most, None));
            for (n, is_train) in [(4, true), (1, true), (3, false), (0, true), (2, true)] {
                let shape = of(n);
                let mut own = layer.saved(shape, epilogue).unwrap();
                let before = layer.state_dict().unwrap();
                let got = forward(&mut layer, is_train, shape, epilogue, &mut common).unwrap();
                layer.load_state_dict(&before).unwrap();
                let want = forward(&mut layer, is_train, shape, epilogue, &mut own).unwrap();
                assert_eq!(got, want, "y of {shape} with {}", epilogue.name());
                assert_eq!((common.shape(), common.made_for()), (shape, most));
                if is_train {
                    for (got, want) in [(common.mean(), own.mean()), (common.inv_std(), own.inv_std())] {
                        assert_eq!(backend.download(got).unwrap(), backend.download(want).unwrap());
                    }
                }
                let got = backward(&mut layer, shape, epilogue, &common).unwrap();
                let want = backward(&mut layer, shape, epilogue, &own).unwrap();
                assert_eq!(got, want, "gradients of {shape} with {}", epilogue.name());
                assert!(n == 0 || got[0].iter().any(|&dx| dx != 0.0));
            }
        }
    }
}

/// A backward pass has the shape of its forward pass, and a forward pass one that there is room for.
pub(crate) fn assert_other_shapes_are_refused<B: Compute<f32>>(backend: &B) {
    let most = Shape::nchw(4, CHANNELS, 5, 7).unwrap();
    let smaller = Shape::nchw(2, CHANNELS, 5, 7).unwrap();
    let mut layer = layer(backend, most);
    let mut saved = layer.saved(most, Epilogue::ADD_RELU).unwrap();
    forward(&mut layer, true, smaller, Epilogue::ADD_RELU, &mut saved).unwrap();
    let error = backward(&mut layer, most, Epilogue::ADD_RELU, &saved).unwrap_err();
    assert_eq!(error.to_string(), "saved statistics: expected a batch of 2, as the forward pass had, got 4");
    let want = backward(&mut layer, smaller, Epilogue::ADD_RELU, &saved).unwrap();
    for dims in [[5, 3, 5, 7], [4, 3, 7, 5], [2, 3, 7, 5]] {
        for is_train in [true, false] {
            let other = Shape::new(&dims, Layout::ChannelsFirst).unwrap();
            let error = forward(&mut layer, is_train, other, Epilogue::ADD_RELU, &mut saved).unwrap_err();
            assert!(
                matches!(error, Error::SavedShape { expected, actual, .. } if (expected, actual) == (most, other)),
                "{error}"
            );
        }
    }
    assert_eq!(saved.shape(), smaller, "what was refused left another shape");
    assert_eq!(backward(&mut layer, smaller, Epilogue::ADD_RELU, &saved).unwrap(), want);
    // A refusal of the operation leaves the mask of the pass before: as much of it as that pass had.
    let short = backend.upload(&[0.0f32; 5]).unwrap();
    let mut y = backend.zeros(most.len()).unwrap();
    {
        let z = Epilogue::add_relu(B::input(&short));
        let refused = layer.train(most, B::input(&short), z, B::output(&mut y), &mut saved);
        assert!(matches!(refused, Err(Error::Length { .. })));
    }
    assert_eq!(backward(&mut layer, smaller, Epilogue::ADD_RELU, &saved).unwrap(), want);
}

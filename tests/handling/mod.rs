//! A layer apart from its passes, on any backend: its parameters written, copied, printed.

use batchnorm::op::{Backward, Infer, Moments, Operation, Train, Update};
use batchnorm::{
    Activation, BatchNorm, Compute, Epilogue, Gradients, Options, Params, Shape, StateDict, Statistics, Tracking,
    relu_mask_len,
};

fn state(c: usize) -> StateDict<f32> {
    let mut state = StateDict::new(c, &Options::default()).unwrap();
    let ramp = |from: f32| (0..c).map(|c| from + c as f32 / 8.0).collect::<Vec<_>>();
    (state.gamma, state.beta) = (Some(ramp(0.5)), Some(ramp(-0.25)));
    let running = state.running.as_mut().unwrap();
    (running.mean, running.var, running.num_batches_tracked) = (ramp(-1.0), ramp(0.75), 41);
    state
}

/// A copy has the state of the layer, and neither moves with the other.
pub(crate) fn assert_a_copy_is_one_of_its_own<B: Compute<f32>>(backend: &B) {
    let shape = Shape::nchw(2, 3, 4, 4).unwrap();
    for (gamma, beta, tracks) in [(true, true, true), (false, true, false), (true, false, true)] {
        let usual = Options::default();
        let options = Options { gamma, beta, tracking: usual.tracking.filter(|_| tracks), eps: 0.25 };
        let mut layer = BatchNorm::new(backend.clone(), 3, options).unwrap();
        let StateDict { gamma: scale, beta: offset, running } = state(3);
        let wanted = StateDict {
            gamma: scale.filter(|_| gamma),
            beta: offset.filter(|_| beta),
            running: running.filter(|_| tracks),
        };
        layer.load_state_dict(&wanted).unwrap();
        let mut copy = layer.try_clone().unwrap();
        assert_eq!((copy.options(), copy.channels()), (&options, 3));
        assert_eq!(copy.state_dict().unwrap(), wanted);

        copy.reserve::<f32>(shape, Epilogue::IDENTITY).unwrap();
        let (x, mut y) = (vec![1.0; shape.len()], backend.zeros(shape.len()).unwrap());
        let (x, mut saved) = (backend.upload(&x).unwrap(), copy.saved(shape, Epilogue::IDENTITY).unwrap());
        copy.train(shape, B::input(&x), Epilogue::IDENTITY, B::output(&mut y), &mut saved).unwrap();
        let Params { gamma: copied_gamma, beta: copied_beta } = copy.params_mut();
        assert_eq!((copied_gamma.is_some(), copied_beta.is_some()), (gamma, beta));
        for buf in [copied_gamma, copied_beta].into_iter().flatten() {
            *buf = backend.upload(&[7.0; 3]).unwrap();
        }
        let moved = copy.state_dict().unwrap();
        assert_eq!((&moved.gamma, &moved.beta), (&gamma.then(|| vec![7.0; 3]), &beta.then(|| vec![7.0; 3])));
        assert_eq!(moved.running.map(|running| running.num_batches_tracked), tracks.then_some(42));
        assert_eq!(layer.state_dict().unwrap(), wanted);
    }
}

/// An epilogue that no operation takes is refused before anything else that is wrong, and nothing changes.
pub(crate) fn assert_an_epilogue_of_no_operation_is_refused<B: Compute<f32>>(backend: &B) {
    let (shape, other) = (Shape::nchw(2, 3, 4, 5).unwrap(), Shape::nc(2, 4).unwrap());
    let filled = |len, value: f32| backend.upload(&vec![value; len]).unwrap();
    let mut layer = BatchNorm::new(backend.clone(), 3, Options::default()).unwrap();
    layer.reserve::<f32>(shape, Epilogue::RELU).unwrap();
    let mut saved = layer.saved(shape, Epilogue::RELU).unwrap();
    let (x, mut y, mut dx, mut dz) = (filled(120, 1.5), filled(120, 0.0), filled(120, 9.0), filled(120, 9.0));
    layer.train(shape, B::input(&x), Epilogue::RELU, B::output(&mut y), &mut saved).unwrap();
    y = filled(120, 9.0);
    let (state, pass) = (layer.state_dict().unwrap(), saved.pass());

    let refused: Vec<_> = Activation::ALL.iter().copied().filter(|activation| !activation.takes_residual()).collect();
    assert_eq!(refused, [Activation::Relu6, Activation::Silu, Activation::Hardswish]);
    for activation in refused {
        let kind = Epilogue::new(activation, Some(()));
        for shape in [shape, other] {
            let reserved = layer.reserve::<f32>(shape, kind);
            let made = layer.saved(shape, kind).map(drop);
            let z = Epilogue::new(activation, Some(B::input(&x)));
            let trained = layer.train(shape, B::input(&x), z, B::output(&mut y), &mut saved);
            let z = Epilogue::new(activation, Some(B::input(&x)));
            let frozen = layer.frozen(shape, B::input(&x), z, B::output(&mut y), &mut saved);
            let z = Epilogue::new(activation, Some(B::input(&x)));
            let inferred = layer.infer(shape, B::input(&x), z, B::output(&mut y));
            let gradients = Gradients { dx: Some(B::output(&mut dx)), dgamma: None, dbeta: None };
            let dz = Epilogue::new(activation, Some(B::output(&mut dz)));
            let backward = layer.backward(shape, B::input(&x), B::input(&x), dz, &saved, gradients);
            let forward =
                [("train", reserved), ("train", made), ("train", trained), ("infer", frozen), ("infer", inferred)];
            for (op, result) in forward.into_iter().chain([("backward", backward)]) {
                let text = format!(
                    "{op}: expected one of the epilogues identity, relu, relu6, silu, hardswish, add, add-relu, got {}",
                    kind.name()
                );
                assert_eq!(result.unwrap_err().to_string(), text);
            }
        }
    }
    for output in [&y, &dx, &dz] {
        assert_eq!(backend.download(output).unwrap(), [9.0; 120]);
    }
    assert_eq!((layer.state_dict().unwrap(), saved.pass()), (state, pass));
}

/// What is printed has names, shapes and lengths, and no value of any tensor: all of them are 77.
pub(crate) fn assert_what_is_printed_has_no_contents<B: Compute<f32>>(backend: &B) {
    let shape = Shape::nchw(2, 3, 4, 5).unwrap();
    let (values, channels) = (|| backend.upload(&[77.0; 120]).unwrap(), || backend.upload(&[77.0; 3]).unwrap());
    let mut layer = BatchNorm::new(backend.clone(), 3, Options::default()).unwrap();
    let Params { gamma, beta } = layer.params_mut();
    (*gamma.unwrap(), *beta.unwrap()) = (channels(), channels());
    let saved = layer.saved(shape, Epilogue::ADD_RELU).unwrap();
    let options = "Options { eps: 1e-5, gamma: true, beta: true, tracking: Some(Tracking { momentum: Ema(0.1), \
                   variance: Unbiased, non_finite: Propagate }) }";
    assert_eq!(format!("{layer:?}"), format!("BatchNorm {{ channels: 3, param_type: F32, options: {options}, .. }}"));
    assert_eq!(
        format!("{saved:?}"),
        "Saved { shape: Shape([2, 3, 4, 5] channels-first), made_for: Shape([2, 3, 4, 5] channels-first), \
         param_type: F32, keeps_mask: true, pass: None, .. }"
    );

    let (x, channel) = (values(), channels());
    let (mut data, [mut mean, mut var]) = (values(), [channels(), channels()]);
    let (mut running_mean, mut running_var) = (channels(), channels());
    let mut count = backend.upload(&[77i64]).unwrap();
    let mut mask = backend.upload(&vec![77u32; relu_mask_len(shape)]).unwrap();
    let shape_text = "shape: Shape([2, 3, 4, 5] channels-first)";
    let params = "gamma: Some(3 values), beta: Some(3 values)";

    fn of<'a, B: Compute<f32>>(operation: impl Into<Operation<'a, B, f32>>) -> String {
        format!("{:?}", operation.into())
    }

    assert_eq!(
        of::<B>(Moments { shape, x: B::input(&x), mean: B::output(&mut mean), var: B::output(&mut var) }),
        format!("Moments {{ {shape_text}, x: 120 values, mean: 3 values, var: 3 values }}")
    );
    assert_eq!(
        of::<B>(Train {
            shape,
            eps: 0.5,
            x: B::input(&x),
            epilogue: Epilogue::add_relu(B::input(&x)),
            gamma: Some(B::input(&channel)),
            beta: Some(B::input(&channel)),
            y: B::output(&mut data),
            saved_mean: B::output(&mut mean),
            saved_inv_std: B::output(&mut var),
            relu_mask: Some(B::output(&mut mask)),
            running: Some(Update {
                tracking: Tracking::default(),
                mean: B::output(&mut running_mean),
                var: B::output(&mut running_var),
                num_batches_tracked: B::output(&mut count),
            }),
        }),
        format!(
            "Train {{ {shape_text}, eps: 0.5, x: 120 values, epilogue: Epilogue {{ activation: Relu, residual: \
             Some(120 values) }}, {params}, y: 120 values, saved_mean: 3 values, saved_inv_std: 3 values, relu_mask: \
             Some(4 values), running: Some(Update {{ tracking: {:?}, mean: 3 values, var: 3 values, \
             num_batches_tracked: 1 values }}) }}",
            Tracking::default()
        )
    );
    assert_eq!(
        of::<B>(Infer {
            shape,
            eps: 0.5,
            x: B::input(&x),
            epilogue: Epilogue::RELU,
            gamma: None,
            beta: None,
            running_mean: B::input(&running_mean),
            running_var: B::input(&running_var),
            y: B::output(&mut data),
            relu_mask: None,
        }),
        format!(
            "Infer {{ {shape_text}, eps: 0.5, x: 120 values, epilogue: Epilogue {{ activation: Relu, residual: None \
             }}, gamma: None, beta: None, running_mean: 3 values, running_var: 3 values, y: 120 values, relu_mask: \
             None }}"
        )
    );
    let mut dz = values();
    assert_eq!(
        of::<B>(Backward {
            shape,
            x: B::input(&x),
            dy: B::input(&x),
            epilogue: Epilogue::add(B::output(&mut dz)),
            gamma: Some(B::input(&channel)),
            beta: Some(B::input(&channel)),
            statistics: Statistics::Running { mean: B::input(&running_mean), var: B::input(&running_var), eps: 0.5 },
            relu_mask: None,
            gradients: Gradients { dx: Some(B::output(&mut data)), dgamma: Some(B::output(&mut mean)), dbeta: None },
        }),
        format!(
            "Backward {{ {shape_text}, x: 120 values, dy: 120 values, epilogue: Epilogue {{ activation: Identity, \
             residual: Some(120 values) }}, {params}, statistics: Running {{ mean: 3 values, var: 3 values, eps: 0.5 \
             }}, relu_mask: None, gradients: Gradients {{ dx: Some(120 values), dgamma: Some(3 values), dbeta: None }} }}"
        )
    );
}

/// `y + alpha * x` with one rounding, over lengths of one CTA, of several, and of more than a launch has threads.
pub(crate) fn assert_axpy<B: Compute<f32>>(backend: &B) {
    for len in [0, 1, 7, 1000, 600_000] {
        let x: Vec<f32> = (0..len).map(|i| (i * 37 % 1009) as f32 / 7.0 - 60.0).collect();
        let y: Vec<f32> = (0..len).map(|i| (i * 11 % 101) as f32 / 3.0 - 17.0).collect();
        let (on_x, mut on_y) = (backend.upload(&x).unwrap(), backend.upload(&y).unwrap());
        backend.axpy(-0.3, B::input(&on_x), B::output(&mut on_y)).unwrap();
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| (-0.3f32).mul_add(*x, *y)).collect();
        assert_eq!(backend.download(&on_y).unwrap(), want);
        assert_eq!(backend.download(&on_x).unwrap(), x);
    }
    let (short, mut y) = (backend.upload(&[1.0; 3]).unwrap(), backend.upload(&[2.0; 4]).unwrap());
    let error = backend.axpy(1.0, B::input(&short), B::output(&mut y)).unwrap_err();
    assert_eq!(error.to_string(), "x: expected 4 values, got 3");
    assert_eq!(backend.download(&y).unwrap(), [2.0; 4]);
}

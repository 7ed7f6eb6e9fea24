//! The layer: policies, running statistics over many steps, and that a refused call changes nothing. Its state in files is in state/.

use batchnorm::op::{Moments, Train, Update};
use batchnorm::{
    BatchNorm, Compute, Cpu, Dtype, Epilogue, Error, Gradients, Layout, Momentum, NonFinite, Options, Running,
    RunningVar, Saved, Shape, StateDict, Tracking, with_element,
};

mod abuse;
mod batches;
mod handling;
mod passes;
mod sequences;
mod state;
mod unneeded;

type Layer = BatchNorm<Cpu>;

const SHAPE: [usize; 3] = [4, 3, 5];

fn shape() -> Shape {
    Shape::new(&SHAPE, Layout::ChannelsFirst).unwrap()
}

fn data(step: usize) -> Vec<f32> {
    (0..shape().len()).map(|i| ((i * 31 + step * 17) % 23) as f32 / 3.0 - 2.0).collect()
}

fn tracking(momentum: Momentum) -> Options {
    Options { tracking: Some(Tracking { momentum, ..Tracking::default() }), ..Options::default() }
}

fn layer(options: Options) -> (Layer, Saved<Cpu>) {
    let layer = Layer::new(Cpu, 3, options).unwrap();
    let saved = layer.saved(shape(), Epilogue::ADD_RELU).unwrap();
    (layer, saved)
}

fn step(layer: &mut Layer, saved: &mut Saved<Cpu>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    layer.train(shape(), x, Epilogue::IDENTITY, &mut y, saved).unwrap();
    y
}

/// Mean and unbiased variance of each channel, in f64.
fn moments(x: &[f32]) -> Vec<(f64, f64)> {
    let channel = |ch: usize| {
        let values: Vec<f64> = (0..4).flat_map(|n| &x[(n * 3 + ch) * 5..][..5]).map(|x| f64::from(*x)).collect();
        let mean = values.iter().sum::<f64>() / 20.0;
        (mean, values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 19.0)
    };
    (0..3).map(channel).collect()
}

fn running(layer: &Layer) -> Running<Vec<f32>, i64> {
    layer.state_dict().unwrap().running.unwrap()
}

#[test]
fn a_layer_is_the_functions_with_its_own_buffers() {
    let (mut layer, mut saved) = layer(Options::default());
    layer.gamma_mut().unwrap().copy_from_slice(&[1.5, -0.5, 2.0]);
    layer.beta_mut().unwrap().copy_from_slice(&[0.25, 0.5, -1.0]);
    let x = data(0);
    let y = step(&mut layer, &mut saved, &x);

    let (mut want, mut mean, mut inv_std) = (vec![0.0; x.len()], vec![0.0; 3], vec![0.0; 3]);
    let mut running = Running::<Vec<f32>, i64>::new(3).unwrap();
    Cpu.run(Train::<Cpu, f32> {
        shape: shape(),
        eps: 1e-5,
        x: &x,
        epilogue: Epilogue::IDENTITY,
        gamma: Some(&[1.5, -0.5, 2.0]),
        beta: Some(&[0.25, 0.5, -1.0]),
        y: &mut want,
        saved_mean: &mut mean,
        saved_inv_std: &mut inv_std,
        relu_mask: None,
        running: Some(Update {
            tracking: Tracking::default(),
            mean: &mut running.mean,
            var: &mut running.var,
            num_batches_tracked: core::slice::from_mut(&mut running.num_batches_tracked),
        }),
    })
    .unwrap();
    assert_eq!((y, saved.mean(), saved.inv_std()), (want, &mean, &inv_std));
    assert_eq!(self::running(&layer), running);
}

#[test]
fn a_thousand_steps_follow_the_recurrence() {
    let (mut layer, mut saved) = layer(tracking(Momentum::Ema(0.1)));
    let mut want = [(0.0f64, 1.0f64); 3];
    for i in 0..1000 {
        let x = data(i);
        step(&mut layer, &mut saved, &x);
        for (want, (mean, var)) in want.iter_mut().zip(moments(&x)) {
            *want = (0.9 * want.0 + 0.1 * mean, 0.9 * want.1 + 0.1 * var);
        }
    }
    let running = running(&layer);
    assert_eq!(running.num_batches_tracked, 1000);
    for (ch, (mean, var)) in want.into_iter().enumerate() {
        // Each step rounds once to f32 and forgets a tenth of what was before: ten roundings at most stay.
        let close = |got: f32, want: f64| (f64::from(got) - want).abs() <= 10.0 * 2f64.powi(-24) * (want.abs() + 1.0);
        assert!(close(running.mean[ch], mean) && close(running.var[ch], var), "{ch}: {running:?} for {want:?}");
    }
}

#[test]
fn cumulative_momentum_is_the_plain_average() {
    let (mut layer, mut saved) = layer(tracking(Momentum::Cumulative));
    let steps = 50;
    let mut sums = [(0.0f64, 0.0f64); 3];
    for i in 0..steps {
        let x = data(i);
        step(&mut layer, &mut saved, &x);
        for (sum, (mean, var)) in sums.iter_mut().zip(moments(&x)) {
            *sum = (sum.0 + mean, sum.1 + var);
        }
    }
    let running = running(&layer);
    for (ch, (mean, var)) in sums.into_iter().enumerate() {
        let close = |got: f32, sum: f64| (f64::from(got) - sum / steps as f64).abs() <= 1e-5;
        assert!(close(running.mean[ch], mean) && close(running.var[ch], var));
    }
}

#[test]
fn momentum_0_keeps_and_momentum_1_replaces() {
    let (mut layer, mut saved) = layer(tracking(Momentum::Ema(0.0)));
    step(&mut layer, &mut saved, &data(1));
    assert_eq!(running(&layer), Running { num_batches_tracked: 1, ..Running::<Vec<f32>, i64>::new(3).unwrap() });
    // The batch is not read at a = 0, so that an infinity there stays out.
    let infinite: Vec<f32> = data(2).iter().map(|x| x * f32::INFINITY).collect();
    step(&mut layer, &mut saved, &infinite);
    assert_eq!(running(&layer), Running { num_batches_tracked: 2, ..Running::<Vec<f32>, i64>::new(3).unwrap() });

    let (mut layer, mut saved) = self::layer(tracking(Momentum::Ema(1.0)));
    // The old value is not read at a = 1, so that NaN there does not survive.
    let mut state = layer.state_dict().unwrap();
    state.running.as_mut().unwrap().mean.fill(f32::NAN);
    state.running.as_mut().unwrap().var.fill(f32::INFINITY);
    layer.load_state_dict(&state).unwrap();
    step(&mut layer, &mut saved, &data(1));
    let running = running(&layer);
    for (ch, (mean, var)) in moments(&data(1)).into_iter().enumerate() {
        assert_eq!((running.mean[ch], running.var[ch]), (mean as f32, var as f32));
    }
}

#[test]
fn a_skipped_batch_leaves_its_channel_bit_identical_and_is_counted() {
    for non_finite in [NonFinite::Skip, NonFinite::Propagate] {
        let tracking = Some(Tracking { non_finite, ..Tracking::default() });
        let (mut layer, mut saved) = layer(Options { tracking, ..Options::default() });
        step(&mut layer, &mut saved, &data(0));
        let before = running(&layer);
        let mut x = data(1);
        x[7] = f32::NAN; // Sample 0, channel 1.
        step(&mut layer, &mut saved, &x);
        let after = running(&layer);
        assert_eq!(after.num_batches_tracked, 2);
        assert_ne!(after.mean[0].to_bits(), before.mean[0].to_bits());
        let kept =
            after.mean[1].to_bits() == before.mean[1].to_bits() && after.var[1].to_bits() == before.var[1].to_bits();
        assert_eq!(kept, non_finite == NonFinite::Skip);
        assert_eq!(after.mean[1].is_nan(), non_finite == NonFinite::Propagate);
    }
}

#[test]
fn an_empty_batch_changes_nothing() {
    for dims in [[0, 3, 5], [4, 3, 0]] {
        let shape = Shape::new(&dims, Layout::ChannelsFirst).unwrap();
        let (mut layer, mut saved) = layer(Options::default());
        step(&mut layer, &mut saved, &data(0));
        let before = layer.state_dict().unwrap();
        let mut saved = layer.saved(shape, Epilogue::RELU).unwrap();
        layer.train::<f32>(shape, &[], Epilogue::RELU, &mut [], &mut saved).unwrap();
        layer.infer::<f32>(shape, &[], Epilogue::RELU, &mut []).unwrap();
        assert_eq!(layer.state_dict().unwrap(), before);
        assert_eq!((saved.mean(), saved.inv_std()), (&vec![0.0; 3], &vec![0.0; 3]));
        for frozen in [false, true] {
            if frozen {
                layer.frozen::<f32>(shape, &[], Epilogue::RELU, &mut [], &mut saved).unwrap();
            }
            let (mut dgamma, mut dbeta) = ([7.0; 3], [7.0; 3]);
            let gradients =
                Gradients::<Cpu, f32> { dx: Some(&mut []), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) };
            layer.backward(shape, &[], &[], Epilogue::RELU, &saved, gradients).unwrap();
            assert_eq!((dgamma, dbeta), ([0.0; 3], [0.0; 3]));
        }
        let (mut mean, mut var) = ([0.0; 3], [0.0; 3]);
        Cpu.run(Moments::<Cpu, f32> { shape, x: &[], mean: &mut mean, var: &mut var }).unwrap();
        assert!(mean.iter().chain(&var).all(|v| v.is_nan()));
    }
}

#[test]
fn one_value_a_channel_is_refused_only_where_unbiased_variance_is_tracked() {
    let shape = Shape::nc(1, 3).unwrap();
    let train = |options| {
        let (mut layer, _) = layer(options);
        let before = layer.state_dict().unwrap();
        let (mut saved, mut y) = (layer.saved(shape, Epilogue::IDENTITY).unwrap(), [9.0; 3]);
        let result = layer.train(shape, &[1.0f32, 2.0, 3.0], Epilogue::IDENTITY, &mut y, &mut saved);
        (result, y, layer.state_dict().unwrap() == before)
    };
    let (result, y, unchanged) = train(Options::default());
    assert!(matches!(result, Err(Error::OneValuePerChannel { .. })) && y == [9.0; 3] && unchanged);
    let biased = Tracking { variance: RunningVar::Biased, ..Tracking::default() };
    for tracking in [None, Some(biased)] {
        let (result, y, unchanged) = train(Options { tracking, ..Options::default() });
        result.unwrap();
        assert_eq!((y, unchanged), ([0.0; 3], tracking.is_none()), "y = beta");
    }
}

#[test]
fn a_layer_without_parameters_or_statistics_is_a_type_not_a_dummy() {
    let options = Options { gamma: false, beta: false, tracking: None, ..Options::default() };
    let (mut layer, mut saved) = layer(options);
    let y = step(&mut layer, &mut saved, &data(0));
    assert!((y.iter().sum::<f32>()).abs() < 1e-4);
    assert!(layer.gamma().is_none() && layer.beta_mut().is_none() && layer.running().is_none());
    assert!(matches!(layer.infer(shape(), &data(0), Epilogue::IDENTITY, &mut vec![0.0; 60]), Err(Error::NotTracking)));
    assert_eq!(layer.state_dict().unwrap(), StateDict { gamma: None, beta: None, running: None });
    for (gamma, beta, tracks) in [(true, false, false), (false, true, true), (false, false, true), (true, true, false)]
    {
        let tracking = tracks.then(Tracking::default);
        let layer = Layer::new(Cpu, 3, Options { gamma, beta, tracking, ..options }).unwrap();
        assert_eq!(layer.gamma(), gamma.then_some(&vec![1.0; 3]));
        assert_eq!(layer.beta(), beta.then_some(&vec![0.0; 3]));
        assert_eq!(layer.running().map(|running| &running.var), tracks.then_some(&vec![1.0; 3]));
    }
}

#[test]
fn bad_options_are_refused() {
    let refused = |options| Layer::new(Cpu, 3, options).err().unwrap().to_string();
    assert_eq!(refused(Options { eps: -1.0, ..Options::default() }), "eps: expected a finite value >= 0, got -1");
    assert_eq!(refused(tracking(Momentum::Ema(1.5))), "momentum: expected a value in [0, 1], got 1.5");
    assert!(matches!(Layer::new(Cpu, 0, Options::default()), Err(Error::ZeroChannels { .. })));
}

#[test]
fn a_refused_call_says_expected_and_actual_and_changes_nothing() {
    let (mut layer, mut saved) = layer(Options::default());
    let x = data(0);
    step(&mut layer, &mut saved, &x);
    let before = (layer.state_dict().unwrap(), saved.mean().clone(), saved.inv_std().clone());
    let mut y = vec![9.0f32; 60];
    let other = Shape::new(&[4, 2, 5], Layout::ChannelsFirst).unwrap();
    let last = Shape::new(&[4, 5, 3], Layout::ChannelsLast).unwrap();

    let mut refused = |shape, x: &[f32], epilogue: Epilogue<&[f32]>, y: &mut [f32]| {
        layer.train(shape, x, epilogue, y, &mut saved).unwrap_err().to_string()
    };
    let identity = Epilogue::IDENTITY;
    assert_eq!(refused(shape(), &x[..59], identity, &mut y), "x: expected 60 values, got 59");
    assert_eq!(refused(shape(), &x, identity, &mut y[..7]), "y: expected 60 values, got 7");
    assert_eq!(refused(shape(), &x, Epilogue::add(&x[1..]), &mut y), "z: expected 60 values, got 59");
    assert_eq!(refused(other, &x, identity, &mut y), "shape [4, 2, 5] channels-first: expected 3 channels, got 2");
    assert_eq!(
        refused(last, &x, identity, &mut y),
        "saved statistics: expected [4, 3, 5] channels-first or a smaller batch of it, got [4, 5, 3] channels-last"
    );

    let error = layer.frozen(other, &x, identity, &mut y, &mut saved).unwrap_err().to_string();
    assert_eq!(error, "shape [4, 2, 5] channels-first: expected 3 channels, got 2");

    let mut relu_only = layer.saved(shape(), Epilogue::RELU).unwrap();
    let add_relu = Epilogue::add_relu(&x[..]);
    let error = layer.train(shape(), &x, add_relu, &mut y, &mut relu_only).unwrap_err();
    assert_eq!(error.to_string(), "relu_mask is missing: expected a `saved` made for add-relu, got one without a mask");
    let mut dx = vec![9.0f32; 60];
    let mut dz = vec![9.0f32; 60];
    let mut refused = |saved: &Saved<Cpu>, dy: &[f32], epilogue, dgamma: &mut [f32]| {
        let gradients = Gradients::<Cpu, f32> { dx: Some(&mut dx), dgamma: Some(dgamma), dbeta: None };
        layer.backward(shape(), &x, dy, epilogue, saved, gradients).unwrap_err().to_string()
    };
    assert_eq!(refused(&saved, &x[..1], Epilogue::IDENTITY, &mut [0.0; 3]), "dy: expected 60 values, got 1");
    assert_eq!(refused(&saved, &x, Epilogue::IDENTITY, &mut [0.0; 4]), "dgamma: expected 3 values, got 4");
    assert_eq!(
        refused(&relu_only, &x, Epilogue::add_relu(&mut dz), &mut [0.0; 3]),
        "saved statistics: expected those of a forward pass with the epilogue add-relu, got none, since no forward \
         pass has written them or the last one failed"
    );
    assert!(y.iter().chain(&dx).chain(&dz).all(|v| *v == 9.0), "an output was written");
    assert_eq!(before, (layer.state_dict().unwrap(), saved.mean().clone(), saved.inv_std().clone()));
}

#[test]
fn fine_tuning_with_frozen_statistics_keeps_the_mask_of_add_relu() {
    let (mut layer, mut saved) = layer(Options::default());
    step(&mut layer, &mut saved, &data(0));
    let state = layer.state_dict().unwrap();
    let (x, z, dy) = (data(1), data(2), data(3));
    let (mut y, mut want) = (vec![0.0; 60], vec![0.0; 60]);
    layer.frozen(shape(), &x, Epilogue::add_relu(&z), &mut y, &mut saved).unwrap();
    layer.infer(shape(), &x, Epilogue::add_relu(&z), &mut want).unwrap();
    assert_eq!(y, want);
    let (mut dx, mut dz) = (vec![0.0; 60], vec![0.0; 60]);
    let gradients = Gradients::<Cpu, f32> { dx: Some(&mut dx), dgamma: None, dbeta: None };
    layer.backward(shape(), &x, &dy, Epilogue::add_relu(&mut dz), &saved, gradients).unwrap();
    for i in 0..60 {
        assert_eq!(dz[i], if y[i] > 0.0 { dy[i] } else { 0.0 });
    }
    assert_eq!(layer.state_dict().unwrap(), state, "frozen passes move nothing");
}

#[test]
fn each_backward_pass_has_its_forward_pass() {
    passes::assert_each_backward_has_its_forward(&Cpu);
}

#[test]
fn a_refused_forward_pass_leaves_what_was_saved() {
    passes::assert_a_refusal_leaves_what_was_saved(&Cpu);
}

#[test]
fn an_update_rounds_once() {
    handling::assert_axpy(&Cpu);
}

#[test]
fn smaller_batches_fit_what_was_made_for_larger_ones() {
    batches::assert_smaller_batches_fit(&Cpu);
    batches::assert_other_shapes_are_refused(&Cpu);
}

#[test]
fn a_copy_is_a_layer_of_its_own() {
    handling::assert_a_copy_is_one_of_its_own(&Cpu);
}

#[test]
fn an_epilogue_of_no_operation_is_refused() {
    handling::assert_an_epilogue_of_no_operation_is_refused(&Cpu);
}

#[test]
fn what_is_printed_has_no_contents() {
    handling::assert_what_is_printed_has_no_contents(&Cpu);
}

#[test]
fn any_sequence_of_calls() {
    abuse::Part { name: "layer", test: "any_sequence_of_calls", few: 150 }.run(|trial| {
        let dtype = *trial.rng.choice(Dtype::ALL).unwrap();
        with_element!(dtype, T => sequences::run::<Cpu, T>(&Cpu, trial));
    });
}

#[test]
fn a_layer_of_f64_takes_f64() {
    let mut layer = BatchNorm::<_, f64>::with_param_type(Cpu, 2, Options::default()).unwrap();
    let shape = Shape::nc(2, 2).unwrap();
    let (mut saved, mut y) = (layer.saved(shape, Epilogue::IDENTITY).unwrap(), [0.0f64; 4]);
    layer.train(shape, &[0.1, 1.0, 0.3, 5.0], Epilogue::IDENTITY, &mut y, &mut saved).unwrap();
    assert_eq!(saved.mean(), &[0.2, 3.0]);
}

#[test]
fn gradients_that_nobody_needs_leave_the_others() {
    let shapes = [Shape::nchw(2, 3, 4, 4), Shape::nhwc(3, 5, 5, 20), Shape::nc(64, 3)].map(|shape| shape.unwrap());
    unneeded::assert_unneeded_gradients_leave_the_others(&Cpu, &shapes);
}

//! A folded layer gives what the pair gives: a dense layer and a convolution of one pixel, in each order of weights.

use batchnorm::{BatchNorm, Cpu, Epilogue, Layout, Options, Shape, StateDict};

const IN: usize = 4;
const OUT: usize = 3;
const N: usize = 5;
const EPS: f64 = 1e-3;

fn values<const L: usize>(seed: usize) -> [f64; L] {
    core::array::from_fn(|i| ((i * 37 + seed * 11) % 29) as f64 / 7.0 - 2.0)
}

fn state() -> StateDict<f64> {
    let mut state = StateDict::new(OUT, &Options::default()).unwrap();
    state.gamma = Some(vec![1.5, -0.5, 2.0]);
    state.beta = Some(vec![0.25, 0.0, -3.0]);
    let running = state.running.as_mut().unwrap();
    (running.mean, running.var) = (vec![0.5, -1.0, 4.0], vec![2.0, 0.25, 9.0]);
    state
}

/// `y[n][out] = sum over in of x[n][in] * weight(in, out) + bias[out]`
fn dense(x: &[f64], weight: impl Fn(usize, usize) -> f64, bias: &[f64]) -> Vec<f64> {
    let y = |i: usize| (0..IN).map(|k| x[i / OUT * IN + k] * weight(k, i % OUT)).sum::<f64>() + bias[i % OUT];
    (0..N * OUT).map(y).collect()
}

#[track_caller]
fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-12 * (1.0 + want.abs()), "[{i}]: {got}, expected {want}");
    }
}

/// The index of the weight of an input and an output.
type Index = fn(usize, usize) -> usize;

#[test]
fn a_folded_layer_gives_what_the_pair_gives() {
    let x: [f64; N * IN] = values(1);
    let out_in: Index = |i, o| o * IN + i;
    let in_out: Index = |i, o| i * OUT + o;
    let first = Layout::ChannelsFirst;
    let orders: [(Shape, Index); 3] = [
        (Shape::new(&[1, OUT, IN], first).unwrap(), out_in),
        (Shape::nc(IN, OUT).unwrap(), in_out),
        (Shape::new(&[1, IN, OUT], Layout::ChannelsLast).unwrap(), in_out),
    ];
    for options in [Options::default(), Options { gamma: false, beta: false, ..Options::default() }] {
        for (shape, index) in orders {
            let mut state = state();
            state.gamma = state.gamma.filter(|_| options.gamma);
            state.beta = state.beta.filter(|_| options.beta);
            let (mut weight, mut bias): ([f64; IN * OUT], [f64; OUT]) = (values(2), values(3));
            let mut layer = BatchNorm::<_, f64>::with_param_type(Cpu, OUT, Options { eps: EPS, ..options }).unwrap();
            layer.load_state_dict(&state).unwrap();
            let before = dense(&x, |i, o| weight[index(i, o)], &bias);
            let mut pair = vec![0.0; N * OUT];
            layer.infer(Shape::nc(N, OUT).unwrap(), &before, Epilogue::IDENTITY, &mut pair).unwrap();

            state.fold_into(EPS, shape, &mut weight, &mut bias).unwrap();
            close(&dense(&x, |i, o| weight[index(i, o)], &bias), &pair);
        }
    }
}

#[test]
fn of_a_transposed_convolution_the_second_dimension_is_the_output() {
    let shape = Shape::nchw(2, OUT, 1, 2).unwrap(); // [in, out, kernel, kernel]
    let weight: [f64; 2 * OUT * 2] = values(4);
    let (mut folded, mut bias) = (weight, [0.0; OUT]);
    let state = state();
    state.fold_into(EPS, shape, &mut folded, &mut bias).unwrap();
    let running = state.running.as_ref().unwrap();
    let scale = |o: usize| state.gamma.as_ref().unwrap()[o] / (running.var[o] + EPS).sqrt();
    let expected: Vec<f64> = weight.iter().enumerate().map(|(i, weight)| weight * scale(i / 2 % OUT)).collect();
    close(&folded, &expected);
    let expected: Vec<f64> = (0..OUT).map(|o| state.beta.as_ref().unwrap()[o] - running.mean[o] * scale(o)).collect();
    close(&bias, &expected);
}

#[test]
fn a_channel_without_variance_gives_beta() {
    let mut state = state();
    state.running.as_mut().unwrap().var = vec![0.0; OUT];
    let (mut weight, mut bias): ([f64; IN * OUT], [f64; OUT]) = (values(5), values(6));
    state.fold_into(0.0, Shape::nc(IN, OUT).unwrap(), &mut weight, &mut bias).unwrap();
    assert_eq!((weight, bias.as_slice()), ([0.0; IN * OUT], state.beta.as_deref().unwrap()));
}

/// `eps` is added in the type of the statistics, as in a layer: 1e-3 is a little less in f64 than in f32.
#[test]
fn where_running_var_and_eps_cancel_it_gives_beta_and_below_nan() {
    let mut state = StateDict::<f32>::new(2, &Options::default()).unwrap();
    state.running.as_mut().unwrap().var = vec![-1e-3, -1.0];
    state.beta = Some(vec![0.5, 0.25]);
    let (mut weight, mut bias) = ([1.0f32, 2.0], [3.0f32, 4.0]);
    state.fold_into(1e-3, Shape::nc(1, 2).unwrap(), &mut weight, &mut bias).unwrap();
    assert_eq!((weight[0], bias[0]), (0.0, 0.5));
    assert!(weight[1].is_nan() && bias[1].is_nan(), "{weight:?}, {bias:?}");
}

#[test]
fn what_is_refused_changes_nothing() {
    let given: ([f32; IN * OUT], [f32; OUT]) = ([1.0; IN * OUT], [2.0; OUT]);
    let mut at = given;
    let state = state();
    let shape = Shape::nc(IN, OUT).unwrap();
    let mut no_statistics = state.clone();
    no_statistics.running = None;
    let mut short = state.clone();
    short.beta = Some(vec![0.0; 2]);
    let refused = [
        (state.fold_into(-1.0, shape, &mut at.0, &mut at.1), "eps: expected a finite value >= 0, got -1".to_string()),
        (
            state.fold_into(EPS, Shape::nc(IN + 1, OUT).unwrap(), &mut at.0, &mut at.1),
            "weight: expected 15 values, got 12".to_string(),
        ),
        (state.fold_into(EPS, shape, &mut at.0, &mut at.1[..2]), "bias: expected 3 values, got 2".to_string()),
        (short.fold_into(EPS, shape, &mut at.0, &mut at.1), "beta: expected 3 values, got 2".to_string()),
        (
            no_statistics.fold_into(EPS, shape, &mut at.0, &mut at.1),
            "running_mean is missing: folding takes the running statistics, and the layer was built without them"
                .into(),
        ),
    ];
    for (result, text) in refused {
        assert_eq!(result.unwrap_err().to_string(), text);
    }
    assert_eq!(at, given);
}

//! The layer beside candle_nn's, and beside candle's autograd of the composite in f64.

use candle_batchnorm::{BatchNorm, batch_norm};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, ModuleT, VarBuilder, VarMap};

const CPU: Device = Device::Cpu;
const C: usize = 5;
const EPS: f64 = 1e-5;

/// Values that are the same on every run, around `mean`.
fn values(dims: &[usize], mean: f64, seed: u64) -> Tensor {
    let len = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0 + mean as f32
    };
    let values: Vec<f32> = (0..len).map(|_| next()).collect();
    Tensor::from_vec(values, dims, &CPU).unwrap()
}

fn var(t: &Tensor) -> Var {
    Var::from_tensor(t).unwrap()
}

fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(name: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let scale = f64s(want).iter().fold(1.0, |scale: f64, v| scale.max(v.abs()));
    for (i, (got, want)) in f64s(got).into_iter().zip(f64s(want)).enumerate() {
        assert!((got - want).abs() <= tolerance * scale, "{name}[{i}]: {got}, expected {want}");
    }
}

/// A layer with parameters that are not 1 and 0.
struct Setting {
    ours: BatchNorm,
    weight: Var,
    bias: Var,
    mean: Tensor,
    running_var: Tensor,
}

fn setting() -> Setting {
    let (weight, bias) = (var(&values(&[C], 0.5, 1)), var(&values(&[C], 0.1, 2)));
    let (mean, running_var) = (values(&[C], 0.0, 3), values(&[C], 3.0, 4));
    let ours = BatchNorm::new_with_momentum(
        C,
        mean.clone(),
        running_var.clone(),
        weight.as_tensor().clone(),
        bias.as_tensor().clone(),
        EPS,
        0.2,
    );
    Setting { ours: ours.unwrap(), weight, bias, mean, running_var }
}

/// The formula in candle's own operations in f64, for its autograd.
struct Composite {
    x: Var,
    z: Var,
    weight: Var,
    bias: Var,
}

impl Composite {
    fn of(setting: &Setting, x: &Tensor, z: &Tensor) -> Self {
        let f64 = |t: &Tensor| var(&t.to_dtype(DType::F64).unwrap());
        Self { x: f64(x), z: f64(z), weight: f64(&setting.weight), bias: f64(&setting.bias) }
    }

    fn forward(&self, setting: &Setting, train: bool) -> Result<Tensor> {
        let x = self.x.as_tensor();
        let channels: Vec<usize> = (0..x.rank()).map(|i| if i == 1 { C } else { 1 }).collect();
        let all_but: Vec<usize> = (0..x.rank()).filter(|i| *i != 1).collect();
        let (mean, variance) = if train {
            let mean = x.mean_keepdim(all_but.as_slice())?;
            let variance = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(all_but.as_slice())?;
            (mean, variance)
        } else {
            let of = |t: &Tensor| t.to_dtype(DType::F64)?.reshape(channels.as_slice());
            (of(&setting.mean)?, of(&setting.running_var)?)
        };
        let normalized = x.broadcast_sub(&mean)?.broadcast_div(&(variance + EPS)?.sqrt()?)?;
        let weight = self.weight.reshape(channels.as_slice())?;
        normalized.broadcast_mul(&weight)?.broadcast_add(&self.bias.reshape(channels.as_slice())?)
    }
}

type Fused = (&'static str, bool, bool);
/// Name, whether there is a residual, whether there is a relu.
const FUSED: [Fused; 4] =
    [("identity", false, false), ("relu", false, true), ("add", true, false), ("add_relu", true, true)];

fn run(ours: &BatchNorm, fused: Fused, x: &Tensor, z: &Tensor, train: bool) -> Result<Tensor> {
    match fused.0 {
        "relu" => ours.relu(x, train),
        "add" => ours.add(x, z, train),
        "add_relu" => ours.add_relu(x, z, train),
        _ => ours.forward_t(x, train),
    }
}

#[test]
fn every_form_has_the_values_and_gradients_of_the_composite() {
    for dims in [&[6, C][..], &[3, C, 7], &[2, C, 4, 3], &[2, C, 2, 3, 2], &[2, C, 2, 1, 3, 2]] {
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F16, 2e-3), (DType::BF16, 1.6e-2)] {
            for fused in FUSED {
                for train in [true, false] {
                    let setting = setting();
                    let [x, z, weights] = [5, 6, 7].map(|seed| values(dims, 0.3, seed).to_dtype(dtype).unwrap());
                    let name = format!("{dims:?} {dtype:?} {} train={train}", fused.0);

                    let (x_var, z_var) = (var(&x), var(&z));
                    let y = run(&setting.ours, fused, &x_var, &z_var, train).unwrap();
                    assert!(y.is_contiguous() && y.dtype() == dtype && y.dims() == dims, "{name}");
                    let grads = (&y * &weights).unwrap().sum_all().unwrap().backward().unwrap();

                    let truth = Composite::of(&setting, &x, &z);
                    let mut expected = truth.forward(&setting, train).unwrap();
                    if fused.1 {
                        expected = (expected + truth.z.as_tensor()).unwrap();
                    }
                    // By the mask of what was stored: where y is close to zero, rounding decides.
                    if fused.2 {
                        let mask = y.to_dtype(DType::F64).unwrap().gt(0.0).unwrap().to_dtype(DType::F64).unwrap();
                        expected = (expected * mask).unwrap();
                    }
                    close(&format!("{name}: y"), &y, &expected, tolerance);
                    let dy = weights.to_dtype(DType::F64).unwrap();
                    let wanted = (expected * dy).unwrap().sum_all().unwrap().backward().unwrap();
                    let pairs = [
                        ("dx", x_var.as_tensor(), truth.x.as_tensor()),
                        ("dweight", setting.weight.as_tensor(), truth.weight.as_tensor()),
                        ("dbias", setting.bias.as_tensor(), truth.bias.as_tensor()),
                    ];
                    for (what, ours, theirs) in pairs {
                        let (got, want) = (grads.get(ours).unwrap(), wanted.get(theirs).unwrap());
                        assert_eq!(got.dtype(), ours.dtype(), "{name}: {what}");
                        close(&format!("{name}: {what}"), got, want, 2.0 * tolerance);
                    }
                    let (dz, expected) = (grads.get(&z_var), wanted.get(&truth.z));
                    assert_eq!(dz.is_some(), fused.1, "{name}");
                    if let (Some(dz), Some(expected)) = (dz, expected) {
                        close(&format!("{name}: dz"), dz, expected, tolerance);
                    }
                }
            }
        }
    }
}

#[test]
fn f64_has_statistics_in_f64() -> Result<()> {
    let vars = VarMap::new();
    let ours = batch_norm(C, 1e-5, VarBuilder::from_varmap(&vars, DType::F64, &CPU))?;
    let x = values(&[4, C, 3], 1000.0, 8).to_dtype(DType::F64)?;
    let y = ours.forward_t(&x, true)?;
    assert_eq!((y.dtype(), ours.running_mean().dtype()), (DType::F64, DType::F64));
    let theirs = candle_nn::batch_norm(C, 1e-5, VarBuilder::from_varmap(&VarMap::new(), DType::F64, &CPU))?;
    close("y", &y, &theirs.forward_t(&x, true)?, 1e-10);
    close("running_var", ours.running_var(), theirs.running_var(), 1e-10);
    Ok(())
}

#[test]
fn candle_nn_can_be_replaced_and_its_weights_load() -> Result<()> {
    let (theirs_vars, ours_vars) = (VarMap::new(), VarMap::new());
    let theirs_vb = VarBuilder::from_varmap(&theirs_vars, DType::F32, &CPU);
    let ours_vb = VarBuilder::from_varmap(&ours_vars, DType::F32, &CPU);
    let theirs = candle_nn::batch_norm(C, 1e-3, theirs_vb.pp("bn"))?;
    let ours = batch_norm(C, 1e-3, ours_vb.pp("bn"))?;
    for step in 0..3 {
        let x = values(&[4, C, 3, 3], 2.0, 10 + step);
        close("y in training", &ours.forward_t(&x, true)?, &theirs.forward_t(&x, true)?, 1e-5);
    }
    close("running_mean", ours.running_mean(), theirs.running_mean(), 1e-6);
    close("running_var", ours.running_var(), theirs.running_var(), 1e-6);
    let x = values(&[4, C, 3, 3], 2.0, 20);
    close("y in inference", &ours.forward_t(&x, false)?, &theirs.forward_t(&x, false)?, 1e-5);
    close("y of the module", &ours.inference().forward(&x)?, &theirs.forward_t(&x, false)?, 1e-5);

    // The names are the same, and the statistics under them are the ones that moved.
    let names = |vars: &VarMap| {
        let mut names: Vec<String> = vars.data().lock().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours_vars), names(&theirs_vars));
    let stored = ours_vars.data().lock().unwrap()["bn.running_mean"].as_tensor().clone();
    assert_eq!(f64s(&stored), f64s(ours.running_mean()));
    assert!(f64s(&stored).iter().all(|mean| *mean > 0.3), "{stored}");

    let file = std::env::temp_dir().join(format!("candle-batchnorm-{}.safetensors", std::process::id()));
    theirs_vars.save(&file)?;
    let mut loaded_vars = VarMap::new();
    let loaded = batch_norm(C, 1e-3, VarBuilder::from_varmap(&loaded_vars, DType::F32, &CPU).pp("bn"))?;
    loaded_vars.load(&file)?;
    close("y of loaded weights", &loaded.forward_t(&x, false)?, &theirs.forward_t(&x, false)?, 1e-5);
    ours_vars.save(&file)?;
    // SAFETY: nobody else writes the file of this process.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &CPU)? };
    let back = candle_nn::batch_norm(C, 1e-3, vb.pp("bn"))?;
    close("y of candle_nn with our weights", &back.forward_t(&x, false)?, &ours.forward_t(&x, false)?, 1e-5);
    std::fs::remove_file(&file)?;
    Ok(())
}

#[test]
fn half_trains_and_evaluates_where_candle_nn_does_one_of_them() -> Result<()> {
    let x = values(&[4, C, 3, 3], 0.0, 30).to_dtype(DType::F16)?;
    let vb = |dtype| VarBuilder::from_varmap(&VarMap::new(), dtype, &CPU);
    let trains_only = candle_nn::batch_norm(C, 1e-5, vb(DType::F32))?;
    assert!(trains_only.forward_t(&x, false).is_err());
    let evaluates_only = candle_nn::batch_norm(C, 1e-5, vb(DType::F16))?;
    assert!(evaluates_only.forward_t(&x, true).is_err());
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let ours = batch_norm(C, 1e-5, vb(dtype))?;
        assert_eq!((ours.running_var().dtype(), ours.weight_and_bias().unwrap().0.dtype()), (DType::F32, DType::F32));
        for train in [true, false] {
            assert_eq!(ours.forward_t(&x, train)?.dtype(), DType::F16);
        }
    }
    Ok(())
}

#[test]
fn one_value_a_channel_is_an_error_where_candle_nn_gives_nan() -> Result<()> {
    let x = values(&[1, C], 0.0, 31);
    let theirs = candle_nn::batch_norm(C, 1e-5, VarBuilder::from_varmap(&VarMap::new(), DType::F32, &CPU))?;
    theirs.forward_t(&x, true)?;
    assert!(f64s(theirs.running_var()).iter().any(|v| v.is_nan()), "{}", theirs.running_var());

    let setting = setting();
    let error = setting.ours.forward_t(&x, true).unwrap_err().to_string();
    assert!(error.contains("expected at least 2 values per channel"), "{error}");
    assert_eq!(f64s(setting.ours.running_mean()), f64s(&setting.mean));
    assert_eq!(f64s(setting.ours.running_var()), f64s(&setting.running_var));
    setting.ours.forward_t(&x, false)?;
    Ok(())
}

#[test]
fn what_is_not_contiguous_is_read_by_its_strides() -> Result<()> {
    for train in [true, false] {
        let x = values(&[2, 3, 4, C], 0.0, 40).permute((0, 3, 1, 2))?; // Channels-last in memory.
        let z = values(&[2, 4, 3, C], 0.0, 41).permute((0, 3, 2, 1))?;
        let within = values(&[6, C, 3, 4], 0.0, 42).narrow(0, 2, 2)?;
        assert!(!x.is_contiguous() && within.is_contiguous());
        for (x, z) in [(&x, &z), (&within, &x), (&x, &within)] {
            let got = setting().ours.add_relu(x, z, train)?;
            let want = setting().ours.add_relu(&x.copy()?.force_contiguous()?, &z.force_contiguous()?, train)?;
            assert!(got.is_contiguous());
            assert_eq!(f64s(&got), f64s(&want));
        }
        // And gradients go back the same way.
        let (base, dy) = (var(&values(&[2, 3, 4, C], 0.0, 43)), values(&[2, C, 3, 4], 0.0, 44));
        let packed = var(&base.permute((0, 3, 1, 2))?.force_contiguous()?);
        let step = |x: &Tensor| (setting().ours.relu(x, train)? * &dy)?.sum_all()?.backward();
        let (strided, dense) = (step(&base.permute((0, 3, 1, 2))?)?, step(&packed)?);
        let (got, want) = (strided.get(&base).unwrap(), dense.get(&packed).unwrap());
        assert_eq!(f64s(&got.permute((0, 3, 1, 2))?), f64s(want));
    }
    Ok(())
}

#[test]
fn inference_keeps_the_statistics_that_it_saw_for_its_backward_pass() -> Result<()> {
    let (setting, x) = (setting(), var(&values(&[4, C, 3], 0.0, 50)));
    let y = setting.ours.relu(&x, false)?;
    setting.ours.forward_t(&values(&[4, C, 3], 9.0, 51), true)?; // Moves the running statistics.
    let late = y.sum_all()?.backward()?;
    let fresh = self::setting();
    let soon = fresh.ours.relu(&x, false)?.sum_all()?.backward()?;
    assert_eq!(f64s(late.get(&x).unwrap()), f64s(soon.get(&x).unwrap()));
    assert_ne!(f64s(setting.ours.running_mean()), f64s(fresh.ours.running_mean()));
    Ok(())
}

#[test]
fn a_graph_can_be_walked_twice_and_a_layer_used_twice_in_it() -> Result<()> {
    let (setting, x) = (setting(), var(&values(&[4, C, 3], 0.0, 60)));
    let y = setting.ours.forward_t(&setting.ours.relu(&x, true)?, true)?;
    let loss = y.sqr()?.sum_all()?;
    let [first, second] = [loss.backward()?, loss.backward()?];
    let dx = first.get(&x).unwrap();
    assert_eq!(f64s(dx), f64s(second.get(&x).unwrap()));
    assert!(!dx.track_op(), "a gradient of second order would be wrong, so there is none");
    Ok(())
}

#[test]
fn nothing_is_kept_for_a_backward_pass_that_cannot_come() -> Result<()> {
    let vb = VarBuilder::zeros(DType::F32, &CPU);
    let config = candle_batchnorm::BatchNormConfig { affine: false, ..Default::default() };
    let ours = batch_norm(C, config, vb)?;
    assert!(ours.weight_and_bias().is_none());
    let x = values(&[4, C, 3], 0.0, 70);
    for train in [true, false] {
        assert!(!ours.add_relu(&x, &x, train)?.track_op());
    }
    // Without parameters gradients flow to x alone.
    let x = var(&x);
    let grads = ours.add_relu(&x, &x, true)?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_some());
    Ok(())
}

#[test]
fn empty_batches_move_nothing() -> Result<()> {
    let setting = setting();
    for dims in [&[0, C, 3][..], &[2, C, 0]] {
        let x = Tensor::zeros(dims, DType::F32, &CPU)?;
        for train in [true, false] {
            assert_eq!(setting.ours.relu(&x, train)?.dims(), dims);
        }
    }
    assert_eq!(f64s(setting.ours.running_mean()), f64s(&setting.mean));
    Ok(())
}

#[test]
fn refusals_say_expected_and_actual_and_change_nothing() -> Result<()> {
    let setting = setting();
    let ours = &setting.ours;
    let x = values(&[2, C, 3], 0.0, 80);
    let text = |result: Result<Tensor>| result.unwrap_err().to_string();
    let refused = [
        (text(ours.forward_t(&values(&[C], 0.0, 1), true)), "expected x of at least 2 dimensions"),
        (text(ours.forward_t(&values(&[2, 4], 0.0, 1), true)), "expected x of 5 channels, [n, 5, ...], got [2, 4]"),
        (text(ours.forward_t(&x.to_dtype(DType::U32)?, true)), "expected x in f32, f16 or bf16"),
        (text(ours.forward_t(&x.to_dtype(DType::F64)?, true)), "expected x in f32, f16 or bf16"),
        (text(ours.add(&x, &values(&[2, C], 0.0, 1), true)), "[2, 5, 3], got: [2, 5]"),
        (text(ours.add(&x, &x.to_dtype(DType::F16)?, true)), "dtype mismatch"),
        // Would wait for itself for ever.
        (text(ours.forward_t(&ours.running_mean().reshape((1, C))?, true)), "x in memory of its own"),
        (
            text(ours.add(&x.narrow(2, 0, 1)?.narrow(0, 0, 1)?, &ours.running_var().reshape((1, C, 1))?, true)),
            "the residual in memory",
        ),
    ];
    for (text, part) in refused {
        assert!(text.contains(part), "{text:?} has no {part:?}");
    }
    assert_eq!(f64s(ours.running_mean()), f64s(&setting.mean));

    let vb = || VarBuilder::zeros(DType::F32, &CPU);
    let config = candle_batchnorm::BatchNormConfig::default();
    let of = |t: &Tensor, u: &Tensor| BatchNorm::new_no_bias(C, t.clone(), u.clone(), 1e-5);
    let (ones, half) = (Tensor::ones(C, DType::F32, &CPU)?, Tensor::ones(C, DType::F16, &CPU)?);
    let shared = Var::ones(C, DType::F32, &CPU)?;
    let refused = [
        (batch_norm(C, -1e-5, vb()), "a finite eps of at least 0, got -0.00001"),
        (batch_norm(C, f64::NAN, vb()), "a finite eps of at least 0, got NaN"),
        (batch_norm(0, 1e-5, vb()), "at least 1 feature, got 0"),
        (batch_norm(C, candle_batchnorm::BatchNormConfig { momentum: 1.5, ..config }, vb()), "from 0 to 1, got 1.5"),
        (batch_norm(C, candle_batchnorm::BatchNormConfig { remove_mean: false, ..config }, vb()), "remove_mean"),
        (of(&ones, &Tensor::ones(4, DType::F32, &CPU)?), "running_var of shape [5], got [4]"),
        (of(&half, &half), "running_mean in f32 or f64, got f16"),
        (of(&ones, &half), "running_var in f32, as running_mean, got f16"),
        (of(&shared, &shared), "running_var in memory of its own, got that of running_mean"),
    ];
    for (result, part) in refused {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(part), "{text:?} has no {part:?}");
    }
    Ok(())
}

#[test]
fn threads_can_share_a_layer() {
    let setting = setting();
    let x = values(&[16, C, 20, 20], 1.0, 90);
    let expected = f64s(&setting.ours.forward_t(&x, true).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ours, x, expected) = (setting.ours.clone(), &x, &expected);
            scope.spawn(move || {
                for step in 0..20 {
                    if (step + thread) % 3 == 0 {
                        ours.forward_t(x, false).unwrap();
                    } else {
                        let x = var(x);
                        let y = ours.forward_t(&x, true).unwrap();
                        assert_eq!(&f64s(&y), expected);
                        y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn folded_layers_give_what_the_pairs_give() -> Result<()> {
    use candle_nn::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, Linear};
    let setting = setting();
    let norm = setting.ours.inference();
    for bias in [Some(values(&[C], 0.0, 100)), None] {
        let conv = Conv2d::new(
            values(&[C, 2, 3, 3], 0.0, 101),
            bias.clone(),
            Conv2dConfig { padding: 1, ..Conv2dConfig::default() },
        );
        let x = values(&[2, 2, 4, 5], 0.0, 102);
        close("conv2d", &setting.ours.fold_conv2d(&conv)?.forward(&x)?, &norm.forward(&conv.forward(&x)?)?, 1e-5);

        let conv = Conv1d::new(values(&[C, 2, 3], 0.0, 103), bias.clone(), Conv1dConfig::default());
        let x = values(&[2, 2, 6], 0.0, 104);
        close("conv1d", &setting.ours.fold_conv1d(&conv)?.forward(&x)?, &norm.forward(&conv.forward(&x)?)?, 1e-5);

        let linear = Linear::new(values(&[C, 4], 0.0, 105), bias);
        let x = values(&[3, 4], 0.0, 106);
        close("linear", &setting.ours.fold_linear(&linear)?.forward(&x)?, &norm.forward(&linear.forward(&x)?)?, 1e-5);
    }
    let other = setting.ours.fold_linear(&Linear::new(values(&[4, C], 0.0, 1), None)).unwrap_err().to_string();
    assert!(other.contains("a layer of 5 outputs to fold into, got 4"), "{other}");
    let half = setting.ours.fold_linear(&Linear::new(values(&[C, 4], 0.0, 1).to_dtype(DType::F16)?, None))?;
    assert_eq!((half.weight().dtype(), half.bias().unwrap().dtype()), (DType::F16, DType::F16));
    Ok(())
}

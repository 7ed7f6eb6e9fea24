//! Values and gradients compared with candle's autograd of the composite in f64.

use batchnorm::{Dtype, Epilogue};
use candle_batchnorm::{BatchNorm, batch_norm};
use candle_core::{DType, Result, Tensor};
use candle_nn::{Module, ModuleT, VarBuilder, VarMap};

use crate::{C, CPU, Composite, activated, close, f64s, run, setting, values, var};

#[test]
fn every_form_has_the_values_and_gradients_of_the_composite() {
    for dims in [&[6, C][..], &[3, C, 7], &[2, C, 4, 3], &[2, C, 2, 3, 2], &[2, C, 2, 1, 3, 2]] {
        for &dtype in Dtype::ALL {
            let tolerance = match dtype {
                Dtype::F32 => 2e-6,
                Dtype::F16 => 2e-3,
                Dtype::Bf16 => 1.6e-2,
                Dtype::F64 => continue, // A test of its own: the statistics are in f64 too.
                other => panic!("a tolerance for {other}"),
            };
            let dtype: DType = dtype.name().parse().unwrap();
            for &epilogue in Epilogue::ALL {
                for train in [true, false] {
                    let setting = setting();
                    let [x, z, weights] = [5, 6, 7].map(|seed| values(dims, 0.3, seed).to_dtype(dtype).unwrap());
                    let name = format!("{dims:?} {dtype:?} {} train={train}", epilogue.name());

                    let (x_var, z_var) = (var(&x), var(&z));
                    let y = run(&setting.ours, epilogue, &x_var, &z_var, train).unwrap();
                    assert!(y.is_contiguous() && y.dtype() == dtype && y.dims() == dims, "{name}");
                    let grads = (&y * &weights).unwrap().sum_all().unwrap().backward().unwrap();

                    let truth = Composite::of(&setting, &x, &z);
                    let mut expected = truth.forward(&setting, train).unwrap();
                    if epilogue.residual().is_some() {
                        expected = (expected + truth.z.as_tensor()).unwrap();
                    }
                    expected = activated(epilogue.activation(), &expected).unwrap();
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
                    assert_eq!(dz.is_some(), epilogue.residual().is_some(), "{name}");
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
    // Gradients flow to x alone without parameters.
    let x = var(&x);
    let grads = ours.add_relu(&x, &x, true)?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_some());
    Ok(())
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
    // Nothing to divide by: the layer gives its bias.
    let zeros = || Tensor::zeros(C, DType::F32, &CPU);
    let still = BatchNorm::new(C, zeros()?, zeros()?, values(&[C], 1.0, 107), values(&[C], 1.0, 108), 0.0)?;
    let (linear, x) = (Linear::new(values(&[C, 4], 0.0, 105), None), values(&[3, 4], 0.0, 106));
    close("still", &still.fold_linear(&linear)?.forward(&x)?, &still.forward_t(&linear.forward(&x)?, false)?, 0.0);
    let half = setting.ours.fold_linear(&Linear::new(values(&[C, 4], 0.0, 1).to_dtype(DType::F16)?, None))?;
    assert_eq!((half.weight().dtype(), half.bias().unwrap().dtype()), (DType::F16, DType::F16));
    Ok(())
}

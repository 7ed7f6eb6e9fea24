//! The layer as something else: candle_nn's, two vectors to fold by hand; and weights of one model in another.

use std::path::PathBuf;

use candle_batchnorm::{BatchNorm, batch_norm};
use candle_core::{DType, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module, ModuleT, VarBuilder, VarMap};

use crate::{C, CPU, EPS, close, f64s, setting, values};

fn conv(seed: u64) -> Conv2d {
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    Conv2d::new(values(&[C, 2, 3, 3], 0.0, seed), Some(values(&[C], 0.0, seed + 1)), config)
}

#[test]
fn candle_nns_convolution_absorbs_the_layer() -> Result<()> {
    let ours = setting().ours;
    let (conv, x) = (conv(120), values(&[2, 2, 4, 5], 0.0, 122));
    let absorbed = conv.absorb_bn(&ours.to_candle_nn()?)?;
    close("y", &absorbed.forward(&x)?, &ours.forward_t(&conv.forward(&x)?, false)?, 1e-5);
    close("y folded", &absorbed.forward(&x)?, &ours.fold_conv2d(&conv)?.forward(&x)?, 1e-5);

    // In half candle_nn multiplies in the dtype of the convolution.
    let half = |t: &Tensor| t.to_dtype(DType::F16);
    let narrow = Conv2d::new(half(conv.weight())?, conv.bias().map(half).transpose()?, *conv.config());
    let text = narrow.absorb_bn(&ours.to_candle_nn()?).unwrap_err().to_string();
    assert!(text.contains("dtype mismatch"), "{text}");
    let absorbed = narrow.absorb_bn(&ours.to_candle_nn_in(DType::F16)?)?;
    assert_eq!(absorbed.weight().dtype(), DType::F16);
    close("y in f16", &absorbed.forward(&half(&x)?)?, &ours.forward_t(&conv.forward(&x)?, false)?, 2e-2);
    Ok(())
}

#[test]
fn candle_nns_layer_shares_what_has_its_dtype() -> Result<()> {
    let setting = setting();
    let x = values(&[4, C, 3], 0.0, 123);
    let theirs = setting.ours.to_candle_nn()?;
    assert_eq!((theirs.eps(), theirs.momentum()), (EPS, 0.2));
    close("y", &theirs.forward_t(&x, false)?, &setting.ours.forward_t(&x, false)?, 1e-5);
    let copy = setting.ours.to_candle_nn_in(DType::F64)?;
    setting.ours.forward_t(&x, true)?;
    setting.weight.set(&values(&[C], 0.5, 124))?;
    assert_eq!(f64s(theirs.running_var()), f64s(setting.ours.running_var()));
    assert_eq!(f64s(theirs.weight_and_bias().unwrap().0), f64s(&setting.weight));
    assert_eq!((copy.running_mean().dtype(), f64s(copy.running_mean())), (DType::F64, f64s(&setting.mean)));
    assert!(!copy.weight_and_bias().unwrap().0.track_op());
    // Gradients reach the shared weight.
    let gradients = theirs.forward_t(&x, false)?.sqr()?.sum_all()?.backward()?;
    assert!(gradients.get(&setting.weight).is_some());

    let plain = BatchNorm::new_no_bias(C, setting.mean.clone(), setting.running_var.clone(), 1e-3)?;
    let theirs = plain.to_candle_nn()?;
    assert!(theirs.weight_and_bias().is_none());
    close("y without weight", &theirs.forward_t(&x, false)?, &plain.forward_t(&x, false)?, 1e-5);
    Ok(())
}

#[test]
fn scale_and_shift_are_the_layer_in_inference() -> Result<()> {
    let ours = setting().ours;
    let x = values(&[4, C], 0.0, 125);
    let affine = |x: &Tensor, (scale, shift): (Tensor, Tensor)| x.broadcast_mul(&scale)?.broadcast_add(&shift);
    close("y", &affine(&x, ours.scale_and_shift(DType::F32)?)?, &ours.forward_t(&x, false)?, 1e-5);
    let half = x.to_dtype(DType::BF16)?;
    let y = affine(&half, ours.scale_and_shift(DType::BF16)?)?;
    assert_eq!(y.dtype(), DType::BF16);
    close("y in bf16", &y, &ours.forward_t(&half, false)?, 4e-2);
    let (scale, shift) = ours.scale_and_shift(DType::F64)?;
    assert!(!scale.track_op() && !shift.track_op());

    // A branch without a convolution, as in RepVGG and MobileOne: a kernel that is 1 in the middle of its own channel.
    let x = values(&[2, C, 4, 5], 0.0, 126);
    let (scale, shift) = ours.scale_and_shift(DType::F32)?;
    let identity = Tensor::eye(C, DType::F32, &CPU)?.reshape((C, C, 1, 1))?.pad_with_zeros(2, 1, 1)?;
    let kernel = identity.pad_with_zeros(3, 1, 1)?.broadcast_mul(&scale.reshape((C, 1, 1, 1))?)?;
    let branch = Conv2d::new(kernel, Some(shift), *conv(0).config());
    close("branch", &branch.forward(&x)?, &ours.forward_t(&x, false)?, 1e-5);

    // Nothing to divide by: the layer gives its bias.
    let zeros = || Tensor::zeros(C, DType::F32, &CPU);
    let still = BatchNorm::new(C, zeros()?, zeros()?, values(&[C], 1.0, 127), values(&[C], 1.0, 128), 0.0)?;
    let (scale, shift) = still.scale_and_shift(DType::F32)?;
    assert_eq!((f64s(&scale), f64s(&shift)), (vec![0.0; C], f64s(&values(&[C], 1.0, 128))));

    let text = ours.scale_and_shift(DType::U32).unwrap_err().to_string();
    assert!(text.contains("expected a dtype of floats for scale and shift, got U32"), "{text}");
    Ok(())
}

/// A file of this process that is removed at the end.
struct File(PathBuf);

impl File {
    fn named(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("candle-batchnorm-{name}-{}.safetensors", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

#[test]
fn weights_load_across_in_every_dtype() -> Result<()> {
    let x = values(&[4, C, 3], 2.0, 130);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let file = File::named(dtype.as_str());
        let x = x.to_dtype(dtype)?;
        let map = || {
            let vars = VarMap::new();
            let vb = VarBuilder::from_varmap(&vars, dtype, &CPU).pp("bn");
            (vars, vb)
        };
        // A linear layer keeps the dtype in both.
        let (mut theirs_vars, vb) = map();
        let theirs = candle_nn::batch_norm(C, 1e-3, vb.clone())?;
        candle_nn::linear(2, 3, vb.pp("linear"))?;
        let names = ["running_mean", "running_var", "weight", "bias"];
        for (name, seed) in names.into_iter().zip(131..) {
            theirs_vars.set_one(format!("bn.{name}"), values(&[C], 3.0, seed).to_dtype(dtype)?)?;
        }
        theirs_vars.save(&file.0)?;

        let (mut ours_vars, vb) = map();
        let ours = batch_norm(C, 1e-3, vb.clone())?;
        candle_nn::linear(2, 3, vb.pp("linear"))?;
        let is_half = matches!(dtype, DType::F16 | DType::BF16);
        assert_eq!(ours_vars.load(&file.0).is_err(), is_half, "candle's own loads what has one dtype");
        candle_batchnorm::load(&ours_vars, &file.0)?;
        assert_eq!(f64s(ours.running_mean()), f64s(theirs.running_mean()));
        let tolerance = if is_half { 4e-2 } else { 1e-5 }; // candle_nn rounds each of its operations
        close("y", &ours.forward_t(&x, false)?, &theirs.forward_t(&x, false)?, tolerance);

        // And back, into variables that are not yet those of the file.
        ours_vars.save(&file.0)?;
        let (mut back_vars, vb) = map();
        let back = candle_nn::batch_norm(C, 1e-3, vb.clone())?;
        candle_nn::linear(2, 3, vb.pp("linear"))?;
        assert_eq!(back_vars.load(&file.0).is_err(), is_half);
        candle_batchnorm::load(&back_vars, &file.0)?;
        let back_vars = back_vars.data().lock().unwrap();
        for (name, theirs) in &*theirs_vars.data().lock().unwrap() {
            assert_eq!(f64s(&back_vars[name]), f64s(theirs), "{name} in {dtype:?}");
        }
        assert_eq!(f64s(&back.forward_t(&x, false)?), f64s(&theirs.forward_t(&x, false)?));
    }
    Ok(())
}

#[test]
fn a_file_that_does_not_fit_changes_nothing() -> Result<()> {
    let file = File::named("refused");
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &CPU);
    let ours = batch_norm(C, 1e-3, vb)?;
    let refused = [
        ("bias", None, "expected a tensor bias in"),
        ("running_var", Some(values(&[C + 1], 1.0, 140)), "expected running_var of shape [5]"),
        ("weight", Some(Tensor::zeros(C, DType::U32, &CPU)?), "expected weight in F32"),
    ];
    for (name, value, part) in refused {
        let names = ["running_mean", "running_var", "weight", "bias"].into_iter();
        let mut tensors: std::collections::HashMap<_, _> =
            names.map(|name| (name, values(&[C], 4.0, 141).to_dtype(DType::F16).unwrap())).collect();
        match value {
            Some(value) => drop(tensors.insert(name, value)),
            None => drop(tensors.remove(name)),
        }
        candle_core::safetensors::save(&tensors, &file.0)?;
        let text = candle_batchnorm::load(&vars, &file.0).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains(", got "), "{text:?} has no {part:?}");
        assert_eq!((f64s(ours.running_mean()), f64s(ours.running_var())), (vec![0.0; C], vec![1.0; C]));
        assert_eq!(f64s(ours.weight_and_bias().unwrap().0), [1.0; C]);
    }
    let text = candle_batchnorm::load(&vars, file.0.with_extension("none")).unwrap_err().to_string();
    assert!(text.contains("candle-batchnorm-refused") && text.contains("No such file"), "{text}");
    Ok(())
}
